package demo

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// response is the response to a request to Caddy.
type response struct {
	Status int
	Header http.Header
	Body   []byte
}

func (a response) String() string {
	text := fmt.Sprint(a.Status, " ", http.StatusText(a.Status))
	if a.Header.Get("X-Replicate-Duplicate") != "" {
		text += "  X-Replicate-Duplicate: " + a.Header.Get("X-Replicate-Duplicate")
	}
	if a.Header.Get("X-Replicate-Inbox") != "" {
		text += "  X-Replicate-Inbox: " + a.Header.Get("X-Replicate-Inbox")
	}
	return text
}

// ask sends a request to Caddy.
func (d *demonstration) ask(ctx context.Context, method, path string, body []byte, header ...string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.addr+path, bytes.NewReader(body))
	if err != nil {
		return response{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, data}, err
}

// introduce prints the parties of the demonstration.
func (d *demonstration) introduce() {
	d.print.text("", "", "Everything below runs in this process, on 127.0.0.1.", bold)
	for _, p := range [][2]string{
		{"caddy", fmt.Sprintf("http://%s  the real modules, data in %s", d.addr, d.dir)},
		{"your app", fmt.Sprintf("http://%s  behind replicate_webhook, at %s", d.site.app, d.webhook)},
		{"prediction API", fmt.Sprintf("http://%s  simulated, behind replicate_predictions, at /v1", d.site.api)},
	} {
		d.print.text(fmt.Sprintf("   %-16s ", p[0]), "", p[1], "")
	}
}

// webhookID is the prediction that the sender's webhook is about.
const webhookID = "demo_incoming"

// incoming returns a webhook of the sender for a prediction, and its signature.
func (d *demonstration) incoming(id string) (body []byte, signature string) {
	return signed(d.secret, id)
}

func signed(secret, id string) (body []byte, signature string) {
	now := time.Now().UTC().Format(time.RFC3339)
	body = fmt.Appendf(nil, `{"event":"prediction.completed","prediction":{"id":%q,"version":"v1","input":{"prompt":"a serene landscape"},"output":"ready","status":"succeeded","created_at":%q},"timestamp":%q}`,
		id, now, now)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return body, hex.EncodeToString(mac.Sum(nil))
}

// post sends a webhook and says so.
func (d *demonstration) post(ctx context.Context, body []byte, signature string) (response, error) {
	return d.postTo(ctx, d.webhook, body, signature)
}

func (d *demonstration) postTo(ctx context.Context, path string, body []byte, signature string) (response, error) {
	d.print.sent("POST " + path + "  X-Replicate-Signature: " + short(signature, 16))
	a, err := d.ask(ctx, http.MethodPost, path, body, "Content-Type", "application/json", "X-Replicate-Signature", signature)
	if err == nil {
		d.print.got(a.String())
	}
	return a, err
}

func (d *demonstration) genuine(ctx context.Context) error {
	d.print.title("1. A webhook, signed by its sender, reaches the app")
	d.body, d.signature = d.incoming(webhookID)
	a, err := d.post(ctx, d.body, d.signature)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK || string(a.Body) != "thanks" {
		return fmt.Errorf("the response is %s %q: it should be the app's own", a, a.Body)
	}
	seen := d.app.Of(webhookID)
	if len(seen) != 1 || seen[0].Verified != "replicate" || !seen[0].Signed {
		return fmt.Errorf("the app saw %+v: it should have seen one verified webhook", seen)
	}
	d.print.fact("the response is the app's own: %q", a.Body)
	d.print.fact("the app got %s of %s with X-Replicate-Verified: %s", seen[0].Event, seen[0].Prediction, seen[0].Verified)
	return nil
}

func (d *demonstration) duplicate(ctx context.Context) error {
	d.print.title("2. The sender repeats it: the duplicate ends in Caddy")
	a, err := d.post(ctx, d.body, d.signature)
	if err != nil {
		return err
	}
	if a.Status != http.StatusOK || a.Header.Get("X-Replicate-Duplicate") != "true" {
		return fmt.Errorf("the response is %s: it should be 200 with X-Replicate-Duplicate", a)
	}
	return d.unseen("the app did not see it again")
}

func (d *demonstration) forgery(ctx context.Context) error {
	d.print.title("3. A forgery: another body under the same signature")
	a, err := d.post(ctx, bytes.Replace(d.body, []byte(`"ready"`), []byte(`"forged"`), 1), d.signature)
	if err != nil {
		return err
	}
	if a.Status != http.StatusUnauthorized {
		return fmt.Errorf("the response is %s: it should be 401", a)
	}
	return d.unseen("the app did not see it")
}

// unseen checks that the app has seen the first webhook only.
func (d *demonstration) unseen(fact string) error {
	if n := len(d.app.Of(webhookID)); n != 1 {
		return fmt.Errorf("the app has seen %d webhooks: it should be the first one alone", n)
	}
	d.print.fact("%s", fact)
	return nil
}

// outage sends events to an app that is down, and then starts the app.
func (d *demonstration) outage(ctx context.Context) error {
	d.print.title("4. Events for an app that is down wait in its inbox")
	ids := make(map[string]string) // of events by prediction
	for n := range 3 {
		prediction := fmt.Sprint("demo_outage_", n+1)
		body, signature := signed(d.inboxSecret, prediction)
		a, err := d.postTo(ctx, d.inbox, body, signature)
		if err != nil {
			return err
		}
		if ids[prediction] = a.Header.Get("X-Replicate-Inbox"); a.Status != http.StatusOK || ids[prediction] == "" {
			return fmt.Errorf("the response is %s: it should be 200 with X-Replicate-Inbox", a)
		}
	}
	d.print.fact("nothing listens at %s, and each sender knows that its event is on disk", d.late)
	var err error
	if _, d.stopLate, err = listenAt(d.late, d.app); err != nil {
		return fmt.Errorf("starting the app: %w", err)
	}
	d.print.note("The app starts.")
	for n := range 3 {
		prediction := fmt.Sprint("demo_outage_", n+1)
		got, err := d.app.Wait(ctx, prediction, 0)
		if err != nil {
			return fmt.Errorf("waiting for the event of %s: %w", prediction, err)
		}
		if got.EventID != ids[prediction] || got.Verified == "" {
			return fmt.Errorf("the app got %+v: it should have been the verified event %s", got, ids[prediction])
		}
		d.print.fact("the app got %s of %s, with X-Replicate-Attempt: %s", got.Event, prediction, got.Attempt)
	}
	return nil
}

// token is the client's. The simulated API takes any.
const token = "r8_demo"

// prediction holds the members of a prediction that are read.
type prediction struct {
	ID        string `json:"id"`
	Status    string `json:"status"`
	Webhook   string `json:"webhook_status"`
	Completed bool   `json:"webhook_completed"`
}

// create creates a prediction through Caddy.
func (d *demonstration) create(ctx context.Context, receiver, prompt string) (prediction, response, error) {
	body, err := json.Marshal(map[string]any{"version": "v1", "input": map[string]string{"prompt": prompt}, "webhook_url": receiver})
	if err != nil {
		return prediction{}, response{}, err
	}
	a, err := d.ask(ctx, http.MethodPost, "/v1/predictions", body, "Content-Type", "application/json", "Authorization", "Bearer "+token)
	if err != nil {
		return prediction{}, a, err
	}
	var p prediction
	if a.Status != http.StatusCreated {
		return p, a, fmt.Errorf("the API responded with %s: %s", a, a.Body)
	}
	return p, a, json.Unmarshal(a.Body, &p)
}

func (d *demonstration) outbound(ctx context.Context) error {
	d.print.title("5. A client creates a prediction with webhook_url, and the app is down for a moment")
	d.app.FailNext("prediction.completed", 1)
	receiver := "http://" + d.addr + d.webhook
	d.print.sent(`POST /v1/predictions  {"version": "v1", "input": {…}, "webhook_url": "` + receiver + `"}`)
	p, a, err := d.create(ctx, receiver, "a serene landscape")
	if err != nil {
		return err
	}
	d.print.got(fmt.Sprintf(`%s  {"id": %q, "status": %q, "webhook_status": %q, …}`, a, p.ID, p.Status, p.Webhook))
	if p.Webhook != "pending" {
		return fmt.Errorf("webhook_status is %q after the create: it should be pending", p.Webhook)
	}
	if last := d.api.Last(); last == nil || bytes.Contains(last.Body, []byte("webhook_url")) {
		return fmt.Errorf("the API got %s: webhook_url should have been taken out", last.Body)
	}
	d.print.fact("the API did not see webhook_url, which it would refuse")
	for i, want := range []delivery{
		{Event: "prediction.started", Status: http.StatusOK},
		{Event: "prediction.completed", Status: http.StatusServiceUnavailable},
		{Event: "prediction.completed", Status: http.StatusOK},
	} {
		got, err := d.app.Wait(ctx, p.ID, i)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", want.Event, err)
		}
		if got.Event != want.Event || got.Status != want.Status || !got.Signed || got.Verified == "" {
			return fmt.Errorf("the app got %+v: it should have been a signed %s, with the response %d", got, want.Event, want.Status)
		}
		d.print.fact("the app got %s, signed, and responded with %d%s", got.Event, got.Status, map[bool]string{true: ": it is retried after 1 s"}[got.Status != http.StatusOK])
	}
	if err := d.settled(ctx, p.ID); err != nil {
		return err
	}
	d.prediction = p.ID
	d.print.fact(`GET /v1/predictions/%s says "webhook_status": "delivered", "webhook_completed": true`, p.ID)
	return d.log(ctx, p.ID)
}

// settled waits until a prediction says that its webhook was delivered.
func (d *demonstration) settled(ctx context.Context, id string) error {
	for {
		a, err := d.ask(ctx, http.MethodGet, "/v1/predictions/"+id, nil, "Authorization", "Bearer "+token)
		if err != nil {
			return err
		}
		var p prediction
		if err := json.Unmarshal(a.Body, &p); err != nil {
			return err
		}
		if p.Completed {
			if p.Webhook != "delivered" {
				return fmt.Errorf("webhook_status is %q: it should be delivered", p.Webhook)
			}
			return nil
		}
		// The app's response and the commit of the outcome are moments apart.
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// log prints a prediction's delivery log.
func (d *demonstration) log(ctx context.Context, id string) error {
	path := "/v1/predictions/" + id + "/webhook_deliveries"
	a, err := d.ask(ctx, http.MethodGet, path, nil, "Authorization", "Bearer "+token)
	if err != nil {
		return err
	}
	var page struct {
		Results []struct {
			Event     string
			Status    int
			Attempt   int
			Timestamp string
			Error     string
		}
	}
	if err := json.Unmarshal(a.Body, &page); err != nil {
		return err
	}
	if len(page.Results) != 3 {
		return fmt.Errorf("the delivery log has %d rows: it should have 3", len(page.Results))
	}
	d.print.fact("its delivery log, GET %s, has the three attempts:", strings.Replace(path, id, "{id}", 1))
	for _, r := range page.Results {
		d.print.note(fmt.Sprintf("%s  %-21s attempt %d  %d  %s", r.Timestamp, r.Event, r.Attempt, r.Status, r.Error))
	}
	return nil
}

// dashboard shows where it is, and checks that it has what went before.
func (d *demonstration) dashboard(ctx context.Context) error {
	d.print.title("6. The dashboard has all of it")
	a, err := d.ask(ctx, http.MethodGet, "/_webhooks/deliveries?prediction="+d.prediction, nil)
	if err != nil {
		return err
	}
	if n := strings.Count(string(a.Body), `id="row-`); a.Status != http.StatusOK || n != 2 {
		return fmt.Errorf("the dashboard responds with %s and shows %d deliveries of the prediction: it should be 2", a, n)
	}
	d.print.fact("it shows the two deliveries of %s", d.prediction)
	if !d.once {
		d.print.title("   http://" + d.addr + "/_webhooks/")
	}
	return nil
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
