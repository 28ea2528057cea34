package signature

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// TestNoComparisonEndsEarly: the loops that compare a signature with what each
// secret makes of the body go on to their end, and compare in constant time.
// What they return does not show it, and time is no measure in a test, so their
// source is looked at.
func TestNoComparisonEndsEarly(t *testing.T) {
	var decls []ast.Decl
	for _, name := range []string{"replicate.go", "standard.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		decls = append(decls, f.Decls...)
	}
	seen := 0
	for _, d := range decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "matchReplicate" && fn.Name.Name != "matchStandard" {
			continue
		}
		seen++
		loops, compared := 0, 0
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.RangeStmt:
				loops++
				ast.Inspect(n.Body, func(n ast.Node) bool {
					switch n := n.(type) {
					case *ast.ReturnStmt:
						t.Errorf("%s returns from within a loop", fn.Name)
					case *ast.BranchStmt:
						if n.Tok != token.CONTINUE {
							t.Errorf("%s leaves a loop by %s", fn.Name, n.Tok)
						}
					}
					return true
				})
			case *ast.SelectorExpr:
				switch n.Sel.Name {
				case "ConstantTimeCompare":
					compared++
				case "Equal", "Compare", "EqualFold":
					t.Errorf("%s compares with %s, which ends at the first difference", fn.Name, n.Sel)
				}
			}
			return true
		})
		if loops == 0 || compared != 1 {
			t.Errorf("%s has %d loops and %d comparisons in constant time", fn.Name, loops, compared)
		}
	}
	if seen != 2 {
		t.Errorf("saw %d of the 2 functions", seen)
	}
}
