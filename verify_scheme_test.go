package replicatewebhook

import (
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// TestSchemeOptionNamesAllSchemes: the option scheme takes what internal/signature
// has.
func TestSchemeOptionNamesAllSchemes(t *testing.T) {
	f, _ := reflect.TypeFor[Edge]().FieldByName("Scheme")
	if got, want := f.Tag.Get("choice"), strings.Join(signature.Names(), " "); got != want {
		t.Errorf("the option takes %q, the schemes are %q", got, want)
	}
}
