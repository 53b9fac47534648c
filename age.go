package beaver

import (
	"context"
	"time"
)

// clock tells how old something is. ahead is how far the wall clock was moved, which tests do; nil is not at all.
type clock struct{ ahead func() time.Duration }

// moment is when something happened.
type moment struct {
	at    time.Time
	ahead time.Duration
}

func (c clock) now() moment {
	m := moment{at: time.Now()}
	if c.ahead != nil {
		m.ahead = c.ahead()
	}
	return m
}

// since is how long ago an earlier moment was, by the clock that says more. The one that goes evenly stands still while the machine is
// suspended, and then the wall clock tells; when that is set back, the even one does. What is older by a wall clock that was set forward is only
// given up early.
func (c clock) since(m moment) time.Duration {
	now := c.now()
	wall := now.at.Round(0).Sub(m.at.Round(0)) + now.ahead - m.ahead
	return max(now.at.Sub(m.at), wall)
}

// patience is for how long a call is repeated, by either clock.
type patience struct {
	context.Context // ends after that, by the even clock
	clock           clock
	start           moment
	most            time.Duration
}

// patient begins the patience of a call with ctx.
func (c clock) patient(ctx context.Context, most time.Duration) (patience, context.CancelFunc) {
	p := patience{clock: c, start: c.now(), most: most}
	var cancel context.CancelFunc
	p.Context, cancel = context.WithTimeout(ctx, most)
	return p, cancel
}

// over reports whether the call is not to be repeated any more.
func (p patience) over() bool { return p.Err() != nil || p.clock.since(p.start) >= p.most }
