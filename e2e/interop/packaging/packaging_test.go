// Package packaging_test tests the YAML files of the packaging.
package packaging_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// service is a service of a compose file.
type service struct {
	Image     string
	Build     struct{ Context string }
	Volumes   []string
	DependsOn map[string]struct{ Condition string } `yaml:"depends_on"`
	Check     struct{ Test []string }               `yaml:"healthcheck"`
}

// composeFiles are the directories of the compose files, with their numbers of nodes.
var composeFiles = map[string]int{"packaging/compose": 3, "packaging/compose-single": 1}

// readCompose returns the text of a compose file, its services and its volumes.
func readCompose(t *testing.T, dir string) (text string, services map[string]service, volumes map[string]any) {
	t.Helper()
	var c struct {
		Services map[string]service
		Volumes  map[string]any
	}
	text = read(t, dir+"/compose.yaml")
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return text, c.Services, c.Volumes
}

// TestComposeHoldsTogether: services, files and variables that a compose file refers to
// are there.
func TestComposeHoldsTogether(t *testing.T) {
	for dir, want := range composeFiles {
		text, services, volumes := readCompose(t, dir)
		nodes := 0
		for name, s := range services {
			if s.Build.Context != "" {
				nodes++
				if _, err := os.Stat(filepath.Join(root, dir, s.Build.Context, "Dockerfile")); err != nil {
					t.Errorf("%s: %s is built from nothing: %v", dir, name, err)
				}
			} else if !strings.Contains(s.Image, ":") {
				t.Errorf("%s: %s has the image %q, which names no version", dir, name, s.Image)
			}
			for other, d := range s.DependsOn {
				if o, ok := services[other]; !ok {
					t.Errorf("%s: %s depends on %s, which is no service", dir, name, other)
				} else if d.Condition == "service_healthy" && len(o.Check.Test) == 0 {
					t.Errorf("%s: %s waits for %s to be healthy, which has no check", dir, name, other)
				}
			}
			for _, v := range s.Volumes {
				source, _, _ := strings.Cut(v, ":")
				if strings.HasPrefix(source, ".") {
					read(t, dir+"/"+source)
				} else if _, ok := volumes[source]; !ok {
					t.Errorf("%s: %s mounts %s, which is no volume", dir, name, source)
				}
			}
		}
		if nodes != want {
			t.Errorf("%s has %d nodes, want %d", dir, nodes, want)
		}
		example := read(t, dir+"/example.env")
		for _, m := range regexp.MustCompile(`\$\{([A-Z_]+)`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(example, "\n"+m[1]+"=") {
				t.Errorf("%s/example.env has no %s", dir, m[1])
			}
		}
	}
}

// TestComposeIsMonitored: the balancer and Prometheus know each node, and Grafana knows
// Prometheus and the dashboard.
func TestComposeIsMonitored(t *testing.T) {
	const dir = "packaging/compose"
	_, services, _ := readCompose(t, dir)
	balancer, caddyfile := read(t, dir+"/Caddyfile.balancer"), read(t, dir+"/Caddyfile")
	var prometheus struct {
		Rules   []string `yaml:"rule_files"`
		Scrapes []struct {
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(read(t, dir+"/prometheus.yml")), &prometheus); err != nil {
		t.Fatal(err)
	}
	if len(prometheus.Scrapes) != 1 || len(prometheus.Scrapes[0].Static) != 1 {
		t.Fatalf("Prometheus scrapes %+v", prometheus.Scrapes)
	}
	targets := prometheus.Scrapes[0].Static[0].Targets
	nodes := 0
	for name, s := range services {
		if s.Build.Context == "" {
			continue
		}
		nodes++
		if !strings.Contains(balancer, name) {
			t.Errorf("the balancer knows nothing of %s", name)
		}
		if !slices.Contains(targets, name+":2020") {
			t.Errorf("Prometheus does not scrape %s, but %q", name, targets)
		}
	}
	if len(targets) != nodes || !strings.Contains(caddyfile, "\n:2020 {\n\tmetrics\n}") {
		t.Errorf("Prometheus scrapes %q, which the Caddyfile of %d nodes does not serve", targets, nodes)
	}
	mounted := func(service, path string) bool {
		return slices.ContainsFunc(services[service].Volumes, func(v string) bool { return strings.Contains(v, ":"+path) })
	}
	for _, rules := range prometheus.Rules {
		if !mounted("prometheus", rules+":ro") {
			t.Errorf("Prometheus has no %s", rules)
		}
	}
	var sources struct {
		Datasources []struct{ Type, URL string }
	}
	if err := yaml.Unmarshal([]byte(read(t, dir+"/grafana/datasources.yml")), &sources); err != nil {
		t.Fatal(err)
	}
	if _, ok := services["prometheus"]; !ok || len(sources.Datasources) != 1 || sources.Datasources[0].URL != "http://prometheus:9090" {
		t.Errorf("Grafana has the sources %+v", sources)
	}
	var boards struct {
		Providers []struct{ Options struct{ Path string } }
	}
	if err := yaml.Unmarshal([]byte(read(t, dir+"/grafana/dashboards.yml")), &boards); err != nil {
		t.Fatal(err)
	}
	if len(boards.Providers) != 1 || !mounted("grafana", boards.Providers[0].Options.Path+"/") {
		t.Errorf("Grafana has dashboards in %+v, where none is mounted", boards)
	}
}

// object is what the manifests for Kubernetes have that refers to something else.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string `yaml:"data"`
	Strings  map[string]string `yaml:"stringData"`
	Spec     struct {
		ServiceName string `yaml:"serviceName"`
		Replicas    int
		Selector    map[string]any
		Ports       []struct {
			Target string `yaml:"targetPort"`
		}
		Claims   []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
		Template struct {
			Metadata struct{ Labels map[string]any }
			Spec     struct {
				Containers []struct {
					EnvFrom []struct {
						Secret struct{ Name string } `yaml:"secretRef"`
					} `yaml:"envFrom"`
					Ports []struct {
						Name   string
						Number int `yaml:"containerPort"`
					}
					Mounts []struct{ Name string } `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
				}
			}
		}
	}
}

// TestKubernetesManifestsHoldTogether: what objects of a manifest refer to is in it.
func TestKubernetesManifestsHoldTogether(t *testing.T) {
	for file, replicas := range map[string]int{"sqlite.yaml": 1, "postgres.yaml": 3} {
		text := read(t, "packaging/kubernetes/"+file)
		byKind := make(map[string]object)
		decoder := yaml.NewDecoder(strings.NewReader(text))
		for {
			var o object
			if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			byKind[o.Kind] = o
		}
		pods, ok := byKind["StatefulSet"]
		if !ok {
			pods = byKind["Deployment"]
		}
		if pods.Spec.Replicas != replicas || len(pods.Spec.Template.Spec.Containers) != 1 {
			t.Fatalf("%s has %d replicas of %d containers", file, pods.Spec.Replicas, len(pods.Spec.Template.Spec.Containers))
		}
		c := pods.Spec.Template.Spec.Containers[0]
		labels := fmt.Sprint(pods.Spec.Template.Metadata.Labels)
		if s := fmt.Sprint(byKind["Service"].Spec.Selector); s != labels {
			t.Errorf("%s: the service selects %s, the pods are %s", file, s, labels)
		}
		for kind, o := range byKind {
			if selected, ok := o.Spec.Selector["matchLabels"]; ok && fmt.Sprint(selected) != labels {
				t.Errorf("%s: the %s selects %s, the pods are %s", file, kind, selected, labels)
			}
		}
		if name := pods.Spec.ServiceName; name != "" && name != byKind["Service"].Metadata.Name {
			t.Errorf("%s: there is no service %s", file, name)
		}
		if len(c.EnvFrom) != 1 || c.EnvFrom[0].Secret.Name != byKind["Secret"].Metadata.Name {
			t.Errorf("%s: the environment is %+v", file, c.EnvFrom)
		}
		caddyfile := byKind["ConfigMap"].Data["Caddyfile"]
		for _, m := range regexp.MustCompile(`\{env\.(\w+)\}`).FindAllStringSubmatch(caddyfile, -1) {
			if byKind["Secret"].Strings[m[1]] == "" {
				t.Errorf("%s: the secret has no %s", file, m[1])
			}
		}
		var ports, volumes []string
		for _, p := range c.Ports {
			ports = append(ports, p.Name)
			if !strings.Contains(caddyfile, fmt.Sprintf("\n:%d {", p.Number)) {
				t.Errorf("%s: Caddy does not listen on %d", file, p.Number)
			}
		}
		for _, port := range []string{byKind["Service"].Spec.Ports[0].Target} {
			if !slices.Contains(ports, port) {
				t.Errorf("%s: the pods have no port %s", file, port)
			}
		}
		for _, v := range pods.Spec.Template.Spec.Volumes {
			volumes = append(volumes, v.Name)
			if v.ConfigMap.Name != "" && v.ConfigMap.Name != byKind["ConfigMap"].Metadata.Name {
				t.Errorf("%s: there is no ConfigMap %s", file, v.ConfigMap.Name)
			}
		}
		for _, v := range pods.Spec.Claims {
			volumes = append(volumes, v.Metadata.Name)
		}
		for _, m := range c.Mounts {
			if !slices.Contains(volumes, m.Name) {
				t.Errorf("%s: there is no volume %s", file, m.Name)
			}
		}
		for _, path := range regexp.MustCompile(`path: (/\S+)`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(caddyfile, "handle "+path[1]+" {") {
				t.Errorf("%s: Caddy does not handle the probe %s", file, path[1])
			}
		}
	}
}

// TestReleaseTakesFilesThatExist: what goreleaser puts into archives and packages, and the
// scripts of the packages, which a shell can parse.
func TestReleaseTakesFilesThatExist(t *testing.T) {
	var c struct {
		Builds   []struct{ Main string }
		Archives []struct{ Files []string }
		Packages []struct {
			Contents []struct{ Src, Dst string }
			Scripts  map[string]string
		} `yaml:"nfpms"`
	}
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Builds) != 1 || len(c.Archives) != 1 || len(c.Packages) != 1 {
		t.Fatalf("it has %d builds, %d archives and %d packages", len(c.Builds), len(c.Archives), len(c.Packages))
	}
	files := append(c.Archives[0].Files, c.Builds[0].Main)
	unit := read(t, "packaging/caddy-replicate-webhook.service")
	for _, content := range c.Packages[0].Contents {
		files = append(files, content.Src)
		if strings.HasPrefix(content.Dst, "/etc/") && !strings.Contains(unit, content.Dst) {
			t.Errorf("the unit does not use %s", content.Dst)
		}
	}
	if len(c.Packages[0].Scripts) != 3 {
		t.Errorf("the packages have the scripts %q", c.Packages[0].Scripts)
	}
	for _, script := range c.Packages[0].Scripts {
		files = append(files, script)
		if out, err := exec.Command("sh", "-n", filepath.Join(root, script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
	for _, file := range files {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
}
