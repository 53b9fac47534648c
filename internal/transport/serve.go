package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// slots bounds the calls of one peer that are served at once, over all its connections.
type slots struct {
	mu    sync.Mutex
	count int
	bytes int
}

func (s *slots) acquire(bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= callsServedMax || s.bytes+bytes > callsServedBytesMax {
		return false
	}
	s.count++
	s.bytes += bytes
	return true
}

// grow adds an answer's bytes: it exists already, so it is not refused, but the next call is.
func (s *slots) grow(bytes int) {
	s.mu.Lock()
	s.bytes += bytes
	s.mu.Unlock()
}

func (s *slots) release(bytes int) {
	s.mu.Lock()
	s.count--
	s.bytes -= bytes
	s.mu.Unlock()
}

// answer is one that waits to be written.
type answer struct {
	id     uint64
	status status
	body   []byte
	held   int    // bytes of the slot to be released; -1 for no slot
	asked  []byte // the request's body, of whose memory the answer may consist
}

// server serves the calls that come by one connection.
type server struct {
	in     *inbound
	ctx    context.Context
	wake   chan struct{}
	served sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	answers fifo[answer]
	running map[uint64]context.CancelFunc
	pinged  bool // the last ping waits for its pong
	stamp   uint64
}

// serveCalls reads requests until the connection ends. It returns once nothing is written any more; the calls that are still served
// have lost their contexts, and are waited for through the server's served.
func (in *inbound) serveCalls() (*server, error) {
	ctx, cancel := context.WithCancel(context.WithValue(in.p.ctx, eraKey{}, in.era))
	defer cancel()
	s := &server{in: in, ctx: ctx, wake: make(chan struct{}, 1), running: map[uint64]context.CancelFunc{}}
	written := make(chan struct{})
	go func() { // the *answer writer*
		defer close(written)
		s.write()
		in.link.cut()
	}()
	err := s.read()
	in.link.cut()
	s.end()
	<-written
	return s, err
}

func (s *server) read() error {
	r := newFrameReader(s.in.link, forCalls, false)
	for {
		kind, length, err := r.next()
		if err != nil {
			return err
		}
		s.in.counters.framesIn.Add(1)
		s.in.counters.bytesIn.Add(uint64(frameHeadBytes + length))
		switch kind {
		case framePing:
			err = s.ping(r)
		case frameCancel:
			err = s.cancel(r)
		default:
			err = s.request(r, length)
		}
		if err != nil {
			return err
		}
	}
}

func (s *server) ping(r *frameReader) error {
	b, err := r.fixed(pingBytes)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.pinged, s.stamp = true, binary.LittleEndian.Uint64(b)
	s.mu.Unlock()
	signal(s.wake)
	return nil
}

func (s *server) cancel(r *frameReader) error {
	b, err := r.fixed(cancelBytes)
	if err != nil {
		return err
	}
	s.mu.Lock()
	stop := s.running[binary.LittleEndian.Uint64(b)]
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	return nil
}

func (s *server) request(r *frameReader, length int) error {
	head, err := r.fixed(requestHeadBytes)
	if err != nil {
		return err
	}
	id, left, kind := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:]), head[12]
	length -= requestHeadBytes
	s.in.counters.messagesIn.Add(1)
	if !s.in.p.slots.acquire(length) {
		s.in.counters.dropped.Add(1)
		if err := r.skip(length); err != nil {
			return err
		}
		return s.refuse(id)
	}
	body := s.in.t.requests.get(length)
	if _, err := io.ReadFull(r.r, body); err != nil {
		s.in.p.slots.release(length)
		return err
	}
	ctx, stop := s.bounded(left)
	s.mu.Lock()
	_, twice := s.running[id]
	if !twice {
		s.running[id] = stop
	}
	s.mu.Unlock()
	if twice {
		stop()
		s.in.p.slots.release(length)
		return malformed("two calls with the id %d", id)
	}
	s.served.Go(func() { s.serve(ctx, id, kind, body) }) // the *call server*
	return nil
}

// bounded is the context of a call that has so many milliseconds left; 0 is no bound.
func (s *server) bounded(leftMillis uint32) (context.Context, context.CancelFunc) {
	if leftMillis == 0 {
		return context.WithCancel(s.ctx)
	}
	return context.WithTimeout(s.ctx, time.Duration(leftMillis)*time.Millisecond)
}

// refuse answers a call that found no slot. A peer that goes on for all that, and does not read its answers, is cut off.
func (s *server) refuse(id uint64) error {
	s.mu.Lock()
	waiting := s.answers.len()
	s.mu.Unlock()
	if waiting > 2*callsMax {
		return malformed("calls go on, and %d answers are not read", waiting)
	}
	s.put(answer{id: id, status: statusBusy, held: -1})
	return nil
}

func (s *server) serve(ctx context.Context, id uint64, kind uint8, body []byte) {
	held := len(body)
	answered, err := s.in.t.handler.ServeCall(ctx, s.in.p.node, kind, body)
	if err == nil && len(answered) > CallBytesMax {
		err = fmt.Errorf("%w: the answer has %d bytes, %d are possible", ErrTooLarge, len(answered), CallBytesMax)
	}
	a := answer{id: id, body: answered, asked: body}
	switch {
	case err != nil && ctx.Err() != nil:
		a.status, a.body = statusEnded, nil
	case err != nil:
		text := err.Error()
		a.status, a.body = statusFailed, []byte(text[:min(len(text), errorBytesMax)])
	}
	s.in.p.slots.grow(len(a.body))
	a.held = held + len(a.body)
	s.mu.Lock()
	stop := s.running[id]
	delete(s.running, id)
	s.mu.Unlock()
	stop()
	s.put(a)
}

// put queues an answer, unless there is nobody to send it to any more.
func (s *server) put(a answer) {
	s.mu.Lock()
	ended := s.ended
	if !ended {
		s.answers.push(a)
	}
	s.mu.Unlock()
	if ended {
		s.release(a)
		return
	}
	signal(s.wake)
}

// release lets go of what an answer holds, once it was written or nobody can be told.
func (s *server) release(a answer) {
	s.in.t.requests.put(a.asked)
	if a.held >= 0 {
		s.in.p.slots.release(a.held)
	}
}

// end drops the answers that nobody can be told.
func (s *server) end() {
	s.mu.Lock()
	s.ended = true
	for s.answers.len() > 0 {
		s.release(s.answers.pop())
	}
	s.mu.Unlock()
	signal(s.wake)
}

// write writes what waits, until a write fails or the connection has ended.
func (s *server) write() {
	w := newFrameWriter(s.in.link)
	var taken []answer
	for {
		var ended bool
		taken, ended = s.gather(w, taken[:0])
		if ended {
			return
		}
		if w.empty() {
			<-s.wake
			continue
		}
		bytes, frames, err := w.flush()
		for _, a := range taken {
			s.release(a)
		}
		clear(taken)
		if err != nil {
			return
		}
		s.in.counters.bytesOut.Add(uint64(bytes))
		s.in.counters.framesOut.Add(uint64(frames))
		s.in.counters.messagesOut.Add(uint64(len(taken)))
	}
}

func (s *server) gather(w *frameWriter, taken []answer) (_ []answer, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return taken, true
	}
	if s.pinged {
		s.pinged = false
		w.ping(framePong, s.stamp)
	}
	for filled := 0; s.answers.len() > 0 && filled < frameTargetBytes; {
		a := s.answers.pop()
		w.begin(frameAnswer, answerHeadBytes+len(a.body))
		w.buffer = binary.LittleEndian.AppendUint64(w.buffer, a.id)
		w.buffer = append(w.buffer, byte(a.status), 0, 0, 0, 0, 0, 0, 0)
		w.data(a.body)
		filled += frameHeadBytes + answerHeadBytes + len(a.body)
		taken = append(taken, a)
	}
	return taken, false
}
