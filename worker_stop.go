package beaver

import (
	"context"
	"fmt"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const (
	// abandonWait is how long handlers may take to return once their contexts have ended; then their jobs are given back all
	// the same.
	abandonWait = 2 * time.Second
	// flushWait is how long the last outcomes may take to reach the server.
	flushWait = 5 * time.Second
)

// Stop takes no more jobs and waits for those that run. After the grace period, or when ctx ends, the jobs' contexts end, and
// what does not finish then is given back. It returns nil when the server has every outcome.
func (w *Worker) Stop(ctx context.Context) error {
	w.mu.Lock()
	if w.phase == phaseNew {
		w.phase = phaseClosing
		close(w.done)
	} else {
		w.stopLocked(ctx)
	}
	w.mu.Unlock()
	<-w.done
	return w.result()
}

// stopLocked begins to stop, once.
//
// REQUIRES: w.mu.
func (w *Worker) stopLocked(ctx context.Context) {
	if w.phase == phaseRunning {
		w.phase = phaseDraining
		signal(w.wake)
		go w.drain(ctx)
	}
}

// drain waits for the jobs that run, then for their outcomes to be answered, and closes the stream.
func (w *Worker) drain(ctx context.Context) {
	grace := time.NewTimer(w.cfg.GracePeriod)
	defer grace.Stop()
	if !w.until(w.noneRuns, grace.C, ctx.Done()) {
		w.cancelJobs(ErrStopped)
		wait := time.NewTimer(abandonWait)
		defer wait.Stop()
		if !w.until(w.noneRuns, wait.C, nil) {
			w.abandon()
		}
	}
	flush := time.NewTimer(flushWait)
	defer flush.Stop()
	flushed := w.until(w.nothingUnanswered, flush.C, nil)

	w.mu.Lock()
	if !flushed && w.err == nil {
		w.err = fmt.Errorf("beaver: the worker stopped with %d outcomes unanswered; those that did not reach the server are done "+
			"again", w.outbox.count())
	}
	w.phase = phaseClosing
	connected := w.welcomed
	w.mu.Unlock()
	signal(w.wake)
	if !flushed || !connected {
		w.cancel(ErrStopped) // Nobody listens: the server finds out by the worker's TTL.
	}
}

// until waits until the condition holds, and returns true, or until one of the channels fires.
func (w *Worker) until(condition func() bool, over <-chan time.Time, done <-chan struct{}) bool {
	for !condition() {
		select {
		case <-w.changed:
		case <-w.done:
			return condition()
		case <-over:
			return condition()
		case <-done:
			return condition()
		}
	}
	return true
}

func (w *Worker) noneRuns() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running) == 0
}

func (w *Worker) nothingUnanswered() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.outbox.count() == 0
}

// abandon gives back the jobs whose handlers do not return.
func (w *Worker) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for lease, r := range w.running {
		w.logger.Error("handler ignores the end of its context; its job is given back", "job", lease.ID, "kind", r.job.Kind)
		r.left = true
		if !r.lost {
			w.outbox.add(&beaverv1.Outcome{Id: string(lease.ID), Token: lease.Token, Release: true})
		}
		delete(w.running, lease)
	}
	signal(w.wake)
}
