package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// traffic makes a prediction every second or two until the context ends: most
// for the app, which is sometimes down, and some for a receiver that is gone.
func (d *demonstration) traffic(ctx context.Context) error {
	d.print.note("Predictions are created every few seconds from now on, so that there is something to see.")
	d.print.note("Ctrl-C ends the demo.")
	prompts := []string{"a serene landscape", "a lighthouse at night", "an astronaut on a horse", "a bowl of fruit", "the sea in winter"}
	for n := 0; ; n++ {
		if pause(ctx, time.Second+rand.N(2*time.Second)) != nil {
			return nil
		}
		receiver := "http://" + d.addr + d.webhook
		switch n % 6 {
		case 2:
			d.app.FailNext("prediction.completed", 1+rand.IntN(2))
		case 4:
			receiver = "http://" + d.gone + "/webhooks"
		}
		if _, _, err := d.create(ctx, receiver, prompts[n%len(prompts)]); err != nil && ctx.Err() == nil {
			return err
		}
		if n%4 == 3 {
			// The sender's side: a genuine webhook, sent twice, and a
			// forgery.
			body, signature := d.incoming(fmt.Sprint("demo_incoming_", n))
			for _, s := range []string{signature, signature, fmt.Sprintf("%064x", n)} {
				if _, err := d.ask(ctx, http.MethodPost, d.webhook, body, "X-Replicate-Signature", s); err != nil && ctx.Err() == nil {
					return err
				}
			}
		}
	}
}
