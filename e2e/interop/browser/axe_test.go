package browser_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/caddy-replicate/replicate-webhook/internal/testenv"
)

// axe is the text of axe-core, which npm installs.
var axe = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	return string(text), err
})

// violations begins a check of the page against WCAG 2.2 A and AA, and leaves what it
// found in window.violations.
const violations = `(() => {
	window.violations = null;
	axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], resultTypes: ["violations"], preload: false}).then(
		(r) => { window.violations = r.violations.map(v => v.id + ": " + v.help + ": " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 300)).join(" | ")); },
		(e) => { window.violations = ["axe failed: " + e]; });
	return true;
})()`

// accessible checks the page as it is now.
func (b *browser) accessible(page string) {
	b.T.Helper()
	testenv.NeedNode(b.T, ".")
	text, err := axe()
	if err != nil {
		b.T.Fatal(err)
	}
	// A page that is left for another one loses what was put in it.
	eval[bool](b, "(() => {"+text+";\nreturn true})()")
	eval[bool](b, violations)
	b.until(`window.violations !== null`)
	if found := eval[[]string](b, `window.violations`); len(found) > 0 {
		b.T.Errorf("%s breaks WCAG:\n%s", page, strings.Join(found, "\n"))
	}
}
