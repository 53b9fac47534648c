package beaver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// run is one attempt of a job in its handler. Its own mutex guards the deadline; the worker's guards lost and abandoned.
type run struct {
	context.Context
	cancel context.CancelCauseFunc
	job    *LeasedJob
	lost   bool // the outcome does not matter any more
	left   bool // given back while the handler goes on

	mu       sync.Mutex
	deadline time.Time   // on our clock; zero: none
	timer    *time.Timer // ends the context at the deadline
	offset   time.Duration
}

// Deadline says when the attempt times out, as extended until now.
func (r *run) Deadline() (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deadline, !r.deadline.IsZero()
}

// extend moves the deadline; t is on the server's clock.
func (r *run) extend(t time.Time) {
	if t.IsZero() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = t.Add(-r.offset)
	if r.timer == nil {
		r.timer = time.AfterFunc(time.Until(r.deadline), func() { r.cancel(context.DeadlineExceeded) })
		return
	}
	r.timer.Reset(time.Until(r.deadline))
}

func (r *run) stopTimer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
}

// lose ends the context of a job that is not the worker's any more.
//
// REQUIRES: the worker's mutex.
func (r *run) lose() {
	r.lost = true
	r.cancel(ErrLeaseLost)
}

// startLocked starts the handler of a job that the server sent. A job too many is given back.
//
// REQUIRES: w.mu.
func (w *Worker) startLocked(m *beaverv1.LeasedJob) {
	w.credits = max(0, w.credits-1)
	job := leasedJobOf(w.client, m)
	if w.phase != phaseRunning || len(w.running) >= w.cfg.Concurrency {
		w.outbox.add(&beaverv1.Outcome{Id: m.GetId(), Token: m.GetToken(), Release: true})
		return
	}
	r := &run{job: job, offset: w.offset}
	r.Context, r.cancel = context.WithCancelCause(w.jobsCtx)
	r.extend(job.Deadline)
	job.run = r
	w.running[job.Lease] = r
	go w.do(r)
}

// do runs the handler of a job, and puts the outcome on its way, also when the handler panics or ends its goroutine.
func (w *Worker) do(r *run) {
	err := error(&PanicError{Value: "the handler ended its goroutine"}) // runtime.Goexit; there is no way back from it.
	defer func() { w.end(r, err) }()
	err = w.handle(r)
}

// handle calls the handler, and makes an error of a panic.
func (w *Worker) handle(r *run) (err error) {
	defer func() {
		if value := recover(); value != nil {
			w.logger.Error("handler panicked", "job", r.job.ID, "kind", r.job.Kind, "panic", fmt.Sprint(value))
			err = &PanicError{Value: value, Stack: string(debug.Stack())}
		}
	}()
	return w.cfg.Handler.Handle(r, r.job)
}

// end takes note of what the handler of a job returned.
func (w *Worker) end(r *run, err error) {
	r.stopTimer()
	message := outcomeOf(r.job, err, context.Cause(r))
	r.cancel(nil)

	w.mu.Lock()
	defer w.mu.Unlock()
	if isPanic(err) {
		w.stats.Panicked++
	}
	switch {
	case r.left: // Its slot and its outcome are gone already.
	case r.lost:
		w.stats.Stale++
		delete(w.running, r.job.Lease)
	default:
		w.outbox.add(message)
		delete(w.running, r.job.Lease)
	}
	signal(w.wake)
	signal(w.changed)
}

func isPanic(err error) bool {
	_, ok := errors.AsType[*PanicError](err)
	return ok
}

// outcomeOf says how an attempt ended that returned err, and whose context ended with cause, if it did.
func outcomeOf(job *LeasedJob, err, cause error) *beaverv1.Outcome {
	o := &beaverv1.Outcome{Id: string(job.ID), Token: job.Token}
	if err == nil {
		o.Result, o.ContentType = job.result, job.resultContentType
		return o
	}
	own, detailed := errors.AsType[*Failure](err)
	v, decided := errors.AsType[*verdict](err)
	if errors.Is(err, ErrRelease) || errors.Is(cause, ErrStopped) && !decided && !detailed {
		o.Release = true
		return o
	}
	f := Failure{Type: fmt.Sprintf("%T", err), Message: err.Error()}
	if decided {
		f.Type, f.Final, f.RetryAfter = fmt.Sprintf("%T", v.err), v.final, v.retryAfter
	}
	if detailed {
		f.Type, f.Stack, f.Final, f.RetryAfter = own.Type, own.Stack, f.Final || own.Final, cmp.Or(f.RetryAfter, own.RetryAfter)
	}
	p, panicked := errors.AsType[*PanicError](err)
	switch {
	case panicked:
		f.Type, f.Stack = "panic", p.Stack
	case errors.Is(cause, context.DeadlineExceeded):
		f.Type = "timeout"
	case errors.Is(cause, ErrCancelled):
		f.Type = "cancelled"
	}
	o.Failure = f.proto()
	return o
}
