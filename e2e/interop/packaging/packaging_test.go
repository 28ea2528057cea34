// Package packaging_test tests the YAML files of the packaging.
package packaging_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// root is the directory of the checkout.
const root = "../../.."

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestComposeHoldsTogether: services, files and variables that the compose file
// refers to are there.
func TestComposeHoldsTogether(t *testing.T) {
	const dir = "packaging/compose"
	text := read(t, dir+"/compose.yaml")
	var c struct {
		Services map[string]struct {
			Image     string
			Build     struct{ Context string }
			Volumes   []string
			DependsOn map[string]struct{ Condition string } `yaml:"depends_on"`
			Check     struct{ Test []string }               `yaml:"healthcheck"`
		}
		Volumes map[string]any
	}
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	nodes := 0
	for name, s := range c.Services {
		if s.Build.Context != "" {
			nodes++
			if _, err := os.Stat(filepath.Join(root, dir, s.Build.Context, "Dockerfile")); err != nil {
				t.Errorf("%s is built from nothing: %v", name, err)
			}
		} else if !strings.Contains(s.Image, ":") {
			t.Errorf("%s has the image %q, which names no version", name, s.Image)
		}
		for other, d := range s.DependsOn {
			if o, ok := c.Services[other]; !ok {
				t.Errorf("%s depends on %s, which is no service", name, other)
			} else if d.Condition == "service_healthy" && len(o.Check.Test) == 0 {
				t.Errorf("%s waits for %s to be healthy, which has no check", name, other)
			}
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(source, ".") {
				read(t, dir+"/"+source)
			} else if _, ok := c.Volumes[source]; !ok {
				t.Errorf("%s mounts %s, which is no volume", name, source)
			}
		}
	}
	if nodes != 3 {
		t.Errorf("it has %d nodes, want 3", nodes)
	}
	balancer := read(t, dir+"/Caddyfile.balancer")
	for name, s := range c.Services {
		if s.Build.Context != "" && !strings.Contains(balancer, name) {
			t.Errorf("the balancer knows nothing of %s", name)
		}
	}
	example := read(t, dir+"/example.env")
	for _, m := range regexp.MustCompile(`\$\{([A-Z_]+)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(example, "\n"+m[1]+"=") {
			t.Errorf("example.env has no %s", m[1])
		}
	}
}

// TestReleaseTakesFilesThatExist: what goreleaser puts into the archives.
func TestReleaseTakesFilesThatExist(t *testing.T) {
	var c struct {
		Builds   []struct{ Main string }
		Archives []struct{ Files []string }
	}
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Builds) != 1 || len(c.Archives) != 1 {
		t.Fatalf("it has %d builds and %d archives", len(c.Builds), len(c.Archives))
	}
	for _, file := range append(c.Archives[0].Files, c.Builds[0].Main) {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
}
