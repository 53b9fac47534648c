//go:build unix

package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/history"
)

// consume runs consumers without a registration until ctx ends: each fetches, and ends what it got in one way or another.
func (t *traffic) consume(ctx context.Context, c *beaver.Client, who uint64, n int) {
	for i := range n {
		rng := t.rand(who + uint64(i))
		t.taking.Go(func() {
			for ctx.Err() == nil {
				t.fetch(ctx, c, rng)
			}
		})
	}
}

func (t *traffic) fetch(ctx context.Context, c *beaver.Client, rng *rand.Rand) {
	names := workedQueues()
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:1+rng.IntN(len(names))]
	call := t.record.now()
	jobs, err := c.Fetch(ctx, beaver.FetchRequest{Queues: names, Max: 1 + rng.IntN(8), Wait: 500 * time.Millisecond, Lease: trafficLease})
	ret := t.record.now()
	if err != nil && ctx.Err() != nil {
		return
	}
	t.record.called("fetch", err)
	for _, j := range jobs {
		t.record.leased(labelOf(j.Payload), call, ret, j.ID, j.Token, j.Attempt)
	}
	for _, j := range jobs {
		t.finish(ctx, c, rng, j)
	}
}

// finish ends an attempt, mostly well.
func (t *traffic) finish(ctx context.Context, c *beaver.Client, rng *rand.Rand, j *beaver.LeasedJob) {
	choice := rng.IntN(100)
	switch {
	case t.tidy.Load() || choice < 70:
		t.ack(c, j)
	case choice < 78:
		t.failJob(c, j, beaver.Failure{Message: "chaos", RetryAfter: upTo(rng, time.Second), Final: choice == 70})
	case choice < 84:
		t.release(c, j)
		if choice%2 == 0 {
			t.ack(c, j) // it is confused: the lease is not its own any more
		}
	case choice < 90:
		t.extend(c, j)
		t.progress(c, j)
		t.ack(c, j)
	case choice < 93:
		t.ack(c, j)
		t.ack(c, j) // the second is a repeat of the first
	case choice < 96 && len(j.Payload) > 0:
		// It is late. The lease runs out, unless the shard's clock stands still meanwhile.
		_ = pause(ctx, trafficLease+upTo(rng, time.Second))
		t.ack(c, j)
	default: // it is forgotten, and the lease runs out
	}
}

func (t *traffic) ack(c *beaver.Client, j *beaver.LeasedJob) {
	call := t.record.now()
	err := c.Ack(context.Background(), j.Lease, "", j.Payload[:8])
	t.record.called("ack", err)
	t.record.ended(history.Ack, labelOf(j.Payload), call, j.Token, "", err)
	if err == nil {
		t.record.confirmed(labelOf(j.Payload), j.Queue)
		t.open.Add(-1)
	}
}

func (t *traffic) failJob(c *beaver.Client, j *beaver.LeasedJob, f beaver.Failure) {
	call := t.record.now()
	state, err := c.Fail(context.Background(), j.Lease, f)
	t.record.called("fail", err)
	t.record.ended(history.Fail, labelOf(j.Payload), call, j.Token, state, err)
}

func (t *traffic) release(c *beaver.Client, j *beaver.LeasedJob) {
	call := t.record.now()
	err := c.Release(context.Background(), j.Lease)
	t.record.called("release", err)
	t.record.ended(history.Release, labelOf(j.Payload), call, j.Token, "", err)
}

func (t *traffic) extend(c *beaver.Client, j *beaver.LeasedJob) {
	call := t.record.now()
	_, err := c.Extend(context.Background(), j.Lease, trafficLease)
	t.record.called("extend", err)
	t.record.ended(history.Extend, labelOf(j.Payload), call, j.Token, "", err)
}

func (t *traffic) progress(c *beaver.Client, j *beaver.LeasedJob) {
	call := t.record.now()
	err := c.Progress(context.Background(), j.Lease, 50, "half of it")
	t.record.called("progress", err)
	t.record.ended(history.Progress, labelOf(j.Payload), call, j.Token, "", err)
}

// worker starts a registered worker. What it tells the server of a job is an outcome that may have been taken: nobody sees the answer.
func (t *traffic) worker(ctx context.Context, c *beaver.Client, who uint64) (*beaver.Worker, error) {
	handle := func(ctx context.Context, j *beaver.LeasedJob) error {
		rng := rand.New(rand.NewPCG(t.seed+who, j.Token))
		l, now := labelOf(j.Payload), t.record.now()
		t.record.leased(l, 0, now, j.ID, j.Token, j.Attempt)
		_ = pause(ctx, upTo(rng, 40*time.Millisecond)) // its work; a job that is not its own any more ends it
		choice := rng.IntN(100)
		switch {
		case t.tidy.Load() || choice < 85:
			t.record.mayEnd(history.Ack, l, now, j.Token)
			t.open.Add(-1)
			return nil
		case choice < 92:
			t.record.mayEnd(history.Fail, l, now, j.Token)
			return beaver.RetryAfter(upTo(rng, time.Second), errors.New("chaos"))
		case choice < 93:
			t.record.mayEnd(history.Fail, l, now, j.Token)
			return beaver.Permanent(errors.New("chaos"))
		default:
			t.record.mayEnd(history.Release, l, now, j.Token)
			return beaver.ErrRelease
		}
	}
	w, err := beaver.NewWorker(c, beaver.WorkerConfig{Queues: workedQueues(), Handler: beaver.HandlerFunc(handle), Concurrency: 4})
	if err != nil {
		return nil, err
	}
	return w, w.Start(ctx)
}

// program is what beaver work runs for each job: it notes which lease it ran under, and when.
func program(notes string) []string {
	return []string{"sh", "-c", `echo "$BEAVER_META_LABEL $BEAVER_JOB_ID $BEAVER_TOKEN $BEAVER_ATTEMPT $(date +%s%N)" >>` + notes}
}

// readNotes records the leases that programs ran under, and what the workers may have said of them. The programs' clock is the
// machine's; slack is more than it may have been set by meanwhile.
func (r *recorder) readNotes(name string) (int, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	const slack = 100 * time.Millisecond
	lines, count := bufio.NewScanner(f), 0
	for lines.Scan() {
		var l history.Label
		var id beaver.JobID
		var token uint64
		var attempt int
		var at string
		if _, err := fmt.Sscan(lines.Text(), &l, &id, &token, &attempt, &at); err != nil {
			return count, fmt.Errorf("a program noted %q: %w", lines.Text(), err)
		}
		started, ended := r.now(), time.Duration(0)
		var nanos int64
		if _, err := fmt.Sscan(at, &nanos); err == nil && !strings.HasSuffix(at, "N") {
			ran := time.Unix(0, nanos).Sub(r.began.Round(0))
			started, ended = min(ran+slack, r.now()), max(ran-slack, 0)
		}
		r.leased(l, 0, started, id, token, attempt)
		r.mayEnd(history.Ack, l, ended, token)
		r.mayEnd(history.Release, l, ended, token) // as its worker does with what it has when it is told to stop
		r.mayEnd(history.Fail, l, ended, token)    // as it does with a program that it ended, since its job was cancelled
		count++
	}
	return count, lines.Err()
}
