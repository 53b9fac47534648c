package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver/internal/engine"
)

// workStream serves one Work stream; the package doc names its goroutines.
type workStream struct {
	handler *Handler
	engine  Engine
	conn    connect.StreamingHandlerConn
	worker  engine.WorkerID
	queues  []string
	ttl     time.Duration

	end   context.Context // done when the stream has to end; the cause says why
	abort context.CancelCauseFunc
	gone  chan struct{} // closed when the stream has left the handler's table
	heard atomic.Int64  // when the worker was heard last, in nanoseconds since the epoch

	written   context.Context // done when nothing is written any more
	stopWrite context.CancelFunc

	// Of the reader only.
	lastBeat  time.Time
	lastState engine.WorkerState
	sequence  uint64 // of the last outcomes

	mu       sync.Mutex
	credits  int
	stopWait context.CancelFunc // ends the fetch under way; nil: none
	waiting  []*workRequest     // whose outcomes the engine has not seen
	backlog  int                // outcomes in waiting
	noMore   bool               // the reader has ended: no more outcomes
	out      workResponse       // what the writer sends next
	flush    bool               // the writer sends what is left and ends
	transit  transit            // what the worker may not know of yet
	alarm    *time.Timer        // looks whether the worker is silent; nil: the stream is over

	// Of whoever has put its token into sending: the writer, or the fetcher with jobs.
	sending chan struct{}
	message workResponse
	broken  bool // sending failed

	wakeFetcher, wakeFinisher, wakeWriter, wakeReader chan struct{}
}

// wake makes the goroutine that waits for c look again.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (h *Handler) work(ctx context.Context, e Engine, conn connect.StreamingHandlerConn) error {
	s := &workStream{
		handler: h, engine: e, conn: conn, gone: make(chan struct{}),
		sending:     make(chan struct{}, 1),
		wakeFetcher: make(chan struct{}, 1), wakeFinisher: make(chan struct{}, 1),
		wakeWriter: make(chan struct{}, 1), wakeReader: make(chan struct{}, 1),
	}
	s.end, s.abort = context.WithCancelCause(ctx)
	defer s.abort(nil)
	defer h.interruptReads(ctx, h.stop, s.end)()
	s.written, s.stopWrite = context.WithCancel(context.WithoutCancel(ctx))
	defer s.stopWrite()
	defer h.interrupt(ctx, interrupter.SetWriteDeadline, s.written)()
	first, err := s.hello(ctx)
	if err != nil {
		if h.stop.Err() != nil {
			return errStopping()
		}
		return err
	}
	defer h.forget(s)
	return s.serve(ctx, first)
}

// hello takes the first message, registers the worker or takes it up again, and queues the welcome.
func (s *workStream) hello(ctx context.Context) (*workRequest, error) {
	in, err := s.receive()
	if errors.Is(err, io.EOF) || err == nil && in.hello == nil {
		return nil, invalid("hello", "missing: the first message of a stream says who the worker is")
	}
	if err != nil {
		return nil, err
	}
	info, bad := workerInfoOf("hello", in.hello)
	if bad != nil {
		return nil, bad
	}
	if bad := checkQueues("hello.queues", info.Queues); bad != nil {
		return nil, bad
	}
	s.queues = info.Queues
	s.transit.counts = in.complete
	resumed := false
	if in.worker != 0 {
		if resumed, err = s.resume(ctx, in); err != nil {
			return nil, err
		}
	}
	if !resumed {
		if s.worker, s.ttl, err = s.engine.RegisterWorker(ctx, info); err != nil {
			return nil, err
		}
		s.out.lost = append(s.out.lost, in.held...)
		if err := s.handler.remember(ctx, s); err != nil {
			return nil, err
		}
	}
	s.lastBeat = time.Now()
	s.out.worker, s.out.ttl, s.out.state = s.worker, s.ttl, pbWorkerState(s.lastState)
	return in, nil
}

// resume takes up a worker that was here before: an older stream of it is ended, and jobs that were leased to it and
// never reached it go back. It reports whether the worker is still known.
func (s *workStream) resume(ctx context.Context, in *workRequest) (bool, error) {
	s.worker = in.worker
	if err := s.handler.remember(ctx, s); err != nil {
		return false, err
	}
	reply, err := s.engine.ResumeWorker(ctx, s.worker, in.held)
	if err != nil {
		s.handler.forget(s)
		s.gone = make(chan struct{})
		if asEngineError(err).Code == engine.CodeNotFound {
			return false, nil
		}
		return false, err
	}
	s.ttl = reply.TTL
	s.tell(reply)
	return true, nil
}

// remember puts the stream into the handler's table and ends the older stream of the same worker, waiting until that
// fetches no more.
func (h *Handler) remember(ctx context.Context, s *workStream) error {
	for {
		h.mu.Lock()
		old := h.workers[s.worker]
		if old == nil {
			h.workers[s.worker] = s
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		old.evict(&engine.Error{
			Code: engine.CodeAborted, Reason: reasonReplaced, Message: "the worker has opened another stream",
		})
		select {
		case <-old.gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *Handler) forget(s *workStream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.workers[s.worker] == s {
		delete(h.workers, s.worker)
	}
	close(s.gone)
}

// evict ends a stream whose worker is elsewhere, or lost. Its connection may be lost as well: what has not been written in a moment waits for
// nobody, and who comes after it must not wait for that.
func (s *workStream) evict(why *engine.Error) {
	s.abort(why)
	time.AfterFunc(evictGrace, s.stopWrite)
}

// watchSilence evicts the worker when it was silent for its TTL: it is lost. The writer cannot tell, who may wait for a connection that takes
// nothing. The returned function ends the watch.
func (s *workStream) watchSilence() (stop func()) {
	s.locked(func() { s.alarm = time.AfterFunc(s.ttl, s.lookSilent) })
	return func() {
		s.locked(func() {
			s.alarm.Stop()
			s.alarm = nil
		})
	}
}

// lookSilent is what the alarm calls.
func (s *workStream) lookSilent() {
	left := s.ttl - time.Duration(time.Now().UnixNano()-s.heard.Load())
	if left < 0 {
		s.evict(errSilentWorker(s.ttl))
		return
	}
	s.locked(func() {
		if s.alarm != nil {
			s.alarm.Reset(max(left, time.Millisecond))
		}
	})
}

// serve runs the stream from its first message to its end.
func (s *workStream) serve(ctx context.Context, first *workRequest) error {
	notices, unsubscribe := s.engine.Notices(s.worker)
	defer unsubscribe()
	fetching, stopFetching := context.WithCancel(s.end)
	defer stopFetching()
	defer context.AfterFunc(s.handler.stop, stopFetching)()
	defer s.watchSilence()()
	var fetcher, finisher, writer sync.WaitGroup
	start := func(group *sync.WaitGroup, fn func()) { s.handler.start(group, s.conn.Spec().Procedure, s.abort, fn) }
	start(&fetcher, func() { s.fetch(fetching) })
	start(&finisher, func() { s.finish(ctx) })
	start(&writer, func() { s.write(notices) })

	err := s.take(ctx, first)
	if err == nil {
		err = s.read(ctx)
	}
	// The worker's side has ended, one way or another. What it said is still done and answered.
	stopFetching()
	fetcher.Wait()
	s.locked(func() { s.noMore = true })
	wake(s.wakeFinisher)
	finisher.Wait()
	clean := errors.Is(err, io.EOF) && !cutOff(ctx)
	var unsent []engine.FetchedJob
	s.locked(func() {
		if clean {
			unsent, s.out.jobs = s.out.jobs, nil
		}
		s.flush = true
	})
	wake(s.wakeWriter)
	writer.Wait()
	s.locked(func() { unsent = append(unsent, s.out.jobs...) })
	s.handler.giveBack(ctx, s.engine, unsent)
	return s.outcome(ctx, clean, err)
}

// cutOff tells an end that the worker meant from one where it was cut off: a client whose call is cancelled may end its
// side just before it resets the stream, and such a worker comes back for its jobs.
func cutOff(ctx context.Context) bool {
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-grace.C:
		return false
	}
}

// outcome is what the stream ends with; a worker that ended it cleanly is deregistered, and the engine is told of one that left
// otherwise, before another stream of it can begin.
func (s *workStream) outcome(ctx context.Context, clean bool, err error) error {
	if clean {
		return s.engine.DeregisterWorker(ctx, s.worker)
	}
	s.engine.WorkerLeft(s.worker, s.severed(ctx))
	if ctx.Err() == nil && s.end.Err() != nil {
		return context.Cause(s.end)
	}
	if s.handler.stop.Err() != nil {
		return errStopping()
	}
	return err
}

// severed tells a connection that broke from a stream that this side ended. REQUIRES: the writer has ended.
func (s *workStream) severed(ctx context.Context) bool {
	if _, ours := errors.AsType[*engine.Error](context.Cause(s.end)); ours || s.handler.stop.Err() != nil {
		return false
	}
	return ctx.Err() != nil || s.broken
}

func (s *workStream) locked(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// receive reads one message. A message's own error is an error here.
func (s *workStream) receive() (*workRequest, error) {
	in := workPool.Get().(*workRequest)
	in.reset()
	err := s.conn.Receive(in)
	s.heard.Store(time.Now().UnixNano())
	if err != nil {
		return nil, err
	}
	return in, in.err
}

// read takes in messages until the worker's side ends; io.EOF is a clean end.
func (s *workStream) read(ctx context.Context) error {
	for {
		in, err := s.receive()
		if err != nil {
			return err
		}
		if in.hello != nil {
			return invalid("hello", "belongs into the first message of a stream")
		}
		if err := s.beat(ctx, in); err != nil {
			return err
		}
		if err := s.arrived(in); err != nil {
			return err
		}
		if err := s.take(ctx, in); err != nil {
			return err
		}
	}
}

// beat counts the message as a sign of life. The engine is asked when the worker says what it holds, and every sixth
// part of the TTL.
func (s *workStream) beat(ctx context.Context, in *workRequest) error {
	now := time.Now()
	if len(in.held) == 0 && now.Sub(s.lastBeat) < s.ttl/6 {
		return nil
	}
	s.lastBeat = now
	reply, err := s.engine.Heartbeat(ctx, s.worker, in.held)
	if err != nil {
		return err
	}
	s.tell(reply)
	return nil
}

// tell queues what a heartbeat brought up.
func (s *workStream) tell(reply engine.HeartbeatReply) {
	changed := reply.State != s.lastState
	s.lastState = reply.State
	if !changed && len(reply.Cancel) == 0 && len(reply.Lost) == 0 {
		return
	}
	s.locked(func() {
		s.out.cancel = append(s.out.cancel, reply.Cancel...)
		s.out.lost = append(s.out.lost, reply.Lost...)
		if changed {
			s.out.state = pbWorkerState(reply.State)
		}
	})
	wake(s.wakeWriter)
}

// take hands the parts of a message to whom they concern. It waits while too many outcomes are waiting.
func (s *workStream) take(ctx context.Context, in *workRequest) error {
	if len(in.outcomes) > 0 {
		if in.sequence == 0 || s.sequence != 0 && in.sequence != s.sequence+1 {
			return invalid("outcomes_sequence", "is %d after %d: it grows by one a message that has outcomes", in.sequence, s.sequence)
		}
		s.sequence = in.sequence
	}
	if in.stopping {
		s.engine.WorkerStops(s.worker)
	}
	s.mu.Lock()
	for s.backlog+len(in.outcomes) > OutcomesWaitingMax && s.backlog > 0 {
		s.mu.Unlock()
		select {
		case <-s.wakeReader:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.end.Done():
			return context.Cause(s.end)
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if in.quiet {
		s.credits = 0
		if s.stopWait != nil {
			s.stopWait()
		}
	} else if in.credits > 0 {
		if s.credits+int(in.credits) > CreditsMax {
			return invalid("credits", "more than %d are open: want no more than the worker can run", CreditsMax)
		}
		s.credits += int(in.credits)
		wake(s.wakeFetcher)
	}
	if len(in.outcomes) == 0 {
		in.release()
		return nil
	}
	s.backlog += len(in.outcomes)
	s.waiting = append(s.waiting, in)
	wake(s.wakeFinisher)
	return nil
}
