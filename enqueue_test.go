package beaver_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// TestEnqueueOneBadJob: what is wrong with one job must not spoil those that share its message, which may be other callers'.
func TestEnqueueOneBadJob(t *testing.T) {
	c := startServer(t)
	for name, bad := range map[string]beaver.Job{
		"run_at":  {RunAt: time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)},
		"retry":   {Retry: &beaver.RetryPolicy{Base: -1}},
		"timeout": {Timeout: 100 * 365 * 24 * time.Hour},
		"expired": {ExpiresAt: time.Now().Add(-time.Hour)},
		"list":    {Retry: &beaver.RetryPolicy{Kind: beaver.RetryList, Delays: []time.Duration{-1}}},
	} {
		t.Run(name, func(t *testing.T) {
			bad.Queue = "q"
			answers, err := c.EnqueueMany(t.Context(), []beaver.Job{{Queue: "q"}, bad, {Queue: "q"}})
			if err != nil || answers[0].Err != nil || answers[1].Err == nil || answers[2].Err != nil {
				t.Errorf("%v %+v", err, answers)
			}
		})
	}
}

// TestEnqueueQueueLimit: a job for one queue too many is refused; the jobs beside it are stored.
func TestEnqueueQueueLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 10,000 queues")
	}
	c := startServer(t)
	jobs := make([]beaver.Job, 10_000)
	for i := range jobs {
		jobs[i].Queue = fmt.Sprint("q", i)
	}
	for lo := 0; lo < len(jobs); lo += 2000 {
		answers, err := c.EnqueueMany(t.Context(), jobs[lo:lo+2000])
		if err != nil || answers[1999].Err != nil {
			t.Fatal(lo, err)
		}
	}
	answers, err := c.EnqueueMany(t.Context(), []beaver.Job{{Queue: "q1"}, {Queue: "one-too-many"}, {Queue: "q2"}})
	if err != nil || answers[0].Err != nil || !errors.Is(answers[1].Err, beaver.ErrResourceExhausted) || answers[2].Err != nil {
		t.Errorf("%v %+v", err, answers)
	}
}
