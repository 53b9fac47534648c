package beaver

import (
	"context"
	"errors"
	"time"
)

// upgrading is for how long jobs are sent again that the cluster does not take while one of its nodes may be too old for them. Each time they
// are a new message: they were not stored.
type upgrading struct {
	retryFor time.Duration
	until    time.Time // when that is over; zero: nothing was refused yet
	wait     backoff
}

// again reports whether jobs that were refused with err are to be sent once more, when that is due.
func (u *upgrading) again(ctx context.Context, err error) bool {
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != reasonVersionsDiffer {
		return false
	}
	if u.until.IsZero() {
		u.until = time.Now().Add(u.retryFor)
	}
	ctx, cancel := context.WithDeadline(ctx, u.until)
	defer cancel()
	return u.wait.wait(ctx) == nil
}

// againMany is again for those of many jobs that were refused so, of which it returns the indexes.
func (u *upgrading) againMany(ctx context.Context, answers []Enqueued) (refused []int) {
	var first *Error
	for i := range answers {
		if err := answers[i].Err; err != nil && err.Reason == reasonVersionsDiffer {
			refused, first = append(refused, i), err
		}
	}
	if first == nil || !u.again(ctx, first) {
		return nil
	}
	return refused
}
