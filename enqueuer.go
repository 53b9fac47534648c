package beaver

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// waitingMax is how many batches may wait to be sent; callers beyond wait for room.
const waitingMax = 4

// enqueuer gathers the jobs of concurrent callers into messages on one stream, and clocks itself: at most messagesInFlight
// messages are on their way, and meanwhile the next one fills. No timers, and a lone caller waits for nobody.
//
// Invariant: a message keeps its (session, sequence) until it is answered or given up, however often it is sent; so the
// server stores its jobs at most once.
//
// Three goroutines: run sends, and connects again when the stream breaks; receive and watch, one a stream each, complete
// batches and look whether the server still answers. All end before close returns.
type enqueuer struct {
	dial     func(context.Context) nodeStream
	retryFor time.Duration
	logger   *slog.Logger
	clock    clock
	session  [16]byte

	ctx    context.Context // ends when close gives up
	cancel context.CancelCauseFunc
	wake   chan struct{} // to run: something to send, or a message answered, or the stream broke
	exited chan struct{} // run has ended

	mu       sync.Mutex
	started  bool
	closed   bool
	sequence uint64        // of the last message
	waiting  []*batch      // not sent; the last may be open
	inFlight []*batch      // sent and not answered, by sequence
	owed     time.Time     // since when the answer to the first of them is; valid while there is one
	room     chan struct{} // closed when a batch leaves waiting; nil when nobody waits for that
	spare    [][]byte      // buffers of answered batches
	broken   error         // what the stream ended with; nil while it is good
	lost     error         // why the stream before was; of run
	answered bool          // the stream has brought an answer
}

func newEnqueuer(dial func(context.Context) nodeStream, retryFor time.Duration, logger *slog.Logger) *enqueuer {
	e := &enqueuer{
		dial: dial, retryFor: retryFor, logger: logger,
		wake: make(chan struct{}, 1), exited: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	rand.Read(e.session[:]) // It never fails.
	return e
}

// add puts a job into a batch that is still to be sent. It waits, until ctx ends, while too many wait.
func (e *enqueuer) add(ctx context.Context, job *Job) (place, error) {
	encoded, err := newEncoding(job)
	if err != nil {
		return place{}, err
	}
	for {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return place{}, ErrClosed
		}
		if b := e.open(encoded.size, false); b != nil {
			p := b.append(&encoded)
			e.startLocked()
			e.mu.Unlock()
			if p.index == 0 {
				e.signal()
			}
			return p, nil
		}
		room := e.roomLocked()
		e.mu.Unlock()
		if err := e.waitRoom(ctx, room); err != nil {
			return place{}, err
		}
	}
}

// addMany puts jobs into batches, as many as fit at a time, and their places into places. It passes over those that have an
// error in answers already, and adds the errors of its own. When it fails, the jobs without a place and an error are missing.
func (e *enqueuer) addMany(ctx context.Context, jobs []Job, answers []Enqueued, places []place) error {
	for next := 0; ; {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return ErrClosed
		}
		next = e.fillMany(next, jobs, answers, places)
		e.startLocked()
		if next == len(jobs) {
			e.mu.Unlock()
			e.signal()
			return nil
		}
		room := e.roomLocked()
		e.mu.Unlock()
		e.signal()
		if err := e.waitRoom(ctx, room); err != nil {
			return err
		}
	}
}

// fillMany puts the jobs from next on into batches, and returns the first one that there is no room for.
//
// REQUIRES: e.mu.
func (e *enqueuer) fillMany(next int, jobs []Job, answers []Enqueued, places []place) int {
	for ; next < len(jobs); next++ {
		if answers[next].Err != nil {
			continue
		}
		encoded, err := newEncoding(&jobs[next])
		if err != nil {
			answers[next].Err = asError(err)
			continue
		}
		b := e.open(encoded.size, false)
		if b == nil {
			return next
		}
		places[next] = b.append(&encoded)
	}
	return next
}

// addAtomic puts jobs into a batch of their own.
func (e *enqueuer) addAtomic(ctx context.Context, jobs []Job) (place, error) {
	for {
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			return place{}, ErrClosed
		}
		if b := e.open(0, true); b != nil {
			err := e.fillLocked(b, jobs)
			if err != nil {
				e.waiting = e.waiting[:len(e.waiting)-1]
			}
			e.startLocked()
			e.mu.Unlock()
			e.signal()
			return place{b, 0}, err
		}
		room := e.roomLocked()
		e.mu.Unlock()
		if err := e.waitRoom(ctx, room); err != nil {
			return place{}, err
		}
	}
}

// fillLocked encodes all jobs into b.
//
// REQUIRES: e.mu.
func (e *enqueuer) fillLocked(b *batch, jobs []Job) error {
	for i := range jobs {
		encoded, err := newEncoding(&jobs[i])
		if err != nil {
			return err
		}
		b.append(&encoded)
		if len(jobs) > 1 && len(b.jobs) > messageBytesMax {
			return tooLarge("jobs", "the jobs have more than %d bytes together; fewer can be stored atomically", messageBytesMax)
		}
	}
	return nil
}

// open returns a batch that takes a job of so many bytes, or nil when there is no room. A batch for atomic is always new.
//
// REQUIRES: e.mu.
func (e *enqueuer) open(size int, atomic bool) *batch {
	if n := len(e.waiting); n > 0 && !atomic && e.waiting[n-1].fits(size) {
		return e.waiting[n-1]
	} else if n >= waitingMax {
		return nil
	}
	b := &batch{done: make(chan struct{}), since: e.clock.now(), atomic: atomic}
	if n := len(e.spare); n > 0 {
		b.jobs, e.spare = e.spare[n-1], e.spare[:n-1]
	}
	e.waiting = append(e.waiting, b)
	return b
}

// roomLocked returns a channel that is closed when a batch leaves e.waiting.
//
// REQUIRES: e.mu.
func (e *enqueuer) roomLocked() chan struct{} {
	if e.room == nil {
		e.room = make(chan struct{})
	}
	return e.room
}

func (e *enqueuer) waitRoom(ctx context.Context, room chan struct{}) error {
	select {
	case <-room:
		return nil
	case <-ctx.Done():
		return notSent(ctx)
	case <-e.ctx.Done():
		return ErrClosed
	}
}

// notSent is the error of a call whose context ended before its job was sent.
func notSent(ctx context.Context) *Error {
	e := asError(ctx.Err())
	return &Error{Code: e.Code, Message: "the job was not sent: " + e.Message, cause: context.Cause(ctx)}
}

// wait waits for the answer to the batch of p, or for the end of ctx. Then a job that was not sent is taken back.
func (e *enqueuer) wait(ctx context.Context, p place) error {
	done := ctx.Done()
	if done == nil {
		<-p.batch.done
		return nil
	}
	select {
	case <-p.batch.done:
		return nil
	case <-done:
		return e.abandon(ctx, p)
	}
}

func (e *enqueuer) abandon(ctx context.Context, p place) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := p.batch
	select {
	case <-b.done:
		return nil
	default:
	}
	if b.sequence != 0 {
		return &Error{
			Code: asError(ctx.Err()).Code, Reason: reasonOutcomeUnknown, cause: context.Cause(ctx),
			Message: "the job was sent but not answered in time (" + ctx.Err().Error() + "): it may be stored, now or later",
		}
	}
	if !b.atomic {
		b.remove(p.index)
		return notSent(ctx)
	}
	for i, w := range e.waiting {
		if w == b {
			e.waiting = append(e.waiting[:i:i], e.waiting[i+1:]...)
			break
		}
	}
	return notSent(ctx)
}

func (e *enqueuer) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// startLocked starts run with the first job.
//
// REQUIRES: e.mu.
func (e *enqueuer) startLocked() {
	if !e.started {
		e.started = true
		go e.run()
	}
}

// close waits until all jobs are answered, or ctx ends; then those left get ErrOutcomeUnknown or ErrClosed.
func (e *enqueuer) close(ctx context.Context) error {
	e.mu.Lock()
	e.closed = true
	started := e.started
	e.mu.Unlock()
	if !started {
		e.cancel(ErrClosed)
		return nil
	}
	e.signal()
	select {
	case <-e.exited:
		e.cancel(ErrClosed)
		return nil
	case <-ctx.Done():
		e.cancel(ErrClosed)
		<-e.exited
		return fmt.Errorf("beaver: closed before all jobs were answered: %w", context.Cause(ctx))
	}
}
