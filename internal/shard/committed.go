package shard

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// The library lets a change of voters count when it is applied, and not, as Ongaro's thesis has it (§4.1), when it is in the log. So members may
// differ over whose votes an election needs, though their logs are the same. Those that have not heard that a change was committed ask the
// voters of before, and may need the vote of one that has left: that knows more than they do, so its log may be longer, and it grants none; and it does not
// stand itself. Or who was made a voter stands, and the one with the longer log does not know whom to ask. If the leader that told the one and not the
// other is gone, the group has a majority and never a leader again.
//
// Therefore a member that asks for votes also says to all members up to where it knows the log to be committed, and one that knows more answers. Who
// hears it and has that very entry learns of the change. It is no more than what a leader would have told: what is committed stays committed,
// whoever says so. An entry of that index and term in the own log is the one that was committed (log matching), though only as long as it is there: a leader
// of a term before may still replace it. So it is the library that looks whether it has it, in the log as it is then.

// tellCommitted makes the message that says what is committed: the last entry applied here. It is one of the library's that replicas have no other use
// for, and that those of earlier versions ignore.
func (s *Shard) tellCommitted(to uint64, answer bool) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgReadIndexResp.Enum(), From: new(uint64(s.cfg.Replica)), To: new(to), Term: new(s.node.BasicStatus().GetTerm()),
		Index: new(s.applied), LogTerm: new(s.appliedTerm), Reject: new(answer),
	}
}

// tellAll tells every other member. Learners too: one of them may be all that is left of those who know more.
func (s *Shard) tellAll(dst []*raftpb.Message) []*raftpb.Message {
	members := s.Members()
	for _, to := range members.All() {
		if to != s.cfg.Replica {
			dst = append(dst, s.tellCommitted(uint64(to), false))
		}
	}
	return dst
}

// heardCommitted takes what another member says to be committed. A leader knows better. It is of use only if there is a change of members in what was not
// known to be committed here: all else the next leader tells, and not to hear it spares the election that is under way.
func (s *Shard) heardCommitted(m *raftpb.Message) {
	status, index := s.node.BasicStatus(), m.GetIndex()
	if s.applied > index && !m.GetReject() {
		s.outbox = append(s.outbox, s.tellCommitted(m.GetFrom(), true)) // and an answer is not answered
		return
	}
	members := s.Members()
	votes := members.Votes(s.cfg.Replica)
	switch {
	case index <= status.GetCommit(), index > s.store.last:
		return
	case status.RaftState == raft.StateCandidate:
		return // The votes of this term are being given.
	case status.Lead != raft.None && votes:
		return // It leads, is told soon, or misses its leader. Who does not vote never does.
	}
	if term, err := s.store.Term(index); err != nil || term != m.GetLogTerm() || !s.changesMembers(status.GetCommit()+1, index) {
		return
	}
	// The library learns what is committed from leaders only. So it hears this as if it came from one, which is forgotten at once.
	s.stepped(s.node.Step(&raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: m.From, To: m.To, Term: new(max(status.GetTerm(), m.GetTerm())),
		Index: m.Index, LogTerm: m.LogTerm, Commit: m.Index,
	}))
	s.stepped(s.node.ForgetLeader())
	if status.RaftState == raft.StatePreCandidate {
		s.standsAt = index
	}
	s.cfg.Logger.Info("another member knows that a change of members was committed", "shard", s.cfg.ID, "index", index, "member", ReplicaID(m.GetFrom()))
}

// changesMembers reports whether there is a change of members among the entries of the log from lo to hi.
func (s *Shard) changesMembers(lo, hi uint64) bool {
	for lo <= hi {
		entries, err := s.store.Entries(lo, hi+1, ApplyBytesDefault)
		if err != nil || len(entries) == 0 {
			return false
		}
		for _, e := range entries {
			if e.GetType() != raftpb.EntryNormal {
				return true
			}
		}
		lo += uint64(len(entries))
	}
	return false
}

// standAgain goes on with the election that a replica gave up to hear of a change of members, now that it knows whom to ask.
func (s *Shard) standAgain() {
	if s.standsAt == 0 || s.applied < s.standsAt {
		return
	}
	s.standsAt = 0
	members := s.Members()
	if status := s.node.BasicStatus(); status.Lead == raft.None && status.RaftState == raft.StateFollower && members.Votes(s.cfg.Replica) {
		s.stepped(s.node.Campaign())
	}
}
