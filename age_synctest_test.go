package beaver

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// movedClock is a clock whose wall clock a test moves.
func movedClock() (clock, *atomic.Int64) {
	ahead := new(atomic.Int64)
	return clock{func() time.Duration { return time.Duration(ahead.Load()) }}, ahead
}

// TestAge: what passed by either clock has passed.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, moved := range []time.Duration{0, time.Hour, -time.Hour} {
			c, ahead := movedClock()
			start := c.now()
			p, cancel := c.patient(t.Context(), 10*time.Minute)
			defer cancel()
			time.Sleep(time.Minute)
			ahead.Store(int64(moved))
			if got, want := c.since(start), time.Minute+max(0, moved); got != want || p.over() != (moved > 0) {
				t.Errorf("moved by %v: %v passed, want %v; over: %v", moved, got, want, p.over())
			}
			time.Sleep(9 * time.Minute)
			synctest.Wait()
			if !p.over() {
				t.Errorf("moved by %v: it has patience for longer than it should", moved)
			}
		}
	})
}

// TestEnqueueSuspended: a client whose machine was suspended repeats nothing that it sent before, and does not know what became of it. What
// it never sent goes its way.
func TestEnqueueSuspended(t *testing.T) {
	bubble(t, 10*time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		var ahead *atomic.Int64
		c.enqueuer.clock, ahead = movedClock()
		sent := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		<-s.requests
		s.end <- errors.New("connection reset")
		synctest.Wait() // until it waits to connect again: it is decided that the message is repeated
		ahead.Store(int64(time.Hour))
		fresh := goEnqueue(t.Context(), c, Job{Queue: "q"})
		if got := <-sent; !errors.Is(got.err, ErrOutcomeUnknown) {
			t.Errorf("sent before: %v, want an unknown outcome", got.err)
		}
		for {
			s = <-f.streams
			select {
			case m := <-s.requests:
				if m.GetSequence() != 2 {
					t.Errorf("message %d was sent, want the second", m.GetSequence())
				}
				s.answer(1, m)
				if got := <-fresh; got.err != nil {
					t.Error(got.err)
				}
				return
			case <-s.ctx.Done(): // the stream by which the repeat would have gone
			}
		}
	})
}

// slowDial is a stream whose connection is made in the first Send, and takes long.
type slowDial struct {
	enqueueStream
	connect func()
}

func (s slowDial) Send(m *enqueueMessage) error {
	s.connect()
	return s.enqueueStream.Send(m)
}

// TestEnqueueSuspendedWhileConnecting: a repeat is not sent either when the machine was suspended while the stream for it came to be.
func TestEnqueueSuspendedWhileConnecting(t *testing.T) {
	bubble(t, 10*time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		var ahead *atomic.Int64
		c.enqueuer.clock, ahead = movedClock()
		dials := 0
		c.enqueuer.dial = alone(func(ctx context.Context) enqueueStream {
			if dials++; dials == 1 {
				return f.dial(ctx)
			}
			return slowDial{f.dial(ctx), func() { ahead.Store(int64(time.Hour)) }}
		})
		sent := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		<-s.requests
		s.end <- errors.New("connection reset")
		s = <-f.streams
		select {
		case m := <-s.requests:
			t.Errorf("message %d was repeated after an hour", m.GetSequence())
			s.answer(1, m)
		case <-s.ctx.Done():
		}
		if got := <-sent; !errors.Is(got.err, ErrOutcomeUnknown) {
			t.Errorf("%v, want an unknown outcome", got.err)
		}
	})
}

// TestEnqueueClockSetBack: a wall clock that is set back prolongs nothing.
func TestEnqueueClockSetBack(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		var ahead *atomic.Int64
		c.enqueuer.clock, ahead = movedClock()
		sent := goEnqueue(t.Context(), c, Job{Queue: "q"})
		start := time.Now()
		(<-f.streams).end <- errors.New("connection reset")
		ahead.Store(-int64(time.Hour))
		for {
			select {
			case s := <-f.streams:
				s.end <- errors.New("connection reset")
				continue
			case got := <-sent:
				if took := time.Since(start); !errors.Is(got.err, ErrUnavailable) || took < time.Minute || took > time.Minute+2*backoffMax {
					t.Errorf("%v after %v", got.err, took)
				}
			}
			return
		}
	})
}

// brokenClient is an HTTP client whose calls fail, and which is told of each.
type brokenClient func(path string)

func (c brokenClient) Do(r *http.Request) (*http.Response, error) {
	c(r.URL.Path)
	return nil, errors.New("connection reset")
}

// TestCallSuspended: a call is not repeated after the machine was suspended.
func TestCallSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moved, ahead := movedClock()
		calls := 0
		c, err := NewClient(Config{RetryFor: 10 * time.Minute, HTTPClient: brokenClient(func(path string) {
			if !strings.HasSuffix(path, "/RetryDead") {
				return
			}
			if calls++; calls == 3 {
				ahead.Store(int64(time.Hour))
			}
		})})
		if err != nil {
			t.Fatal(err)
		}
		c.clock = moved
		if _, err := c.RetryAllDead(t.Context(), "q"); !errors.Is(err, ErrUnavailable) || calls != 3 {
			t.Errorf("%d calls: %v", calls, err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
