package sim

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
)

// ballot is one replica's vote in one term.
type ballot struct {
	voter shard.ReplicaID
	term  uint64
}

// promise is the last that a replica promised anybody: it knows the term, and holds all entries of its leader up to an index.
type promise struct{ term, acked uint64 }

// ballots are what the replicas of one shard have promised each other, and who led. Who breaks a promise does no harm until two
// candidates need that very vote, or a leader dies of which that very copy is left, which takes many seeds: so it is looked at by itself.
type ballots struct {
	votes    map[ballot]shard.ReplicaID
	promises map[shard.ReplicaID]promise
	leaders  map[uint64]shard.ReplicaID // by term
}

func newBallots() ballots {
	return ballots{make(map[ballot]shard.ReplicaID), make(map[shard.ReplicaID]promise), make(map[uint64]shard.ReplicaID)}
}

// promised notes what a member promises.
func (b *ballots) promised(id shard.ReplicaID, term, acked uint64) {
	p := b.promises[id]
	if term > p.term {
		p = promise{term: term}
	}
	if term == p.term {
		p.acked = max(p.acked, acked)
	}
	b.promises[id] = p
}

// remembers looks whether a member that begins knows what it promised, also when its disk has damaged something: a replica that may have
// lost that does not begin, and one with holes keeps its bounds and its hard state.
func (m *member) remembers() {
	s, b := m.n.log.State(m.group.id), &m.group.ballots
	p, hard := b.promises[m.id], s.HardState
	known := hard.Term
	if last, err := m.n.log.Term(m.group.id, s.Last); err == nil {
		known = max(known, last) // A snapshot that was brought may be of a later term.
	}
	vote, voted := b.votes[ballot{m.id, p.term}]
	switch {
	case m.n.w.opts.HistoryOnly || known > p.term:
	case known < p.term:
		m.n.w.fail("%s begins in term %d, and has promised something in term %d", m.name, known, p.term)
	case voted && shard.ReplicaID(hard.Vote) != vote:
		m.n.w.fail("%s begins with a vote for %v in term %d, and has promised it to %v", m.name, shard.ReplicaID(hard.Vote), p.term, vote)
	case s.Last < p.acked:
		m.n.w.fail("%s begins with entries up to %d, and has promised to hold %d in term %d", m.name, s.Last, p.acked, p.term)
	}
}

// cast looks at a message that a member sends: it has at most one vote a term. To ask for votes promises nothing yet, since its own vote for
// itself counts when it is durable; but who has given it away must not ask.
func (m *member) cast(msg *raftpb.Message) {
	switch {
	case msg.GetType() == raftpb.MsgAppResp && !msg.GetReject():
		m.group.ballots.promised(m.id, msg.GetTerm(), msg.GetIndex())
	case msg.GetType() == raftpb.MsgVote:
		m.free(msg.GetTerm(), m.id)
	case msg.GetType() == raftpb.MsgVoteResp && !msg.GetReject():
		m.vote(msg.GetTerm(), shard.ReplicaID(msg.GetTo()))
	default:
	}
}

// free looks whether a member may vote for a candidate.
func (m *member) free(term uint64, candidate shard.ReplicaID) {
	before, voted := m.group.ballots.votes[ballot{m.id, term}]
	if voted && before != candidate && !m.n.w.opts.HistoryOnly {
		m.n.w.fail("%s votes for %v in term %d, and has voted for %v", m.name, candidate, term, before)
	}
}

// vote notes that a member's vote counts.
func (m *member) vote(term uint64, candidate shard.ReplicaID) {
	m.free(term, candidate)
	m.group.ballots.votes[ballot{m.id, term}] = candidate
	m.group.ballots.promised(m.id, term, 0)
}

// elected looks whether a member is the only leader of its term.
func (m *member) elected() {
	term := m.rep.LeadTerm()
	if term == 0 {
		return // It must not use the lead.
	}
	before, led := m.group.ballots.leaders[term]
	if led && before != m.id && !m.n.w.opts.HistoryOnly {
		m.n.w.fail("%s leads in term %d, in which %v led", m.name, term, before)
	}
	m.group.ballots.leaders[term] = m.id
	m.vote(term, m.id)
}
