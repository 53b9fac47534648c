package sim

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// eventKind says what is due.
type eventKind uint8

const (
	evTurn     eventKind = iota // a replica is to be turned
	evMessage                   // a Raft message arrives
	evRequest                   // a call arrives at a node
	evReply                     // an answer arrives at a client
	evDurable                   // a flush is over
	evMaintain                  // the log's background work is due
	evStore                     // a frozen snapshot is to be stored
	evChunk                     // a piece of a snapshot arrives at a follower
	evChunkAck                  // a follower's answer arrives at the sender
	evSend                      // a sender of a snapshot may go on
	evMend                      // a request or an answer about damaged entries arrives
	evOther                     // fn
)

func (k eventKind) String() string {
	return [...]string{
		"turn", "message", "request", "reply", "durable", "maintain", "store", "chunk", "chunk-ack", "send", "mend", "other",
	}[k]
}

// event is something that happens at a moment of virtual time. Events of one moment happen in the order in which they
// were scheduled.
type event struct {
	at    time.Duration
	seq   uint64
	kind  eventKind
	node  int    // index of the node that it happens to
	life  uint32 // of that node; an event of an earlier life is void. 0 is any
	shard int
	from  int
	value uint64
	msg   *raftpb.Message
	call  *call
	data  []byte
	fn    func()
}

// schedule is a heap of events.
type schedule struct {
	heap []*event
	seq  uint64
	free []*event
}

// add copies an event into the schedule.
func (s *schedule) add(e event) {
	var p *event
	if n := len(s.free); n > 0 {
		p, s.free = s.free[n-1], s.free[:n-1]
	} else {
		p = new(event)
	}
	s.seq++
	e.seq = s.seq
	*p = e
	s.heap = append(s.heap, p)
	i := len(s.heap) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !p.before(s.heap[parent]) {
			break
		}
		s.heap[i] = s.heap[parent]
		i = parent
	}
	s.heap[i] = p
}

func (e *event) before(f *event) bool { return e.at < f.at || (e.at == f.at && e.seq < f.seq) }

// next takes out the earliest event.
func (s *schedule) next() (event, bool) {
	n := len(s.heap)
	if n == 0 {
		return event{}, false
	}
	top, last := s.heap[0], s.heap[n-1]
	s.heap[n-1] = nil
	s.heap = s.heap[:n-1]
	if n--; n > 0 {
		i := 0
		for {
			child := 2*i + 1
			if child >= n {
				break
			}
			if child+1 < n && s.heap[child+1].before(s.heap[child]) {
				child++
			}
			if !s.heap[child].before(last) {
				break
			}
			s.heap[i] = s.heap[child]
			i = child
		}
		s.heap[i] = last
	}
	e := *top
	*top = event{}
	s.free = append(s.free, top)
	return e, true
}
