package route_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-replicate/replicate-webhook/e2e/rig/caddyrun"
	"github.com/caddy-replicate/replicate-webhook/internal/inbox/route"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// BenchmarkPass is the cost of an attempt, with an app in another goroutine and
// with none.
func BenchmarkPass(b *testing.B) {
	app := caddyrun.NewApp(b)
	app.Answer(func(w http.ResponseWriter, _ *caddyrun.Request) {
		app.Forget()
		w.Header()["Date"] = nil
	})
	b.Setenv("APP", app.Addr())
	s := caddyrun.New(b)
	routes := load(b, s, route.Options{
		Timeout: time.Minute, Resign: true, Secrets: func() []signature.Secret { return []signature.Secret{secret} },
	}, "", "respond 200", "reverse_proxy {$APP}")
	for i, name := range []string{"respond", "reverse_proxy"} {
		b.Run(name, func(b *testing.B) {
			d := event()
			b.ReportAllocs()
			for b.Loop() {
				if got := routes[i].Pass(b.Context(), d, 1); got.Status != http.StatusOK {
					b.Fatalf("%+v", got)
				}
			}
		})
	}
}
