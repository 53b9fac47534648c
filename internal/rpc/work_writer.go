package rpc

import (
	"fmt"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// beatShare is how many signs of life the server gives in a worker's TTL: a worker whose server stands still has to find that out in
// time to keep its jobs by way of another node.
const beatShare = 6

// write sends whatever is waiting, and signs of life, until it is told to flush.
func (s *workStream) write(notices <-chan engine.Notice) {
	beat := time.NewTicker(max(s.ttl/beatShare, time.Millisecond))
	defer beat.Stop()
	for {
		s.sending <- struct{}{}
		sent, flush := s.sendWaiting()
		switch {
		case sent:
			continue
		case flush:
			return
		}
		select {
		case <-s.wakeWriter:
		case n, ok := <-notices:
			if !ok {
				notices = nil
				continue
			}
			s.notice(n)
		case <-beat.C:
			s.locked(func() { s.out.alive = true })
		}
	}
}

// dispatch sends what is waiting from the goroutine that fetched it, or leaves it to the writer when that is sending: a job
// reaches its worker a switch of goroutines sooner, and before the answer to whoever enqueued it takes its turn.
func (s *workStream) dispatch() {
	select {
	case s.sending <- struct{}{}:
		s.sendWaiting()
	default:
		wake(s.wakeWriter)
	}
}

// sendWaiting sends what is waiting, if anything is, and tells whether the writer is to end when nothing was. After an error
// nothing more is sent: part of an envelope may be on its way.
//
// REQUIRES: the token of s.sending, which it gives back.
func (s *workStream) sendWaiting() (sent, flush bool) {
	defer func() { <-s.sending }()
	if s.broken {
		return false, true
	}
	flush = s.swap(&s.message)
	if s.message.empty() {
		return false, flush
	}
	if unsent, err := s.send(&s.message); err != nil {
		s.broken = true
		s.locked(func() { s.out.jobs = append(s.out.jobs, unsent...) })
		s.abort(err)
		return false, true
	}
	return true, flush
}

// swap takes what is waiting to be sent and leaves the emptied msg in its place.
func (s *workStream) swap(msg *workResponse) (flush bool) {
	msg.reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	*msg, s.out = s.out, *msg
	return s.flush
}

func errSilentWorker(ttl time.Duration) *engine.Error {
	return &engine.Error{
		Code: engine.CodeAborted, Reason: reasonSilent,
		Message: fmt.Sprintf("the worker said nothing for its TTL of %v, and is lost; it has to send a message within every third of that", ttl),
	}
}

func (s *workStream) notice(n engine.Notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.Cancel {
		s.out.cancel = append(s.out.cancel, n.Lease)
	} else {
		s.out.lost = append(s.out.lost, n.Lease)
	}
}

// send sends msg in parts of about WorkBytesMax. When a part fails, it returns the jobs behind it, which the worker has certainly not got.
// Those of the part may have reached it: they stay its own until it says what it holds, at this node or another one. To give them back would
// have others run them beside it.
func (s *workStream) send(msg *workResponse) (unsent []engine.FetchedJob, err error) {
	jobs := msg.jobs
	for {
		n := countWithin(jobs, WorkBytesMax)
		part := *msg
		part.jobs = jobs[:n]
		if err := s.conn.Send(&part); err != nil {
			return slices.Clone(jobs[n:]), err
		}
		jobs = jobs[n:]
		if len(jobs) == 0 {
			return nil, nil
		}
		*msg = workResponse{jobs: msg.jobs} // the rest went with the first part
	}
}

// countWithin is how many of the jobs have payloads of at most limit bytes together, and at least one.
func countWithin(jobs []engine.FetchedJob, limit int) int {
	size := 0
	for i := range jobs {
		if size += len(jobs[i].Spec.Payload); size > limit && i > 0 {
			return i
		}
	}
	return len(jobs)
}
