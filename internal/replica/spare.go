package replica

import "go.etcd.io/raft/v3/raftpb"

// spare leaves out the messages of a turn that say nothing beside a later one to the same replica:
//
//   - an append without entries, which tells what is committed, before another append that tells as much;
//   - an acknowledgement before one of the same term that acknowledges as much.
//
// Raft allows for messages that are lost, so it would be right to leave out any. Under load a leader proposes the next batch in the turn
// that finds the one before committed, and each message that is spared spares the other side an answer, and both a wake-up.
func spare(messages []*raftpb.Message) []*raftpb.Message {
	kept := messages[:0]
	for i, m := range messages {
		if !superseded(m, messages[i+1:]) {
			kept = append(kept, m)
		}
	}
	clear(messages[len(kept):])
	return kept
}

func superseded(m *raftpb.Message, later []*raftpb.Message) bool {
	kind := m.GetType()
	if kind == raftpb.MsgApp && len(m.GetEntries()) > 0 || kind == raftpb.MsgAppResp && m.GetReject() ||
		kind != raftpb.MsgApp && kind != raftpb.MsgAppResp {
		return false
	}
	for _, o := range later {
		if o.GetType() == kind && o.GetTo() == m.GetTo() && o.GetTerm() == m.GetTerm() && !o.GetReject() &&
			o.GetIndex() >= m.GetIndex() && o.GetCommit() >= m.GetCommit() {
			return true
		}
	}
	return false
}
