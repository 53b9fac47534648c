package beaver

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	backoffMin = 20 * time.Millisecond
	backoffMax = 2 * time.Second
)

// backoff says how long to wait before the next try: twice as long each time, and a random part of it, so that clients which
// lost one server together do not come back together. The zero value is ready.
type backoff struct {
	step time.Duration
}

func (b *backoff) next() time.Duration {
	b.step = min(max(2*b.step, backoffMin), backoffMax)
	return b.step/2 + rand.N(b.step/2)
}

func (b *backoff) reset() { b.step = 0 }

// wait waits for the next try. It returns early, with the context's cause, when ctx ends.
func (b *backoff) wait(ctx context.Context) error {
	t := time.NewTimer(b.next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
