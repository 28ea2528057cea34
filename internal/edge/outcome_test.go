package edge

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// declared returns the values of the string constants of a type in a file.
func declared(t *testing.T, file, typ string) (values []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) == 0 {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != typ {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
		return true
	})
	return values
}

// TestEveryOutcomeIsKnown: each constant has a class and a row in the reference of
// metrics, and so has what is made of the reasons of other types.
func TestEveryOutcomeIsKnown(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := declared(t, "outcome.go", "Outcome")
	if len(all) < 40 || len(all) != len(Outcomes()) {
		t.Errorf("%d constants, but %d outcomes have a class", len(all), len(Outcomes()))
	}
	for _, o := range all {
		if Outcome(o).Class() == 0 {
			t.Errorf("%s has no class", o)
		}
		if strings.Count(string(page), "| `"+o+"` | ") == 0 {
			t.Errorf("%s has no row in docs/metrics.md", o)
		}
	}
	for _, reason := range signature.Reasons() {
		if !slices.Contains(all, string(ofHeaders(reason))) {
			t.Errorf("the reason %q of a header has no outcome", reason)
		}
	}
	faults := declared(t, "timestamp.go", "TimestampFault")
	if len(faults) == 0 {
		t.Error("there is no fault of a timestamp")
	}
	for _, f := range faults {
		if !slices.Contains(all, string(ofFault(TimestampFault(f)))) {
			t.Errorf("the fault %q of a timestamp has no outcome", f)
		}
	}
}
