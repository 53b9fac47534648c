package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stuck serves a call until nobody waits for it any more.
func stuck(ctx context.Context, _ uint64, _ uint8, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestCallOutcomes: each end that a call can come to, and what is known of it then.
func TestCallOutcomes(t *testing.T) {
	type world struct {
		p        *pipes
		one, two *Transport
		served   *atomic.Int64
	}
	answered := func(_ context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%d %d %s", from, kind, body), nil
	}
	large := make([]byte, CallBytesMax+1)
	for _, c := range []struct {
		name   string
		serve  func(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error)
		before func(w world) // the call
		during func(w world) // while it waits
		budget time.Duration // of its context; 0 for none
		body   []byte        // "body" if nil
		want   []error       // all of these
		text   string        // of the error or the answer
		served int64         // how often the handler was called
	}{
		{name: "answered", serve: answered, text: "1 5 body", served: 1},
		{name: "answered within its time", serve: answered, budget: time.Second, text: "1 5 body", served: 1},
		{name: "an empty answer", serve: func(context.Context, uint64, uint8, []byte) ([]byte, error) { return nil, nil }, served: 1},
		{name: "the largest body", serve: func(_ context.Context, _ uint64, _ uint8, b []byte) ([]byte, error) {
			return fmt.Append(nil, len(b)), nil
		}, body: large[:CallBytesMax], text: "8388608", served: 1},
		{name: "a body over it", serve: answered, body: large, want: []error{ErrTooLarge}},
		{name: "refused by the handler", serve: func(context.Context, uint64, uint8, []byte) ([]byte, error) {
			return nil, errors.New("no such shard")
		}, text: "node 2: no such shard", served: 1},
		{name: "an answer over the limit", serve: func(context.Context, uint64, uint8, []byte) ([]byte, error) {
			return large, nil
		}, text: "the answer has 8388609 bytes", served: 1},
		{name: "nobody there", before: func(w world) { _ = w.two.Close() }, want: []error{ErrUnreachable}},
		{name: "no peer", before: func(w world) { w.one.RemovePeer(2) }, want: []error{ErrUnreachable, errNotPeer}},
		{name: "refused as a stranger", before: func(w world) { w.two.RemovePeer(1) }, want: []error{ErrUnreachable, ErrStranger}},
		{name: "closed before", before: func(w world) { _ = w.one.Close() }, want: []error{ErrClosed}},
		{name: "closed during", serve: stuck, during: func(w world) { _ = w.one.Close() }, want: []error{ErrUnknownOutcome, ErrClosed}, served: 1},
		{name: "the other one closed during", serve: stuck, during: func(w world) { _ = w.two.Close() }, want: []error{ErrUnknownOutcome}, served: 1},
		{name: "connection cut", serve: stuck, during: func(w world) { w.p.cut() }, want: []error{ErrUnknownOutcome}, served: 1},
		{name: "peer removed during", serve: stuck, during: func(w world) { w.one.RemovePeer(2) }, want: []error{ErrUnknownOutcome, errRemoved}, served: 1},
		{name: "the other side falls silent", serve: stuck, during: func(w world) { w.p.silent.Store(true) }, want: []error{ErrUnknownOutcome}, served: 1},
		{name: "out of time at the handler", serve: stuck, budget: time.Second, want: []error{ErrUnknownOutcome, context.DeadlineExceeded}, served: 1},
		{
			name: "out of time before it was sent", before: func(w world) { w.p.silent.Store(true) }, budget: time.Second,
			want: []error{ErrUnreachable, context.DeadlineExceeded},
		},
		{name: "out of time from the start", budget: -time.Second, want: []error{ErrUnreachable, context.DeadlineExceeded}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world{p: newPipes(), served: &atomic.Int64{}}
				h1, h2 := newRecord(), newRecord()
				h2.serve = func(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
					w.served.Add(1)
					return c.serve(ctx, from, kind, body)
				}
				w.one, w.two = w.p.pair(t, h1, h2, nil)
				if c.before != nil {
					c.before(w)
				}
				if c.during != nil {
					go func() {
						synctest.Wait()
						c.during(w)
					}()
				}
				ctx, body := t.Context(), c.body
				if c.budget != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.budget)
					defer cancel()
				}
				if body == nil {
					body = []byte("body")
				}
				answer, err := w.one.Call(ctx, 2, 5, body)
				for _, want := range c.want {
					if !errors.Is(err, want) {
						t.Errorf("the error is %v, want %v", err, want)
					}
				}
				if errors.Is(err, ErrUnknownOutcome) && errors.Is(err, ErrUnreachable) {
					t.Errorf("the error is %v, which is both", err)
				}
				if text := fmt.Sprintf("%s%v", answer, err); !strings.Contains(text, c.text) || len(c.want) == 0 && c.text == "" && err != nil {
					t.Errorf("answer %.100s, want %q", text, c.text)
				}
				synctest.Wait()
				if n := w.served.Load(); n != c.served {
					t.Errorf("the handler was called %d times, want %d", n, c.served)
				}
			})
		})
	}
}

// TestCallsShareAConnection: many are under way at once, and a slow one holds up none.
func TestCallsShareAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		h2.serve = func(ctx context.Context, _ uint64, _ uint8, body []byte) ([]byte, error) {
			if body[0] == 0 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Duration(body[0]) * time.Millisecond)
			return body, nil
		}
		one, _ := p.pair(t, h1, h2, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		calls.Go(func() {
			if _, err := one.Call(ctx, 2, 1, []byte{0}); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		started := time.Now()
		var quick sync.WaitGroup
		for i := range 200 {
			quick.Go(func() {
				body := bytes.Repeat([]byte{byte(i%100 + 1)}, i*200+1) // the larger ones share memory with others
				answer, err := one.Call(t.Context(), 2, 1, body)
				if err != nil || !bytes.Equal(answer, body) {
					t.Errorf("call %d: %d bytes, %v", i, len(answer), err)
				}
			})
		}
		quick.Wait()
		if took := time.Since(started); took > 110*time.Millisecond {
			t.Errorf("they took %v", took)
		}
		if n := p.dials.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
		cancel()
		calls.Wait()
	})
}

// TestCancelTravels: a caller that gives up ends the handler's context, and its deadline does so by itself.
func TestCancelTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		ended := make(chan error, 1)
		h2.serve = func(ctx context.Context, _ uint64, _ uint8, _ []byte) ([]byte, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		}
		one, _ := p.pair(t, h1, h2, nil)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = one.Call(ctx, 2, 1, nil) }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		p.cut() // no cancel would come through
		time.Sleep(time.Minute)
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		started := time.Now()
		go func() { _, _ = one.Call(ctx, 2, 1, nil) }()
		synctest.Wait()
		p.silent.Store(true)
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) || time.Since(started) != time.Second {
			t.Fatalf("%v after %v", err, time.Since(started))
		}
	})
}

// TestCallBounds: a node works on so many calls of a peer at once, and a node has so many without an answer.
func TestCallBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		release := make(chan struct{})
		var served atomic.Int64
		h2.serve = func(context.Context, uint64, uint8, []byte) ([]byte, error) {
			served.Add(1)
			<-release
			return nil, nil
		}
		one, two := p.pair(t, h1, h2, nil)
		var busy, good, wrong atomic.Int64
		var calls sync.WaitGroup
		call := func(body []byte) {
			calls.Go(func() {
				switch _, err := one.Call(t.Context(), 2, 1, body); {
				case err == nil:
					good.Add(1)
				case errors.Is(err, ErrBusy) && !errors.Is(err, ErrUnknownOutcome):
					busy.Add(1)
				default:
					t.Error(err)
					wrong.Add(1)
				}
			})
		}
		for range callsServedMax + 7 {
			call(nil)
		}
		synctest.Wait()
		if busy.Load() != 7 || served.Load() != callsServedMax {
			t.Fatalf("%d refused, %d served", busy.Load(), served.Load())
		}
		close(release)
		calls.Wait()
		if good.Load() != callsServedMax {
			t.Fatalf("%d answered", good.Load())
		}
		release = make(chan struct{})
		for range callsServedBytesMax/CallBytesMax + 2 {
			call(make([]byte, CallBytesMax))
		}
		synctest.Wait()
		if busy.Load() != 9 {
			t.Fatalf("%d refused", busy.Load())
		}
		close(release)
		calls.Wait()
		synctest.Wait()
		two.peer(1).slots.mu.Lock()
		defer two.peer(1).slots.mu.Unlock()
		if s := &two.peer(1).slots; s.count != 0 || s.bytes != 0 {
			t.Fatalf("%d slots with %d bytes were not given back", s.count, s.bytes)
		}
	})
}

func TestCallQueueBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		p.listen("node-2") // nobody accepts
		one := p.node(t, 1, newRecord(), func(c *Config) { c.DialTimeout = time.Hour })
		setPeer(t, one, 2, "node-2")
		var calls sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range callsMax {
			calls.Go(func() {
				if _, err := one.Call(ctx, 2, 1, nil); !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, err := one.Call(ctx, 2, 1, nil); !errors.Is(err, ErrBusy) {
			t.Errorf("a call over the bound: %v", err)
		}
		cancel()
		calls.Wait()
	})
}

// What certainly was not seen by the other node is told from what may have been.
func TestUndelivered(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		ErrUnreachable: true, ErrBusy: true, ErrTooLarge: true, ErrClosed: true,
		ErrUnknownOutcome: false, context.DeadlineExceeded: false, &RemoteError{Node: 2, Text: "no"}: false,
	} {
		if got := new(Transport).Undelivered(fmt.Errorf("call: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
