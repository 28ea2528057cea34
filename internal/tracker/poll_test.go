package tracker

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-replicate/replicate-webhook/internal/duration"
	"github.com/caddy-replicate/replicate-webhook/internal/poller"
	"github.com/caddy-replicate/replicate-webhook/internal/seal"
	"github.com/caddy-replicate/replicate-webhook/internal/upstream"
	"github.com/caddy-replicate/replicate-webhook/store"
)

const path = "/v1/predictions/p"

func TestPollingFollowsAPrediction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		defer w.end()
		start := time.Now()
		p := w.track("p", "starting")
		if p.Credential == nil || strings.Contains(string(p.Credential), "r8_client") {
			t.Error("the token is not sealed")
		}
		w.api.set(path, body("p", "starting"))
		time.Sleep(3 * time.Second)
		w.wantEvents("p", nil)
		w.api.set(path, body("p", "processing"))
		time.Sleep(30 * time.Second)
		w.wantEvents("p", both[:1])
		w.api.set(path, body("p", "succeeded"))
		time.Sleep(10 * time.Second)
		w.wantEvents("p", both)
		if want := []float64{0.5, 0.5, 1, 2, 4, 8, 10, 10}; !slices.Equal(gaps(start, w.api.requests()), want) {
			t.Errorf("polled after %v s, want %v", gaps(start, w.api.requests()), want)
		}
		r := w.api.requests()[0]
		if r.url != apiURL+"/predictions/p" || r.authorization != "Bearer r8_client" || r.agent != "tracker-test" {
			t.Errorf("polled with %+v", r)
		}
		if w.st.row(t, "p").Credential != nil {
			t.Error("the token outlives the terminal event")
		}
		time.Sleep(time.Hour)
		if n := len(w.api.requests()); n != 8 {
			t.Errorf("%d polls after the end", n-8)
		}
	})
}

func TestPollingNeverSeesItRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		defer w.end()
		w.api.set(path, body("p", "canceled"))
		w.track("p", "starting")
		time.Sleep(time.Second)
		w.wantEvents("p", failed)
	})
}

func TestTrainingsArePolledWhereTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		defer w.end()
		c := &Capture{API: up, Caller: client, URL: hook, Collection: Trainings}
		if _, err := w.Created(t.Context(), c, snapshot(t, "p", "starting")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := w.api.requests()[0].url; got != apiURL+"/trainings/p" {
			t.Errorf("polled at %s", got)
		}
	})
}

func TestPollingSurvivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		w.api.set(path, body("p", "processing"))
		w.track("p", "starting")
		time.Sleep(20 * time.Second)
		w.end()
		w.st.restart()
		w.renew(nil)
		again := time.Now()
		n := len(w.api.requests())
		w.start()
		defer w.end()
		time.Sleep(15 * time.Second)
		// At once, then at the pace of its age.
		if got := gaps(again, w.api.requests()[n:]); !slices.Equal(got, []float64{0, 10}) {
			t.Errorf("polled after %v s", got)
		}
		w.api.set(path, body("p", "succeeded"))
		time.Sleep(10 * time.Second)
		w.wantEvents("p", both)
	})
}

func TestCallbackMakesPollingASafetyNet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *options) { c.Callback = "https://hooks.test/callback/" })
		w.start()
		defer w.end()
		c := &Capture{API: up, Caller: client, URL: hook}
		if _, err := w.Reserve(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		w.api.set(path, body("p", "processing"))
		start := time.Now()
		if _, err := w.Created(t.Context(), c, snapshot(t, "p", "starting")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Second)
		if got := gaps(start, w.api.requests()); !slices.Equal(got, []float64{60, 60}) {
			t.Errorf("polled after %v s", got)
		}
		w.wantEvents("p", both[:1])
	})
}

func TestGiveUpIsNotPutOffByTheFirstPoll(t *testing.T) {
	for name, change := range map[string]func(*options){
		"callback": func(c *options) { c.Callback = "https://hooks.test/callback/" },
		"initial interval": func(c *options) {
			c.Schedule.Initial, c.Schedule.Max = duration.Duration(time.Hour), duration.Duration(time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(c *options) {
					c.Schedule.GiveUp = duration.Duration(5 * time.Second)
					change(c)
				})
				w.start()
				defer w.end()
				c := &Capture{API: up, Caller: client, URL: hook}
				if name == "callback" {
					if _, err := w.Reserve(t.Context(), c); err != nil {
						t.Fatal(err)
					}
				}
				w.api.set(path, body("p", "processing"))
				if _, err := w.Created(t.Context(), c, snapshot(t, "p", "starting")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(4 * time.Second)
				w.wantEvents("p", nil)
				time.Sleep(2 * time.Second)
				w.wantEvents("p", failed)
			})
		})
	}
}

func TestClockStepsMakeNoStorm(t *testing.T) {
	for _, step := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		t.Run(step.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var offset atomic.Int64
				w := newWorld(t, func(c *options) {
					c.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
				})
				w.start()
				defer w.end()
				w.api.answers(func(rw http.ResponseWriter, r *http.Request) {
					_, _ = io.WriteString(rw, body(r.URL.Path[len("/v1/predictions/"):], "processing"))
				})
				for i := range 50 {
					w.track(fmt.Sprint("p", i), "starting")
				}
				time.Sleep(time.Minute)
				offset.Store(int64(step))
				before := len(w.api.requests())
				time.Sleep(5 * time.Minute)
				if n := len(w.api.requests()) - before; n > 50*32 {
					t.Errorf("%d polls of 50 predictions in 5 minutes", n)
				}
				w.wantEvents("p0", both[:1])
				before = len(w.api.requests())
				time.Sleep(10 * time.Minute)
				if n := len(w.api.requests()) - before; n < 50*10 {
					t.Errorf("%d polls of 50 predictions in the next 10 minutes", n)
				}
			})
		})
	}
}

// TestMissingKeyEndsNoPrediction: without the key of its credential a prediction
// is neither polled nor given up, however long that takes, and polled again soon
// after the key is back.
func TestMissingKeyEndsNoPrediction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.track("p", "starting")
		other := ring(t, 2)
		w.renew(func(c *options) { c.Seal = other })
		w.start()
		defer w.end()
		time.Sleep(48 * time.Hour)
		if n := len(w.api.requests()); n != 0 {
			t.Errorf("%d polls without the token", n)
		}
		if w.poller.Stats().Unreadable == 0 || w.logs.FilterLevelExact(2).Len() == 0 {
			t.Errorf("counted %+v, logged %v", w.poller.Stats(), w.logs.All())
		}
		w.wantEvents("p", nil)
		w.api.set("/v1/predictions/p", body("p", "succeeded"))
		first, err := seal.KeyFromBytes(bytes.Repeat([]byte{1}, seal.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Set(first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		w.wantEvents("p", both)
	})
}

// TestDamagedCredentialIsGivenUpAlone: nothing can bring it back.
func TestDamagedCredentialIsGivenUpAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.track("damaged", "starting")
		w.track("whole", "starting")
		w.st.damage("damaged")
		w.api.set("/v1/predictions/whole", body("whole", "succeeded"))
		w.start()
		defer w.end()
		time.Sleep(time.Hour)
		w.wantEvents("whole", both)
		w.wantEvents("damaged", nil)
		time.Sleep(24 * time.Hour)
		w.wantEvents("damaged", failed)
	})
}

func TestOperatorsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		own := upstream.API{URL: apiURL, Token: "r8_operator"}
		if err := w.client.Join(own); err != nil {
			t.Fatal(err)
		}
		if err := w.client.Join(upstream.API{URL: apiURL, Token: "r8_another"}); err == nil || strings.Contains(err.Error(), "r8_") {
			t.Errorf("two tokens for one API: %v", err)
		}
		w.start()
		defer w.end()
		if p := w.trackAt(own, "p", "starting"); p.Credential != nil {
			t.Error("the client's token is kept")
		}
		time.Sleep(time.Second)
		if got := w.api.requests()[0].authorization; got != "Bearer r8_operator" {
			t.Errorf("polled with %q", got)
		}
	})
}

func TestPasswordsAreNeverKept(t *testing.T) {
	for authorization, kept := range map[string]bool{
		"Basic dXNlcjpwYXNz": false, "bAsIc x": false, " Basic x": false, "Basic": false, "": false,
		"Bearer " + strings.Repeat("x", 9000): false, "Bearer x": true, "Token x": true,
	} {
		w := newWorld(t, nil)
		c := &Capture{API: up, Caller: upstream.Caller{Authorization: authorization}, URL: hook}
		p, err := w.Created(t.Context(), c, snapshot(t, "p", "starting"))
		if err != nil || (p.Credential != nil) != kept {
			t.Errorf("%.20q: kept is %v, %v", authorization, !kept, err)
		}
	}
}

// A poll that is cut off is due at once for the next configuration.
func TestStopGivesClaimsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		w.api.answers(hang)
		w.track("p", "starting")
		time.Sleep(time.Second)
		w.Stop()
		w.Stop()
		start := time.Now()
		<-w.Done()
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %s", d)
		}
		w.renew(nil)
		w.api.answers(nil)
		w.api.set(path, body("p", "succeeded"))
		w.start()
		defer w.end()
		synctest.Wait()
		w.wantEvents("p", both)
	})
}

func TestStopBeforeStart(t *testing.T) {
	w := newWorld(t, nil)
	w.Stop()
	<-w.Done()
	if err := w.Start(); err == nil {
		t.Error("it starts after Stop")
	}
}

func TestStoreTroubleLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		defer w.end()
		w.track("p", "starting")
		w.api.set(path, body("p", "succeeded"))
		w.st.fail(store.ErrUnavailable)
		time.Sleep(time.Minute)
		w.wantEvents("p", nil)
		w.st.fail(nil)
		time.Sleep(2 * time.Second)
		w.wantEvents("p", both)
		if n := w.logs.Len(); n > 2 {
			t.Errorf("%d lines are logged", n)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.start()
		defer w.end()
		long := strings.Repeat("x", 3<<20)
		w.api.set(path, `{"id":"p","status":"succeeded","output":"`+long+`"}`)
		w.track("p", "starting")
		time.Sleep(time.Second)
		w.wantEvents("p", both)
		if !strings.Contains(w.st.payload("p"), long) {
			t.Error("the output is missing")
		}
		// More than two, so that places of large responses are given back.
		for i := range 5 {
			id := fmt.Sprint("p", i)
			w.api.set("/v1/predictions/"+id, `{"id":"`+id+`","status":"succeeded","output":"`+long+`"}`)
			w.track(id, "starting")
			time.Sleep(time.Second)
			w.wantEvents(id, both)
		}
		var endless atomic.Int64
		w.api.replaceBody(spaces{&endless})
		w.track("q", "starting")
		time.Sleep(time.Second)
		w.wantEvents("q", nil)
		if n := endless.Load(); n > 66<<20 {
			t.Errorf("%d bytes are read", n)
		}
		if w.logs.FilterMessageSnippet("not the prediction").Len() == 0 {
			t.Errorf("logged %v", w.logs.All())
		}
	})
}

type spaces struct{ n *atomic.Int64 }

func (s spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	if s.n.Add(int64(len(p))) > 200<<20 {
		return 0, io.EOF
	}
	return len(p), nil
}

func TestRetentionRunsEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *options) { c.Retention.Deliveries = duration.Duration(time.Hour) })
		w.start()
		defer w.end()
		time.Sleep(poller.Settling + 2*time.Minute + time.Second)
		w.st.mu.Lock()
		defer w.st.mu.Unlock()
		want := []time.Duration{time.Hour, 720 * time.Hour}
		if !slices.Equal(w.st.forgot, slices.Concat(want, want, want)) {
			t.Errorf("got %v", w.st.forgot)
		}
	})
}
