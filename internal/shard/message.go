package shard

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// LostLogError says that this replica has told its group that it holds entries which are not in its log: the log was
// lost or replaced by an older one. It must not go on under its id, since it may have voted on what it lost too.
type LostLogError struct {
	Shard     ID
	Replica   ReplicaID
	Last      uint64 // of the log
	Committed uint64 // that it once held, as the leader knows
}

func (e *LostLogError) Error() string {
	return fmt.Sprintf("shard %d: replica %s once held entry %d, and its log ends at %d: this data directory is older than what the node has promised the others, as when a copy was put in its place, or lost data. It must not be used any more: give its place to a new node (beaver cluster replace %d ADDRESS), which starts with --join and an empty data directory",
		e.Shard, e.Replica, e.Committed, e.Last, e.Replica.Node())
}

// Step takes a message of another replica. Messages that are stale, of strangers, for another replica, or of a kind that
// replicas do not send each other are ignored. An error of type *LostLogError is final.
func (s *Shard) Step(m *raftpb.Message) (err error) {
	if s.err != nil {
		return s.err
	}
	if m.GetTo() != uint64(s.cfg.Replica) || m.GetFrom() == m.GetTo() || !ReplicaID(m.GetFrom()).valid() {
		return nil
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
	case raftpb.MsgHeartbeat:
		// A leader says only what the receiver has acknowledged in this very term, when it was durable.
		if m.GetTerm() >= s.term && m.GetCommit() > s.store.last {
			s.err = &LostLogError{s.cfg.ID, s.cfg.Replica, s.store.last, m.GetCommit()}
			return s.err
		}
	case raftpb.MsgAppResp:
		if !m.GetReject() && m.GetIndex() > s.store.last {
			return nil // It acknowledges what it was never sent.
		}
		if !m.GetReject() && m.GetIndex() == 0 && m.GetTerm() <= s.node.BasicStatus().GetTerm() {
			// A follower answers so what a leader of an earlier term sent it: to tell that one of its own term. The leader of
			// this term would take it for an acknowledgement of nothing, begin from the first entry, find that forgotten, and
			// bring a snapshot to a follower that needs none.
			return nil
		}
	case raftpb.MsgProp:
		if !isNudge(m) {
			return nil
		}
	case raftpb.MsgReadIndexResp:
		defer s.caught(&err)
		s.heardCommitted(m)
		return nil
	default:
		return nil // A snapshot comes by its own stream; reads and proposals are not forwarded.
	}
	defer s.caught(&err)
	s.stepped(s.node.Step(m))
	return nil
}

// nudge is how a follower asks its leader to move the index by an empty entry. It is a proposal, so it needs no message
// of its own; lost ones are asked for again.
func nudge(from ReplicaID, to uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: new(uint64(from)), To: new(to), Entries: []*raftpb.Entry{{}},
	}
}

func isNudge(m *raftpb.Message) bool {
	return len(m.GetEntries()) == 1 && len(m.GetEntries()[0].GetData()) == 0 && m.GetEntries()[0].GetType() == raftpb.EntryNormal
}

// Nudge asks whoever leads to move the index by an empty entry; the message, if any, is sent with the next Ready.
func (s *Shard) Nudge() (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	switch {
	case s.leads:
		s.stepped(s.node.Propose(nil))
	case s.leader != 0:
		s.outbox = append(s.outbox, nudge(s.cfg.Replica, uint64(s.leader)))
	}
	return nil
}
