package delivery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-replicate/replicate-webhook/internal/event"
	"github.com/caddy-replicate/replicate-webhook/internal/signature"
	"github.com/caddy-replicate/replicate-webhook/store"
)

// recorder is a network that notes when requests come and with what.
type recorder struct {
	mu      sync.Mutex
	begun   time.Time
	at      []time.Duration
	headers []http.Header
	bodies  [][]byte
	answer  func(n int, r *http.Request) (*http.Response, error) // n from 1
}

func record(answer func(n int, r *http.Request) (*http.Response, error)) *recorder {
	return &recorder{begun: time.Now(), answer: answer}
}

func (c *recorder) trip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.at = append(c.at, time.Since(c.begun))
	c.headers = append(c.headers, r.Header.Clone())
	c.bodies = append(c.bodies, body)
	n := len(c.at)
	c.mu.Unlock()
	return c.answer(n, r)
}

func (c *recorder) times() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.at...)
}

func always(code int, header ...string) func(int, *http.Request) (*http.Response, error) {
	return func(int, *http.Request) (*http.Response, error) { return status(code, header...), nil }
}

func equal(t *testing.T, what string, got, want []time.Duration) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s at %v, want %v", what, got, want)
	}
}

func sec(list ...float64) (out []time.Duration) {
	for _, s := range list {
		out = append(out, time.Duration(s*float64(time.Second)))
	}
	return out
}

func TestRetriesAtExactTimesThenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(500))
		var failed []Report
		engine(t, s, net.trip, func(c *Config) { c.OnFailed = func(r Report) { failed = append(failed, r) } })
		s.add("d", hostURL(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, "attempts", net.times(), sec(0, 1, 3, 7, 15, 31))
		log := s.outcomes(t)
		for i, o := range log {
			want := store.Retry
			if i == 5 {
				want = store.Exhausted
			}
			if o.Disposition != want || o.Attempt.Number != i+1 || o.Attempt.Error != "status 500" || o.Attempt.Status != 500 {
				t.Errorf("outcome %d: disposition %d, %+v", i, o.Disposition, o.Attempt)
			}
			if n := net.headers[i].Get("X-Replicate-Attempt"); n != strconv.Itoa(i+1) {
				t.Errorf("attempt %d is numbered %s", i+1, n)
			}
			if !bytes.Equal(net.bodies[i], net.bodies[0]) || len(net.bodies[i]) == 0 {
				t.Errorf("attempt %d sent %q", i+1, net.bodies[i])
			}
		}
		if len(failed) != 1 || failed[0].Disposition != store.Exhausted || failed[0].Delivery.Payload != nil {
			t.Errorf("reported %+v", failed)
		}
	})
}

func TestMaxDelayAndMaxAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(500))
		engine(t, s, net.trip, func(c *Config) {
			c.Retry = Retry{MaxAttempts: 4, InitialDelay: Duration(10 * time.Second), MaxDelay: Duration(25 * time.Second), BackoffFactor: 3}
		})
		s.add("d", hostURL(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, "attempts", net.times(), sec(0, 10, 35, 60, 85))
	})
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(500))
		engine(t, s, net.trip, func(c *Config) { c.Retry.MaxAttempts = -1 })
		s.add("d", hostURL(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		equal(t, "attempts without retries", net.times(), sec(0))
	})
}

// TestFurtherRetriesOutlastALongOutage: what waits for hours is delivered with the same
// bytes, signed anew.
func TestFurtherRetriesOutlastALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, back := newMemStore(), time.Now().Add(8*time.Hour)
		net := record(func(int, *http.Request) (*http.Response, error) {
			if time.Now().Before(back) {
				return status(500), nil
			}
			return status(200), nil
		})
		engine(t, s, net.trip, func(c *Config) {
			for _, d := range []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour} {
				c.Retry.Then = append(c.Retry.Then, Duration(d))
			}
		})
		s.add("d", hostURL(1))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		equal(t, "attempts", net.times(), sec(0, 1, 3, 7, 15, 31, 91, 391, 2191, 9391, 27391, 63391))
		log := s.outcomes(t)
		if last := log[len(log)-1]; last.Disposition != store.Delivered || last.Attempt.Number != 12 {
			t.Errorf("the last outcome is %d of attempt %d", last.Disposition, last.Attempt.Number)
		}
		for i, h := range net.headers {
			if !bytes.Equal(net.bodies[i], net.bodies[0]) {
				t.Errorf("attempt %d sent %q", i+1, net.bodies[i])
			}
			if i > 0 && (h.Get("Webhook-Timestamp") == net.headers[i-1].Get("Webhook-Timestamp") || h.Get("Webhook-Signature") == net.headers[i-1].Get("Webhook-Signature")) {
				t.Errorf("attempt %d is signed as the one before it", i+1)
			}
			if h.Get("Webhook-Id") != net.headers[0].Get("Webhook-Id") {
				t.Errorf("attempt %d has another webhook-id", i+1)
			}
		}
	})
}

func TestRetryAfterLengthensTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		values := []string{"10", "1", "-3", "86400", "x"}
		net := record(func(n int, _ *http.Request) (*http.Response, error) {
			if n > len(values) {
				return status(200), nil
			}
			return status(503, "Retry-After", values[n-1]), nil
		})
		engine(t, s, net.trip)
		s.add("d", hostURL(1))
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		equal(t, "attempts", net.times(), sec(0, 10, 12, 16, 3616, 3632))
	})
}

func TestDispositions(t *testing.T) {
	for name, c := range map[string]struct {
		answer      func(int, *http.Request) (*http.Response, error)
		disposition store.Disposition
		error       string
	}{
		"200":       {always(200), store.Delivered, ""},
		"204":       {always(204), store.Delivered, ""},
		"duplicate": {always(200, "X-Replicate-Duplicate", "true"), store.Delivered, ""},
		"410":       {always(410), store.Gone, "status 410"},
		"404":       {always(404), store.Retry, "status 404"},
		"302":       {always(302, "Location", "https://elsewhere.example/a\x00b"), store.Retry, "redirect to https://elsewhere.example/a\ufffdb not followed"},
		"304":       {always(304), store.Retry, "status 304"},
		"101":       {always(101), store.Retry, "status 101"},
		"panic":     {func(int, *http.Request) (*http.Response, error) { panic("boom") }, store.Retry, "internal error"},
		"hang":      {func(_ int, r *http.Request) (*http.Response, error) { return hang(r) }, store.Retry, "timeout after 15s connecting"},
		"strange":   {func(int, *http.Request) (*http.Response, error) { return nil, errRefused }, store.Retry, "connection failed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newMemStore()
				var delivered []Report
				engine(t, s, record(c.answer).trip, func(c *Config) { c.OnDelivered = func(r Report) { delivered = append(delivered, r) } })
				s.add("d", hostURL(1))
				time.Sleep(15500 * time.Millisecond)
				synctest.Wait()
				log := s.outcomes(t)
				if len(log) == 0 || log[0].Disposition != c.disposition || log[0].Attempt.Error != c.error {
					t.Fatalf("outcomes %+v", log)
				}
				if success := c.disposition == store.Delivered; success != (len(delivered) == 1) {
					t.Errorf("reported %+v", delivered)
				} else if success && delivered[0].Duplicate != (name == "duplicate") {
					t.Errorf("reported %+v", delivered[0])
				}
			})
		})
	}
}

func TestTimeoutIsForTheWholeAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, func(r *http.Request) (*http.Response, error) {
			time.Sleep(4 * time.Second)
			// A byte a second, without end.
			out, in := io.Pipe()
			go func() {
				for {
					time.Sleep(time.Second)
					if r.Context().Err() != nil {
						in.CloseWithError(r.Context().Err())
						return
					}
					in.Write([]byte("x"))
				}
			}()
			resp := status(200)
			resp.ContentLength, resp.Body = -1, out
			return resp, nil
		}, func(c *Config) { c.Timeout = Duration(9500 * time.Millisecond) })
		s.add("d", hostURL(1))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		o := s.outcomes(t)[0]
		if o.Attempt.Error != "timeout after 9.5s reading body" || o.Attempt.Status != 200 || o.Attempt.Response != "xxxxx" || o.Disposition != store.Retry {
			t.Errorf("outcome %+v", o)
		}
	})
}

func TestHeadersVerifyAndRotate(t *testing.T) {
	const older, plain = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "a plain secret of some length"
	for name, c := range map[string]struct {
		secrets []string
		entries int
	}{
		"one":      {[]string{testSecret}, 1},
		"rotation": {[]string{testSecret, older}, 2},
		"plain":    {[]string{plain}, 0},
		"to whsec": {[]string{testSecret, plain}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, net := newMemStore(), record(func(n int, _ *http.Request) (*http.Response, error) {
					return status(map[bool]int{true: 500, false: 200}[n < 3]), nil
				})
				engine(t, s, net.trip, func(conf *Config) {
					conf.Secrets, conf.UserAgent = secrets(t, c.secrets...), "caddy-replicate-webhook/1.2"
				})
				const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
				s.addAt(time.Now(), store.Delivery{ID: "dlv_1", URL: hostURL(1), Event: event.Started, Payload: []byte(`{"a":1}`), Traceparent: parent})
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(net.headers) != 3 {
					t.Fatalf("%d attempts", len(net.headers))
				}
				for i, h := range net.headers {
					for header, want := range map[string]string{
						"Content-Type": "application/json", "User-Agent": "caddy-replicate-webhook/1.2",
						"X-Replicate-Event": "prediction.started", "X-Replicate-Delivery": "dlv_1",
						"X-Replicate-Attempt": strconv.Itoa(i + 1), "Traceparent": parent,
					} {
						if got := h[header]; len(got) != 1 || got[0] != want {
							t.Errorf("%s is %q, want %q", header, got, want)
						}
					}
					verifies(t, h, net.bodies[i], c.secrets[:1], signature.Replicate)
					if got := h.Get("X-Replicate-Signature"); len(got) != 64 {
						t.Errorf("X-Replicate-Signature is %q", got)
					}
					if c.entries == 0 {
						if len(h["Webhook-Id"])+len(h["Webhook-Timestamp"])+len(h["Webhook-Signature"]) > 0 {
							t.Errorf("standard headers without a whsec_ secret: %v", h)
						}
						continue
					}
					for _, text := range c.secrets[:c.entries] {
						verifies(t, h, net.bodies[i], []string{text}, signature.Standard)
					}
					at := strconv.FormatInt(net.begun.Add(net.at[i]).Unix(), 10)
					if h.Get("Webhook-Id") != "dlv_1" || h.Get("Webhook-Timestamp") != at {
						t.Errorf("attempt %d: webhook-id %q, webhook-timestamp %q, want %s", i+1, h.Get("Webhook-Id"), h.Get("Webhook-Timestamp"), at)
					}
				}
			})
		})
	}
}

// verifies checks the headers as a receiver with these secrets would.
func verifies(t *testing.T, h http.Header, body []byte, texts []string, scheme signature.Scheme) {
	t.Helper()
	claim, err := signature.ParseHeaders(h, scheme)
	if err != nil {
		t.Fatal(err)
	}
	var list []signature.Secret
	for _, text := range texts {
		list = append(list, secret(t, text))
	}
	if _, err := claim.Verify(list, body, func() []byte { return nil }); err != nil {
		t.Errorf("%v signature: %v", scheme, err)
	}
}

func TestTraceparentIsCheckedAndTraced(t *testing.T) {
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for s, want := range map[string]string{
		valid: valid,
		// A later version is continued in the version that is known.
		"cc" + valid[2:] + "-later": valid,
		"":                          "",
		"00":                        "",
		strings.ToUpper(valid):      "",
		valid + "x":                 "",
		valid + "-a\r\nX":           "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "",
	} {
		h := make(http.Header)
		setTraceparent(h, s)
		if got := h.Get("Traceparent"); got != want {
			t.Errorf("%q is sent as %q, want %q", s, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(503))
		var ended atomic.Int32
		engine(t, s, net.trip, func(c *Config) {
			c.Retry.MaxAttempts = -1
			c.Trace = func(ctx context.Context, d *store.Delivery, n int, h http.Header) (context.Context, func(int, error)) {
				h.Set("Traceparent", "span of "+d.ID)
				return ctx, func(status int, err error) {
					if status == 503 && err != nil && n == 1 {
						ended.Add(1)
					}
				}
			}
		})
		s.add("d", hostURL(1))
		synctest.Wait()
		if got := net.headers[0].Get("Traceparent"); got != "span of d" || ended.Load() != 1 {
			t.Errorf("traceparent %q, %d spans ended", got, ended.Load())
		}
	})
}

func TestMissingSecretFailsTheAttempt(t *testing.T) {
	for name, lookup := range map[string]func(context.Context, string) ([]signature.Secret, error){
		"none":  func(context.Context, string) ([]signature.Secret, error) { return nil, nil },
		"panic": func(context.Context, string) ([]signature.Secret, error) { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zapcore.ErrorLevel)
				s, net := newMemStore(), record(always(200))
				engine(t, s, net.trip, func(c *Config) { c.Secrets, c.Logger = lookup, zap.New(core) })
				s.add("d", hostURL(1))
				synctest.Wait()
				log := s.outcomes(t)
				if len(log) != 1 || log[0].Disposition != store.Retry || log[0].Attempt.Error == "" || len(net.times()) != 0 {
					t.Errorf("outcomes %+v after %d requests", log, len(net.times()))
				}
				if logs.Len() == 0 {
					t.Error("nothing logged")
				}
			})
		})
	}
}

// TestUnreadableSecretBurnsNoAttempt: while the secrets can't be had, deliveries
// wait, however long that takes, and go on when they can. The log says so, once
// a minute at most.
func TestUnreadableSecretBurnsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.ErrorLevel)
		s, net := newMemStore(), record(always(200))
		var locked atomic.Bool
		locked.Store(true)
		good := secrets(t, testSecret)
		e := engine(t, s, net.trip, func(c *Config) {
			c.Logger = zap.New(core)
			c.Secrets = func(ctx context.Context, client string) ([]signature.Secret, error) {
				if locked.Load() {
					return nil, errors.New("opening sealed value")
				}
				return good(ctx, client)
			}
		})
		for i := range 20 {
			s.add(fmt.Sprint("d", i), hostURL(i%3))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if log := s.outcomes(t); len(log) != 0 || len(net.times()) != 0 || e.Status().InFlight != 0 {
			t.Fatalf("%d outcomes and %d requests without a secret", len(log), len(net.times()))
		}
		if n := logs.Len(); n < 1 || n > 61 {
			t.Errorf("logged %d times in an hour", n)
		}
		locked.Store(false)
		time.Sleep(2 * signRetryInterval)
		synctest.Wait()
		log := s.outcomes(t)
		if len(log) != 20 {
			t.Fatalf("%d outcomes afterwards", len(log))
		}
		for _, o := range log {
			if o.Disposition != store.Delivered || o.Attempt.Number != 1 {
				t.Errorf("outcome %+v", o)
			}
		}
	})
}

func TestIdleEngineAsksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		engine(t, s, record(always(200)).trip)
		s.add("d", hostURL(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		before := s.claims
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if s.claims != before {
			t.Errorf("%d claims with nothing to do", s.claims-before)
		}
	})
}

func TestFarDeliveryIsMadeOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(200))
		engine(t, s, net.trip)
		s.addAt(time.Now().Add(7*time.Hour+time.Millisecond), store.Delivery{ID: "far", URL: hostURL(1), Event: event.Failed})
		synctest.Wait()
		s.addAt(time.Now().Add(time.Hour), store.Delivery{ID: "near", URL: hostURL(1), Event: event.Failed})
		time.Sleep(8 * time.Hour)
		synctest.Wait()
		equal(t, "attempts", net.times(), []time.Duration{time.Hour, 7*time.Hour + time.Millisecond})
	})
}

func TestNothingIsSentWhileNothingCanBeCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		s, net := newMemStore(), record(always(200))
		s.down = store.ErrUnavailable
		engine(t, s, net.trip, func(c *Config) { c.Logger = zap.New(core) })
		s.add("d", hostURL(1))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(net.times()); n != 0 {
			t.Fatalf("%d attempts", n)
		}
		s.mu.Lock()
		s.down = nil
		s.mu.Unlock()
		time.Sleep(storeRetryInterval)
		synctest.Wait()
		if n := len(net.times()); n != 1 {
			t.Errorf("%d attempts once the store is back", n)
		}
		if n := logs.Len(); n != 2 {
			t.Errorf("%d log entries for one outage: %v", n, logs.All())
		}
	})
}

func TestRefusedCommitIsRetriedWithoutAnotherAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(200))
		tries := 0
		s.complete = func(*store.Outcome) error {
			if tries++; tries <= 50 {
				return fmt.Errorf("%w: disk full", store.ErrUnavailable)
			}
			return nil
		}
		engine(t, s, net.trip)
		s.add("d", hostURL(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(net.times()); n != 1 || tries != 51 || len(s.outcomes(t)) != 1 {
			t.Errorf("%d attempts, %d tries to commit", n, tries)
		}
	})
}

func TestOutcomeThatIsNeverTakenIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(200))
		tries := 0
		s.complete = func(*store.Outcome) error {
			if tries++; tries <= commitTries {
				return errors.New("strange row")
			}
			return nil
		}
		engine(t, s, net.trip)
		s.add("d", hostURL(1))
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(net.times()); n != 2 || len(s.outcomes(t)) != 1 {
			t.Errorf("%d attempts, %d tries to commit", n, tries)
		}
	})
}

func TestUncommittedOutcomesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, net := newMemStore(), record(always(200))
		var full atomic.Bool
		full.Store(true)
		s.complete = func(*store.Outcome) error {
			if full.Load() {
				return store.ErrUnavailable
			}
			return nil
		}
		e := engine(t, s, net.trip, func(c *Config) { c.Workers, c.Endpoint.Concurrency = 8, 8 })
		for i := range 3 * minCommitting {
			s.add(strconv.Itoa(i), hostURL(i%100))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(net.times()); n < minCommitting || n > minCommitting+8 || e.Status().Committing != n {
			t.Errorf("%d attempts without a commit, %+v", n, e.Status())
		}
		full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(s.outcomes(t)); n != 3*minCommitting || len(net.times()) != n {
			t.Errorf("%d outcomes of %d attempts in the end", n, len(net.times()))
		}
	})
}

func TestSlowHookHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.WarnLevel)
		s, release := newMemStore(), make(chan struct{})
		var calls atomic.Int32
		engine(t, s, record(always(200)).trip, func(c *Config) {
			c.Logger = zap.New(core)
			c.OnDelivered = func(Report) {
				<-release
				if calls.Add(1) == 2 {
					panic("boom")
				}
			}
		})
		for i := range 2 * maxReports {
			s.add(strconv.Itoa(i), hostURL(i%10))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(s.outcomes(t)); n != 2*maxReports {
			t.Errorf("%d deliveries behind a slow hook", n)
		}
		close(release)
		synctest.Wait()
		if n := calls.Load(); n < maxReports || n >= 2*maxReports {
			t.Errorf("%d calls", n)
		}
		if logs.FilterMessageSnippet("dropped").Len() != 1 || logs.FilterMessageSnippet("panic").Len() != 1 {
			t.Errorf("logged %v", logs.All())
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Store: newMemStore(), Secrets: secrets(t, testSecret), Client: http.DefaultClient}
	for name, spoil := range map[string]func(*Config){
		"store":       func(c *Config) { c.Store = nil },
		"secrets":     func(c *Config) { c.Secrets = nil },
		"client":      func(c *Config) { c.Client = nil },
		"jitter":      func(c *Config) { c.Retry.Jitter = 1.1 },
		"factor":      func(c *Config) { c.Retry.BackoffFactor = 0.5 },
		"delay":       func(c *Config) { c.Retry.InitialDelay = -1 },
		"rate":        func(c *Config) { c.Endpoint.Rate.Count = 1 },
		"workers":     func(c *Config) { c.Workers = -1 },
		"concurrency": func(c *Config) { c.Endpoint.Concurrency = -1 },
	} {
		conf := good
		spoil(&conf)
		if _, err := New(conf); err == nil {
			t.Errorf("bad %s is accepted", name)
		}
	}
	e, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	e.Stop()
	e.Start()
	if err := e.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}
