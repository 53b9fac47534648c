package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver/internal/engine"
)

// enqueue answers Enqueue.
func (h *Handler) enqueue(ctx context.Context, e Engine, in *enqueueRequest) (*enqueueResponse, error) {
	if in.enqueueBuffers != nil {
		defer in.release()
	}
	if in.err != nil {
		return nil, in.err
	}
	if in.enqueueBuffers == nil || len(in.request.Jobs) == 0 {
		return nil, invalid("jobs", "missing: want at least one job, or one job's fields such as queue and payload")
	}
	if err := checkSession(in.request.Session, in.request.Sequence); err != nil {
		return nil, err
	}
	in.request.Era = engine.EraOf(ctx)
	var err error
	in.answers, err = e.Enqueue(ctx, &in.request, in.answers[:0])
	if err != nil {
		return nil, err
	}
	out := new(enqueueResponse)
	out.fill(in.answers, func(i int) string { return fmt.Sprintf("jobs[%d]", i) })
	if len(in.answers) == 1 && in.answers[0].Err != nil {
		return nil, in.answers[0].Err // one job refused is the call refused: curl and scripts see it by the status
	}
	return out, nil
}

func checkSession(session engine.SessionID, sequence uint64) *engine.Error {
	switch {
	case session != engine.SessionID{} && sequence == 0:
		return invalid("sequence", "missing: a session's messages are numbered from 1")
	case session == engine.SessionID{} && sequence != 0:
		return invalid("session", "missing: a sequence number belongs to a session of 16 random bytes")
	}
	return nil
}

// enqueueSlot is one message of an EnqueueStream on its way through the engine.
type enqueueSlot struct {
	in      streamRequest
	pending engine.PendingEnqueue
	err     error
}

// enqueueStream serves one EnqueueStream. The call's own goroutine reads and hands the jobs in; the writer waits for the
// engine's answers and sends them in order.
type enqueueStream struct {
	engine  Engine
	conn    connect.StreamingHandlerConn
	era     engine.Era // of the connection
	session engine.SessionID
	last    uint64 // sequence number of the last message

	free  chan *enqueueSlot // slots that may be filled
	order chan *enqueueSlot // filled ones, in the order of their messages

	failed  context.Context // done when the writer gave up; the cause says why
	giveUp  context.CancelCauseFunc
	out     streamResponse
	pending []*enqueueSlot // answered by out
	next    *enqueueSlot   // taken from order, not yet answered
}

func (h *Handler) enqueueStream(ctx context.Context, e Engine, conn connect.StreamingHandlerConn) error {
	s := &enqueueStream{
		engine: e, conn: conn, era: engine.EraOf(ctx),
		free:  make(chan *enqueueSlot, EnqueueInFlightMax),
		order: make(chan *enqueueSlot, EnqueueInFlightMax),
	}
	for range EnqueueInFlightMax {
		s.free <- new(enqueueSlot)
	}
	s.failed, s.giveUp = context.WithCancelCause(ctx)
	defer s.giveUp(nil)
	defer h.interruptReads(ctx, h.stop, s.failed)()

	var writer sync.WaitGroup
	h.start(&writer, conn.Spec().Procedure, s.giveUp, func() { s.write(ctx) })
	err := s.read(ctx)
	close(s.order)
	writer.Wait() // every message taken in is answered now, unless the stream broke
	if cause := context.Cause(s.failed); cause != nil && ctx.Err() == nil {
		return cause
	}
	if h.stop.Err() != nil && err != nil {
		return errStopping()
	}
	return err
}

// interruptReads makes the stream's reads fail when one of the contexts is done, so that its reader ends and nothing has
// to be left behind. The returned function ends the watch.
func (h *Handler) interruptReads(ctx context.Context, causes ...context.Context) func() {
	return h.interrupt(ctx, interrupter.SetReadDeadline, causes...)
}

// interrupt ends the stream's reads or writes when one of the contexts is done.
func (h *Handler) interrupt(ctx context.Context, end func(interrupter, time.Time) error, causes ...context.Context) func() {
	controller, ok := ctx.Value(controllerKey{}).(interrupter)
	if !ok {
		return func() {}
	}
	var mu sync.Mutex
	over := false // the call has returned: its response must not be touched any more
	stops := make([]func() bool, 0, len(causes))
	interrupt := func() error {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return nil
		}
		return end(controller, time.Now())
	}
	for _, cause := range causes {
		stops = append(stops, context.AfterFunc(cause, func() {
			_ = h.guard("interrupt", interrupt) // fails only when the connection is gone, and with it what is to be ended
		}))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// read takes in messages until the client ends the stream, which is no error, or something is wrong.
func (s *enqueueStream) read(ctx context.Context) error {
	for {
		var slot *enqueueSlot
		select {
		case slot = <-s.free:
		case <-s.failed.Done():
			return context.Cause(s.failed)
		}
		slot.in.err = nil
		slot.in.begin(nil)
		if err := s.conn.Receive(&slot.in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.accept(slot); err != nil {
			return err
		}
		s.engine.BeginEnqueue(ctx, &slot.in.request, slot.in.answers[:0], &slot.pending)
		s.order <- slot
	}
}

// accept checks a message before it goes to the engine.
func (s *enqueueStream) accept(slot *enqueueSlot) error {
	in := &slot.in
	if in.err != nil {
		return in.err
	}
	if in.hasSession {
		if s.last != 0 {
			return invalid("session", "belongs into the first message of a stream")
		}
		s.session = in.session
	}
	switch {
	case in.request.Sequence == 0:
		return invalid("sequence", "missing: messages are numbered, with a session from 1")
	case s.last != 0 && in.request.Sequence != s.last+1:
		return invalid("sequence", "is %d after %d: it grows by one a message", in.request.Sequence, s.last)
	case len(in.request.Jobs) == 0:
		return invalid("jobs", "missing: want at least one job")
	}
	s.last = in.request.Sequence
	in.request.Session, in.request.Era = s.session, s.era
	if s.session == (engine.SessionID{}) {
		in.sequence, in.request.Sequence = s.last, 0 // only numbers the answers
	} else {
		in.sequence = s.last
	}
	return nil
}

// write answers messages in their order, as many at once as are done.
func (s *enqueueStream) write(ctx context.Context) {
	for {
		slot := s.next
		if slot == nil {
			slot = <-s.order
		}
		if slot == nil {
			return // closed: all are answered
		}
		s.next = nil
		slot.wait(ctx)
		if !s.collect(ctx, slot) {
			s.drop(ctx)
			return
		}
	}
}

// wait waits for the engine's answer.
func (s *enqueueSlot) wait(ctx context.Context) {
	s.in.answers, s.err = s.pending.Wait(ctx)
}

// collect answers slot and those behind it that are done by now. It reports whether the stream goes on.
func (s *enqueueStream) collect(ctx context.Context, slot *enqueueSlot) bool {
	s.out.reset()
	s.pending = s.pending[:0]
	for slot != nil && slot.err == nil {
		s.out.add(slot.in.sequence, slot.in.answers)
		s.pending = append(s.pending, slot)
		slot = s.nextDone(ctx)
	}
	if len(s.pending) > 0 {
		if err := s.conn.Send(&s.out); err != nil {
			s.giveUp(err)
			return false
		}
	}
	for _, done := range s.pending {
		s.free <- done
	}
	if slot != nil {
		s.giveUp(slot.err)
		return false
	}
	return true
}

// nextDone returns the next message if the engine has answered it. One that is still on its way is kept in s.next.
func (s *enqueueStream) nextDone(ctx context.Context) *enqueueSlot {
	select {
	case slot := <-s.order:
		if slot == nil {
			return nil
		}
		if !slot.pending.Ready() {
			s.next = slot
			return nil
		}
		slot.wait(ctx)
		return slot
	default:
		return nil
	}
}

// drop lets the messages behind a failure finish, unanswered.
func (s *enqueueStream) drop(ctx context.Context) {
	if s.next != nil {
		s.next.wait(ctx)
	}
	for slot := range s.order {
		slot.wait(ctx)
	}
}
