package transport

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestEras: a call tells in which era its connection was accepted, and when another one has begun its peer comes by a new connection.
func TestEras(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var era atomic.Uint64
		era.Store(1)
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		h2.serve = func(ctx context.Context, _ uint64, _ uint8, _ []byte) ([]byte, error) {
			return fmt.Append(nil, EraOf(ctx)), nil
		}
		one, two := p.pair(t, h1, h2, func(c *Config) { c.Era = era.Load })
		call := func(want string) {
			t.Helper()
			if answer, err := one.Call(t.Context(), 2, 1, nil); err != nil || string(answer) != want {
				t.Errorf("the call came in era %s, %v; want %s", answer, err, want)
			}
		}
		call("1")
		two.CutEarlier()
		synctest.Wait()
		call("1")
		if n := p.dials.Load(); n != 1 {
			t.Errorf("%d connections were made, want 1: it is of this era", n)
		}
		era.Store(2)
		call("1") // nobody has cut it yet: the handler knows what it is worth
		two.CutEarlier()
		time.Sleep(BackoffMaxDefault)
		call("2")
		if n := p.dials.Load(); n != 2 {
			t.Errorf("%d connections were made, want 2", n)
		}
	})
}

// TestEraBeginsInHandshake: a connection that was of an earlier era when its handshake was over is not kept.
func TestEraBeginsInHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Uint64
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		h2.serve = func(ctx context.Context, _ uint64, _ uint8, _ []byte) ([]byte, error) {
			return fmt.Append(nil, EraOf(ctx)), nil
		}
		one := p.node(t, 1, h1, nil)
		two := p.node(t, 2, h2, func(c *Config) {
			c.Era = func() uint64 { return min(2, asked.Add(1)) } // the first connection is accepted in the first era
		})
		setPeer(t, one, 2, "node-2")
		setPeer(t, two, 1, "node-1")
		if answer, err := one.Call(t.Context(), 2, 1, nil); err == nil {
			t.Errorf("a call by such a connection is answered: %s", answer)
		}
		time.Sleep(BackoffMaxDefault)
		if answer, err := one.Call(t.Context(), 2, 1, nil); err != nil || string(answer) != "2" {
			t.Errorf("%s, %v", answer, err)
		}
	})
}
