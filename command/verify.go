package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-replicate/replicate-webhook/internal/edge"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
)

// verdict is the result of verify.
type verdict struct {
	Valid bool `json:"valid"`
	// Scheme that verified: replicate, standard or both with a plus.
	Scheme     string `json:"scheme,omitempty"`
	Event      string `json:"event,omitempty"`
	Prediction string `json:"prediction,omitempty"`
	// SignedAt is the signed time.
	SignedAt time.Time `json:"signed_at,omitzero"`
	// Canonicalised: signed was not the body as it is but its
	// JSON.stringify form.
	Canonicalised bool `json:"canonicalised,omitempty"`
	// Reason is the label under which the edge counts such a request.
	Reason string `json:"reason,omitempty"`
	// Why describes what is wrong, and Advice what to do.
	Why    string `json:"why,omitempty"`
	Advice string `json:"advice,omitempty"`
}

// verifying holds the flags of verify.
type verifying struct {
	secrets, headers []string
	headerFile       string
	tolerance, at    string
	payload          string
}

func verifyCommand() *cobra.Command {
	var v verifying
	cmd := &cobra.Command{
		Use:   "verify [<file>]",
		Short: "Verifies a signed body and explains what is wrong",
		Long: `
Verifies a body, which is read from a file or from standard input, by its
signature headers, as the edge does. If it fails it finds out why: another
secret, a body that was changed in transit, or a clock that is wrong.`,
		Example: `  caddy replicate-webhook sign body.json > headers
  caddy replicate-webhook verify --headers headers body.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: run(func(_ context.Context, t *terminal, args []string) error { return v.run(t, args) }),
	}
	f := cmd.Flags()
	f.StringArrayVar(&v.secrets, "secret", []string{defaultSecret}, secretFlag+". Several: any of them")
	f.StringArrayVarP(&v.headers, "header", "H", nil, `A header of the request, such as "X-Replicate-Signature: 5d41…"`)
	f.StringVar(&v.headerFile, "headers", "", "A file with the request's headers, one a line")
	files(cmd, "headers")
	f.StringVar(&v.tolerance, "tolerance", "5m", "How far the signed time may be from now, or off")
	f.StringVar(&v.payload, "payload", "prediction", "What the body may be, as in the edge's option payload: prediction or any")
	enumerate(cmd, "payload", "prediction", "any")
	f.StringVar(&v.at, "at", "", "The time to judge by, RFC 3339 or Unix seconds (default: now)")
	addJSON(cmd)
	return cmd
}

func (v *verifying) run(t *terminal, args []string) error {
	var texts []string
	var secrets []signature.Secret
	for _, from := range v.secrets {
		text, err := t.secretText(from)
		if err != nil {
			return err
		}
		secret, err := signature.ParseSecret(text)
		if err != nil {
			return fmt.Errorf("the secret can't be used: %w", err)
		}
		texts, secrets = append(texts, text), append(secrets, secret)
	}
	h, err := v.header()
	if err != nil {
		return err
	}
	tolerance := time.Duration(0)
	if v.tolerance != "off" {
		if tolerance, err = time.ParseDuration(v.tolerance); err != nil || tolerance <= 0 {
			return fmt.Errorf("--tolerance is %q: write a duration such as 5m, or off", v.tolerance)
		}
	}
	verifier := edge.Verifier{Secrets: secrets, Accept: signature.Verifiable(secrets), Tolerance: tolerance}
	switch v.payload {
	case "prediction":
	case "any":
		// What the edge accepts by default then.
		verifier.Any, verifier.Accept = true, signature.Standard
		signature.AdoptSvix(h)
	default:
		return fmt.Errorf("--payload is %q: use prediction or any", v.payload)
	}
	now, err := (&signing{at: v.at}).time(t.now)
	if err != nil {
		return fmt.Errorf("--at is %q: write it like 2026-11-25T12:00:00Z, or as Unix seconds", v.at)
	}
	body, err := t.body(args, v.secrets...)
	if err != nil {
		return err
	}
	out := judge(h, body, texts, verifier, now)
	if !t.document(out) {
		t.verdict(&out)
	}
	if !out.Valid {
		return errRefused
	}
	return nil
}

// header reads the request's headers.
func (v *verifying) header() (http.Header, error) {
	lines := v.headers
	if v.headerFile != "" {
		b, err := os.ReadFile(v.headerFile)
		if err != nil {
			return nil, fmt.Errorf("reading the headers: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			// What tools put before headers, and the empty line behind.
			if line = strings.TrimLeft(strings.TrimSpace(line), "<> "); line != "" && !strings.HasPrefix(line, "HTTP/") && !strings.HasPrefix(line, "POST ") {
				lines = append(lines, line)
			}
		}
	}
	if len(lines) == 0 {
		return nil, errors.New("there are no headers: give the signature headers with --header or --headers")
	}
	h := make(http.Header)
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, errors.New("a header is not valid: write it like \"X-Replicate-Signature: 5d41…\"")
		}
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		h[name] = append(h[name], strings.TrimSpace(value))
	}
	return h, nil
}

// judge verifies as the edge does, and explains a refusal.
func judge(h http.Header, body []byte, texts []string, verifier edge.Verifier, now time.Time) verdict {
	claim, err := signature.ParseHeaders(h, verifier.Accept)
	if err != nil {
		return headerVerdict(err)
	}
	hook, refused := verifier.Verify(claim, body, now)
	if refused == nil {
		return verdict{
			Valid: true, Scheme: hook.Schemes.String(), Event: hook.Name, Prediction: hook.Envelope.ID,
			SignedAt: hook.JudgedAt, Canonicalised: hook.Canonicalised,
		}
	}
	out := verdict{Reason: string(refused.Outcome), Why: refused.Error()}
	switch refused.Outcome {
	case edge.OutcomeSignature:
		out.Why, out.Advice = explain(claim, h.Get(signature.HeaderReplicateSignature), body, verifier.Secrets, texts)
	case edge.OutcomeTimestamp:
		out.Why = "the signature is right, but " + refused.Error()
		out.Advice = "Compare the clocks of sender and receiver. If they agree, this is an old request that was sent again; a sender's retry is signed anew."
	case edge.OutcomeTimestampMissing:
		out.Why = "the signature is right, but " + refused.Error()
		out.Advice = "X-Replicate-Signature alone says nothing about the time. Send payload.timestamp, or sign by Standard Webhooks; the edge takes it with tolerance off."
	case edge.OutcomeTimestampFuture:
		out.Why = "the signature is right, but " + refused.Error()
		out.Advice = "payload.timestamp is the time of the event, which is not ahead. Correct the clock that it is made by, or its time zone."
	case edge.OutcomeTimestampType, edge.OutcomeTimestampNumber, edge.OutcomeTimestampMilliseconds, edge.OutcomeTimestampZone,
		edge.OutcomeTimestampCase, edge.OutcomeTimestampFormat:
		out.Why = "the signature is right, but " + refused.Error()
		out.Advice = "Write payload.timestamp like 2026-11-25T12:00:00Z (RFC 3339, with a time zone), as JavaScript's toISOString() and Python's datetime.now(timezone.utc).isoformat() do, or sign by Standard Webhooks."
	case edge.OutcomePredictionID:
		out.Why = "the signature is right, but " + refused.Error()
		out.Advice = "The edge responds with 400: what was signed is not a webhook about a prediction. The option payload any accepts others: try --payload any."
	default:
		out.Why = "the signature is right, but " + refused.Error()
		out.Advice = "The edge responds with 400: what was signed is not a webhook."
	}
	return out
}

func headerVerdict(err error) verdict {
	out := verdict{Reason: "headers", Why: err.Error()}
	var he *signature.HeaderError
	if !errors.As(err, &he) {
		return out
	}
	out.Reason += "_" + he.Reason()
	switch he.Reason() {
	case signature.ReasonMissing:
		out.Advice = "A proxy on the way may have dropped the headers of the signature. " + signature.Forms()
	case signature.ReasonScheme:
		// No option excludes a scheme here, so it is for want of a secret.
		out.Reason = string(edge.OutcomeHeadersSecret)
		out.Why = "there is a signature of scheme " + he.Scheme.String() + ", but no secret that can check it"
		out.Advice = "Scheme " + he.Scheme.String() + " takes " + he.Scheme.Secrets() + "."
	case signature.ReasonTimestamp, signature.ReasonMilliseconds:
		out.Advice = "webhook-timestamp is the Unix time in seconds, in decimal digits, such as 1764072000."
	case signature.ReasonOversized:
		out.Advice = "No sender's header is that long. Something on the way has joined several into one, or added to it."
	case signature.ReasonMalformed:
		out.Advice = signature.Forms()
	case signature.ReasonDuplicated:
		out.Advice = "Something on the way added the header again. It must be there once."
	case signature.ReasonConnection:
		out.Advice = "A Connection header that names a signature header makes proxies drop it. Senders have no reason for that."
	}
	return out
}

func (t *terminal) verdict(v *verdict) {
	if !v.Valid {
		facts := []fact{{"signature", cell{"not valid", red}}, {"reason", cell{text: v.Reason}}, {"why", cell{text: v.Why}}}
		if v.Advice != "" {
			facts = append(facts, fact{"advice", cell{text: v.Advice}})
		}
		t.facts(facts)
		return
	}
	facts := []fact{{"signature", cell{"valid", green}}, {"scheme", cell{text: v.Scheme}}}
	if v.Event != "" {
		facts = append(facts, fact{"event", cell{text: v.Event}})
	}
	if v.Prediction != "" {
		facts = append(facts, fact{"prediction", cell{text: v.Prediction}})
	}
	if !v.SignedAt.IsZero() {
		facts = append(facts, fact{"signed", cell{text: exact(v.SignedAt) + ", " + t.ago(v.SignedAt)}})
	}
	if v.Canonicalised {
		facts = append(facts, fact{"form", cell{text: "signed was JSON.stringify of the body, which is what the app gets"}})
	}
	t.facts(facts)
}
