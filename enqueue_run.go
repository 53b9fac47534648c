package beaver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// closeWaitMax is how long the server may take to end a stream that is done.
const closeWaitMax = time.Second

// run sends batches until the enqueuer is closed and nothing is left, connecting again whenever the stream breaks.
func (e *enqueuer) run() {
	defer close(e.exited)
	var wait backoff
	for e.idle() {
		if e.connect() {
			wait.reset()
		}
		if e.ctx.Err() == nil && e.pending() && wait.wait(e.ctx) == nil {
			continue
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.giveUpLocked(0, ErrClosed)
}

// idle waits until there is something to send. It returns false when the enqueuer is closed and nothing is left.
func (e *enqueuer) idle() bool {
	for e.ctx.Err() == nil {
		if e.pending() {
			return true
		}
		e.mu.Lock()
		closed := e.closed
		e.mu.Unlock()
		if closed {
			return false
		}
		select {
		case <-e.wake:
		case <-e.ctx.Done():
		}
	}
	return false
}

func (e *enqueuer) pending() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.inFlight) > 0 || len(e.waiting) > 0
}

// connect opens a stream and sends on it until it breaks or the enqueuer is closed. It reports whether the server answered
// anything.
func (e *enqueuer) connect() bool {
	ctx, end := context.WithCancelCause(e.ctx)
	cancel := func() { end(nil) }
	defer cancel()
	stream := e.dial(ctx)
	e.mu.Lock()
	e.broken, e.answered = nil, false
	resend := slices.Clone(e.inFlight)
	before := len(resend)
	e.owed = time.Now()
	for _, b := range resend {
		b.again = true
	}
	e.mu.Unlock()

	received := make(chan struct{})
	go func() {
		defer close(received)
		defer cancel() // Send may wait for room in a stream that is over.
		e.receive(stream)
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		e.watch(ctx, stream, end)
	}()
	finished := e.send(stream, resend)
	_ = stream.CloseRequest() // The stream is over either way.
	if finished {
		select { // Let the server end it.
		case <-received:
		case <-time.After(closeWaitMax):
		}
	}
	cancel()
	<-received
	<-watched
	_ = stream.CloseResponse()

	e.mu.Lock()
	defer e.mu.Unlock()
	if !finished {
		if unreached(e.broken) {
			e.takeBackLocked(before)
		}
		e.lostLocked(asEnqueueError(e.broken))
	}
	return e.answered
}

// errSilent is what a stream ends with whose server is silent.
var errSilent = &Error{Code: CodeUnavailable, Reason: "SILENT", Message: "the server does not answer"}

// watch ends a stream whose server stands still while another would serve, or does not answer for answerMax, whatever it says when it is
// asked whether it is there. Nothing else would show it: the machine of a process that hangs acknowledges all bytes.
func (e *enqueuer) watch(ctx context.Context, stream nodeStream, end context.CancelCauseFunc) {
	timer := time.NewTimer(stallAfter)
	defer timer.Stop()
	var heard time.Time // when the server was last known to be there
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		since := e.owedSince()
		silent := false
		if latest(since, heard).Add(stallAfter).Compare(time.Now()) <= 0 {
			heard, silent = stream.silence(ctx)
		}
		// An answer that came meanwhile proves more.
		if (silent || time.Since(since) >= answerMax) && e.owedSince().Equal(since) {
			e.breakWith(errSilent)
			end(errSilent)
			return
		}
		due := latest(since, heard).Add(stallAfter)
		if most := since.Add(answerMax); most.Before(due) {
			due = most
		}
		timer.Reset(time.Until(due))
	}
}

// owedSince is since when an answer is owed: since now, if none is.
func (e *enqueuer) owedSince() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.inFlight) == 0 {
		return time.Now()
	}
	return e.owed
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// breakWith takes note of what the stream ended with, the first time.
func (e *enqueuer) breakWith(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken == nil {
		e.broken = err
	}
}

// takeBackLocked lets the batches from the given one on wait as before: their stream never reached the server, so they were
// not sent, and those who leave or give up now can be told so.
//
// REQUIRES: e.mu, no stream.
func (e *enqueuer) takeBackLocked(from int) {
	from = min(from, len(e.inFlight)) // of those before it some may have been answered, if the stream broke with an older one's error
	unsent := slices.Clone(e.inFlight[from:])
	e.inFlight = slices.Delete(e.inFlight, from, len(e.inFlight))
	e.sequence -= uint64(len(unsent))
	for _, b := range unsent {
		b.sequence = 0
	}
	e.waiting = slices.Insert(e.waiting, 0, unsent...)
}

// errTooOld says that a repeat was not sent: the client stood still since it was decided, or for long before it was connected.
var errTooOld = errors.New("beaver: the message is too old to be repeated")

// send sends first the batches of the last stream that were not answered, then what comes. It returns true when the
// enqueuer is closed and nothing is left, and false when the stream is broken.
func (e *enqueuer) send(stream enqueueStream, resend []*batch) bool {
	message := &enqueueMessage{session: e.session[:]}
	for {
		var b *batch
		if len(resend) > 0 {
			b, resend = resend[0], resend[1:]
			message.tooOld = func() bool { return e.clock.since(b.since) >= max(e.retryFor, answerMax) }
		} else {
			var finished bool
			if b, finished = e.take(); b == nil {
				return finished
			}
			message.tooOld = nil
		}
		message.sequence, message.atomic, message.jobs = b.sequence, b.atomic, b.jobs
		if err := stream.Send(message); err != nil {
			if errors.Is(err, errTooOld) {
				e.breakWith(e.lost)
			}
			// Receive returns what the server said; Send only that it is over.
			return false
		}
		message.session = nil
	}
}

// take waits for the next batch to send and gives it its sequence number. It returns no batch when the stream is broken, or,
// finished, when the enqueuer is closed and nothing is left.
func (e *enqueuer) take() (b *batch, finished bool) {
	gathered := false
	for {
		e.mu.Lock()
		switch {
		case e.broken != nil || e.ctx.Err() != nil:
			e.mu.Unlock()
			return nil, false
		case len(e.waiting) > 0 && e.waiting[0].count() == 0: // All its callers left.
			e.popLocked()
			e.mu.Unlock()
			continue
		case len(e.waiting) > 0 && len(e.inFlight) < messagesInFlight:
			if gathered {
				b = e.popLocked()
				e.sequence++
				b.sequence = e.sequence
				if len(e.inFlight) == 0 {
					e.owed = time.Now()
				}
				e.inFlight = append(e.inFlight, b)
				e.mu.Unlock()
				return b, false
			}
			// Callers that an answer just woke are about to come back: let those that can run join this message.
			gathered = true
			e.mu.Unlock()
			runtime.Gosched()
			continue
		case e.closed && len(e.waiting) == 0 && len(e.inFlight) == 0:
			e.mu.Unlock()
			return nil, true
		}
		e.mu.Unlock()
		select {
		case <-e.wake:
		case <-e.ctx.Done():
		}
	}
}

// popLocked takes the first waiting batch, which makes room.
//
// REQUIRES: e.mu.
func (e *enqueuer) popLocked() *batch {
	b := e.waiting[0]
	e.waiting = slices.Delete(e.waiting, 0, 1)
	if e.room != nil {
		close(e.room)
		e.room = nil
	}
	return b
}

// receive completes batches until the stream ends, and then wakes run.
func (e *enqueuer) receive(stream enqueueStream) {
	for {
		answer, err := stream.Receive()
		more := true
		if err == nil {
			more, err = e.complete(answer)
		}
		if err != nil {
			e.breakWith(err)
			e.signal()
			return
		}
		if more {
			e.signal()
		}
	}
}

// complete gives the batches that the message answers their answers, and reports whether run has something to do: to wake it
// for nothing would let it go before the callers.
func (e *enqueuer) complete(answer *beaverv1.EnqueueStreamResponse) (more bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answered = true
	ids, errs, existing := answer.GetIds(), answer.GetErrors(), answer.GetExisting()
	first := 0 // of the batch's jobs among those answered
	for len(e.inFlight) > 0 && e.inFlight[0].sequence <= answer.GetThrough() {
		b := e.inFlight[0]
		size := b.count() * jobIDWireBytes
		if len(ids) < size {
			return false, fmt.Errorf("the answer through message %d has too few ids", answer.GetThrough())
		}
		b.ids, ids = ids[:size:size], ids[size:]
		for len(errs) > 0 && int(errs[0].GetIndex()) < first+b.count() {
			b.errs = append(b.errs, jobRefusal{int(errs[0].GetIndex()) - first, fromJobError(errs[0])})
			errs = errs[1:]
		}
		for len(existing) > 0 && int(existing[0]) < first+b.count() {
			b.existing = append(b.existing, int(existing[0])-first)
			existing = existing[1:]
		}
		first += b.count()
		e.inFlight = slices.Delete(e.inFlight, 0, 1)
		e.owed = time.Now()
		e.doneLocked(b)
	}
	return len(e.waiting) > 0 || e.closed, nil
}

// doneLocked wakes the callers of b, whose answer is set, and keeps its buffer for another.
//
// REQUIRES: e.mu.
func (e *enqueuer) doneLocked(b *batch) {
	if len(e.spare) < waitingMax+messagesInFlight {
		e.spare = append(e.spare, b.jobs[:0])
	}
	b.jobs = nil
	close(b.done)
}

// lostLocked decides what becomes of the batches when the stream ended with err: a refusal concerns the first one that was
// not answered, since answers come in order; otherwise they are sent again, unless that was tried for too long.
//
// REQUIRES: e.mu.
func (e *enqueuer) lostLocked(err *Error) {
	if err.refusal && len(e.inFlight) > 0 {
		b := e.inFlight[0]
		e.inFlight = slices.Delete(e.inFlight, 0, 1)
		b.err = err
		if b.doubts(err) {
			b.err = repeatRefused(err)
		}
		e.doneLocked(b)
		return
	}
	e.lost = err
	e.logger.Warn("enqueue stream lost", "error", err, "in_flight", len(e.inFlight))
	e.giveUpLocked(e.retryFor, err)
}

// giveUpLocked fails the batches that are so old: those sent may have been stored.
//
// REQUIRES: e.mu.
func (e *enqueuer) giveUpLocked(age time.Duration, err *Error) {
	e.inFlight = slices.DeleteFunc(e.inFlight, func(b *batch) bool {
		if e.clock.since(b.since) < age {
			return false
		}
		b.err = &Error{
			Code: err.Code, Reason: reasonOutcomeUnknown, cause: err,
			Message: "the job was sent but not answered, and may be stored: " + err.Message,
		}
		e.doneLocked(b)
		return true
	})
	for len(e.waiting) > 0 && e.clock.since(e.waiting[0].since) >= age {
		b := e.popLocked()
		b.err = err
		e.doneLocked(b)
	}
}

// asEnqueueError classifies what the stream ended with.
func asEnqueueError(err error) *Error {
	if err == nil || errors.Is(err, io.EOF) {
		return &Error{Code: CodeUnavailable, Message: "the server ended the enqueue stream"}
	}
	e := *asError(err)
	e.refusal = connect.IsWireError(err)
	switch e.Code {
	case CodeUnavailable, CodeAborted, CodeCanceled, CodeDeadlineExceeded, CodeUnknown, CodeInternal:
		e.refusal = false
	default: // The server says no.
	}
	return &e
}
