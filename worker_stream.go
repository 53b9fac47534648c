package beaver

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const (
	// ttlAssumed is a worker's TTL until the server says its own.
	ttlAssumed = 5 * time.Second
	// silenceShare is which part of its TTL a worker waits for a sign of life of its server: half, so that it comes to another node
	// before it is taken for lost.
	silenceShare = 2
	// offsetMin is the least difference of clocks that is believed: the header it is read from has whole seconds.
	offsetMin = 2 * time.Second
)

// workStream is the stream to the server. Send and Receive may run at once, and fail when the context that the stream was
// opened with ends.
type workStream interface {
	Send(*beaverv1.WorkRequest) error
	Receive() (*beaverv1.WorkResponse, error)
	ResponseHeader() http.Header // valid after Receive
	CloseRequest() error
	CloseResponse() error
}

// run keeps the worker connected until it is closing, or the server does not want it.
func (w *Worker) run() {
	defer close(w.done)
	defer w.cancel(ErrStopped)
	defer w.cancelJobs(ErrStopped)
	var wait backoff
	for {
		welcomed, err := w.connect()
		if w.ctx.Err() != nil || w.closing() {
			return
		}
		if w.refused(err) {
			return
		}
		if welcomed {
			wait.reset()
		}
		w.logger.Warn("work stream lost", "error", err)
		if wait.wait(w.ctx) != nil {
			return
		}
	}
}

func (w *Worker) closing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.phase == phaseClosing
}

// refused takes note of what the stream ended with. It returns true when trying again would not help.
func (w *Worker) refused(err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Disconnected++
	e := asError(err)
	if errors.Is(e, ErrWorkerLost) || e.Code == CodeNotFound {
		w.outbox.again(connect.IsWireError(err)) // Before the server's word comes its answer to all that it read.
		w.forgetLocked()
		return false
	}
	switch e.Code {
	case CodeInvalidArgument, CodeUnauthenticated, CodePermissionDenied, CodeUnimplemented, CodeFailedPrecondition:
	default:
		return false
	}
	if !connect.IsWireError(err) || w.id != 0 {
		return false // A worker that was taken once keeps its jobs, and tries on until it is stopped.
	}
	w.err = e
	return true
}

// forgetLocked takes note that the server knows the worker no more: what it held is lost.
//
// REQUIRES: w.mu.
func (w *Worker) forgetLocked() {
	w.id = 0
	for _, r := range w.running {
		r.lose()
	}
}

// connect opens a stream and sends on it until it breaks or the worker is closing. It returns what the stream ended with,
// and whether the server welcomed the worker.
func (w *Worker) connect() (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(w.ctx)
	defer cancel(nil)
	stream := w.open(ctx)
	w.mu.Lock()
	w.broken, w.welcomed, w.told, w.credits, w.received = nil, false, false, 0, 0
	w.outbox.again(false)
	w.mu.Unlock()

	received := make(chan struct{})
	go func() {
		defer close(received)
		defer cancel(nil) // Send may wait for room in a stream that is over.
		w.receive(stream, func() { cancel(errSilent) })
	}()
	finished := w.send(stream)
	if finished {
		_ = stream.CloseRequest() // Goodbye. A stream that just breaks leaves the worker its jobs.
		select {                  // Let the server end it.
		case <-received:
		case <-time.After(closeWaitMax):
		}
	}
	cancel(nil)
	<-received
	_ = stream.CloseResponse()
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(context.Cause(ctx), errSilent) {
		w.broken = errSilent
	} else if w.broken == nil || errors.Is(w.broken, io.EOF) {
		w.broken = &Error{Code: CodeUnavailable, Message: "the server ended the work stream"}
	}
	welcomed = w.welcomed
	w.welcomed = false
	return welcomed, w.broken
}

// send sends what there is to say, and all that the worker holds every third of the TTL. It returns true when the worker is closing, and
// false when the stream is broken.
func (w *Worker) send(stream workStream) bool {
	m, full := w.hello(), true
	beat := time.NewTimer(0)
	defer beat.Stop()
	for {
		if err := stream.Send(m); err != nil {
			return false // Receive returns what the server said; Send only that it is over.
		}
		if full {
			w.mu.Lock()
			// A little sooner, each time by another bit, so that workers that began together do not stay in step.
			beat.Reset(w.ttl/3 - rand.N(w.ttl/30+1))
			w.mu.Unlock()
		}
		var over, finished bool
		if m, full, over, finished = w.await(beat.C); over {
			return finished
		}
	}
}

// await waits for the next message to send, which is full when it names all that the worker holds. The stream is over when
// there is none: finished, or broken.
func (w *Worker) await(beat <-chan time.Time) (m *beaverv1.WorkRequest, full, over, finished bool) {
	yielded := false
	for {
		m, over, finished = w.next()
		if over {
			return nil, false, true, finished
		}
		if m != nil {
			select {
			case <-beat: // Also a busy worker is compared with what the server thinks it holds.
				return w.heartbeat(), true, false, false
			default:
			}
			if yielded {
				return w.fill(m), false, false, false
			}
			// Handlers that are about to end can join this message.
			yielded = true
			runtime.Gosched()
			continue
		}
		select {
		case <-w.wake:
			if w.hurried() {
				return w.heartbeat(), true, false, false
			}
		case <-beat:
			return w.heartbeat(), true, false, false
		case <-w.ctx.Done():
			return nil, false, true, false
		}
	}
}

// hurried says, once, that the welcome brought a shorter TTL than the next heartbeat is timed for.
func (w *Worker) hurried() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.hurry
	w.hurry = false
	return was
}

// next returns an empty message if there is something to say.
func (w *Worker) next() (m *beaverv1.WorkRequest, over, finished bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.phase == phaseClosing:
		return nil, true, true
	case w.broken != nil:
		return nil, true, false
	case w.newsLocked():
		return &beaverv1.WorkRequest{}, false, false
	}
	return nil, false, false
}

// newsLocked reports whether there is something to say to the server.
//
// REQUIRES: w.mu.
func (w *Worker) newsLocked() bool {
	return w.outbox.ready() || w.creditsLocked() > 0 || w.isQuietLocked() != w.told
}

// hello is the first message of a stream.
func (w *Worker) hello() *beaverv1.WorkRequest {
	m := w.heartbeat()
	w.mu.Lock()
	m.Hello, m.WorkerId = w.cfg.proto(), w.id
	w.mu.Unlock()
	return m
}

// heartbeat is a message with all that the worker holds, so that the server can tell what is lost, and takes back what the
// worker does not know of.
func (w *Worker) heartbeat() *beaverv1.WorkRequest {
	m := &beaverv1.WorkRequest{}
	w.mu.Lock()
	for lease := range w.running {
		m.Held = append(m.Held, &beaverv1.LeaseRef{Id: string(lease.ID), Token: lease.Token})
	}
	m.Held = w.outbox.held(m.Held)
	m.Received, m.Complete = w.received, true
	w.mu.Unlock()
	return w.fill(m)
}

// fill puts into m what there is to say.
func (w *Worker) fill(m *beaverv1.WorkRequest) *beaverv1.WorkRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outbox.ready() {
		w.outbox.fill(m)
	}
	if !m.GetComplete() {
		m.Received = w.received // A complete one says how many there were when it named them.
	}
	if n := w.creditsLocked(); n > 0 {
		m.Credits = uint32(n)
		w.credits += n
	}
	quiet := w.isQuietLocked()
	if m.Quiet = quiet; quiet {
		w.credits = 0
	}
	w.told = quiet
	m.Stopping = w.phase >= phaseDraining
	return m
}

func (w *Worker) isQuietLocked() bool { return w.quiet || w.phase >= phaseDraining }

// creditsLocked is how many more jobs the server may send. With outcomes piling up it is none, so that they are bounded.
//
// REQUIRES: w.mu.
func (w *Worker) creditsLocked() int {
	if w.isQuietLocked() || w.outbox.count() > w.cfg.Concurrency+outcomesMax {
		return 0
	}
	if len(w.outbox.waiting) > 0 && !w.outbox.ready() {
		return 0 // They go together with the outcomes, once a message is answered.
	}
	return w.cfg.Concurrency - len(w.running) - w.credits
}

// receive takes what the server says until the stream ends, and then wakes run. Once the server has given a sign of life it has to go on:
// a server that stands still holds its connections, so that nothing else would show it. An older one gives none.
func (w *Worker) receive(stream workStream, silent func()) {
	var alarm *time.Timer
	defer func() {
		if alarm != nil {
			alarm.Stop()
		}
	}()
	for {
		m, err := stream.Receive()
		switch {
		case err != nil:
		case alarm != nil:
			alarm.Reset(w.silenceMax())
		case isSign(m):
			alarm = time.AfterFunc(w.silenceMax(), silent)
		}
		if err != nil {
			w.mu.Lock()
			w.broken = err
			w.mu.Unlock()
			signal(w.wake)
			return
		}
		if m.GetWelcome() != nil {
			w.welcome(m.GetWelcome(), stream.ResponseHeader())
		}
		if w.take(m) {
			signal(w.wake)
		}
	}
}

// silenceMax is for how long the server may say nothing.
func (w *Worker) silenceMax() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ttl / silenceShare
}

// isSign reports whether a message says nothing but that the server is there.
func isSign(m *beaverv1.WorkResponse) bool {
	return m.GetWelcome() == nil && len(m.GetJobs()) == 0 && m.GetOutcomesThrough() == 0 && proto.Size(m) == 0
}

func (w *Worker) welcome(m *beaverv1.Welcome, header http.Header) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.id == 0
	if !first && w.id != m.GetWorkerId() {
		w.forgetLocked()
	}
	w.id, w.welcomed = m.GetWorkerId(), true
	w.quiet = false // The welcome's message says so if it is otherwise: a server that started again remembers no wish.
	if d := m.GetTtl().AsDuration(); d > 0 {
		w.hurry = d < w.ttl
		w.ttl = d
	}
	w.offset = clockOffset(header.Get("Date"), time.Now())
	w.logger.Info("worker registered", "id", w.id, "ttl", w.ttl, "clock_offset", w.offset)
	select {
	case <-w.registered:
	default:
		close(w.registered)
	}
}

// clockOffset is what the server's clock is ahead of ours, as far as its header shows.
func clockOffset(date string, now time.Time) time.Duration {
	t, err := http.ParseTime(date)
	if err != nil {
		return 0
	}
	if d := t.Sub(now.Truncate(time.Second)); d > offsetMin || d < -offsetMin {
		return d
	}
	return 0
}

// take does what the server says, and reports whether run has something to do: most jobs leave nothing to say, and to wake
// run for that would let it go before their handlers.
func (w *Worker) take(m *beaverv1.WorkResponse) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answeredLocked(m)
	for _, l := range m.GetCancel() {
		if r := w.running[leaseOf(l)]; r != nil {
			r.cancel(ErrCancelled)
		}
	}
	for _, l := range m.GetLost() {
		if r := w.running[leaseOf(l)]; r != nil {
			r.lose()
		}
	}
	w.received += uint64(len(m.GetJobs()))
	for _, j := range m.GetJobs() {
		w.startLocked(j)
	}
	switch m.GetState() {
	case beaverv1.WorkerState_WORKER_STATE_RUN:
		w.quiet = false
	case beaverv1.WorkerState_WORKER_STATE_QUIET:
		w.quiet = true
	case beaverv1.WorkerState_WORKER_STATE_STOP:
		if w.phase == phaseRunning {
			w.logger.Info("the server asks the worker to stop")
		}
		w.stopLocked(w.jobsCtx)
	case beaverv1.WorkerState_WORKER_STATE_UNSPECIFIED:
	}
	return w.hurry || w.phase == phaseClosing || w.newsLocked()
}

// answeredLocked counts the outcomes that the server has answered.
//
// REQUIRES: w.mu.
func (w *Worker) answeredLocked(m *beaverv1.WorkResponse) {
	refused := make(map[Lease]*Error, len(m.GetRefused()))
	for _, r := range m.GetRefused() {
		refused[Lease{JobID(r.GetId()), r.GetToken()}] = fromJobError(r.GetError())
	}
	answered := w.outbox.answered(m.GetOutcomesThrough())
	for _, o := range answered {
		lease := Lease{JobID(o.message.GetId()), o.message.GetToken()}
		err := refused[lease]
		switch {
		case err == nil && o.message.GetRelease():
			w.stats.Released++
		case err == nil && o.message.GetFailure() != nil:
			w.stats.Failed++
		case err == nil:
			w.stats.Completed++
		case err.passing():
			o.again = o.again || err.Reason == reasonOutcomeUnknown
			w.outbox.later = append(w.outbox.later, o)
		case err.Code == CodeInvalidArgument && !o.plain:
			w.logger.Error("outcome refused; the attempt counts as failed", "job", lease.ID, "error", err)
			w.outbox.addPlain(o.message, err)
		case o.again:
			w.stats.Unconfirmed++
		case errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrNotFound):
			w.stats.Stale++
		default:
			w.stats.Stale++
			w.logger.Error("outcome refused", "job", lease.ID, "error", err)
		}
	}
	switch {
	case len(w.outbox.later) > 0:
		w.retryLocked()
	case len(answered) > 0:
		w.retryWait.reset()
	}
	signal(w.changed)
}

// retryLocked makes the outcomes that were refused for now be sent again after a while.
//
// REQUIRES: w.mu.
func (w *Worker) retryLocked() {
	if w.retrying {
		return
	}
	w.retrying = true
	time.AfterFunc(w.retryWait.next(), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.retrying = false
		w.outbox.retry()
		signal(w.wake)
	})
}

func leaseOf(l *beaverv1.LeaseRef) Lease { return Lease{JobID(l.GetId()), l.GetToken()} }
