package shard

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Effects is what the owner must carry out, in this order:
//
//  1. Append the entries and the hard state to the log, before any append of a later Ready. Nothing need be durable yet.
//  2. Send Messages; they depend on nothing that is not durable.
//  3. Hand Committed to Apply.
//  4. When everything appended so far is durable, call AppendDone with Append.Done, in the order of the appends. An
//     append without Done need not be made durable for its own sake, and neither need one that is CommitOnly: its Done waits
//     for what was appended before it.
//
// Steps 2 and 3 may happen before or after 4. The slices of Append are valid until the next Ready.
type Effects struct {
	Append    Append
	Messages  []*raftpb.Message
	Snapshots []SnapshotWish
	Committed Committed
	Reads     []ReadState
}

// SnapshotWish says that a member needs entries that the log has forgotten: bring it the newest snapshot, outside of
// Raft's messages, and end that with SnapshotSent. Until then the member is sent nothing but heartbeats.
type SnapshotWish struct {
	To   ReplicaID
	Term uint64 // in which this replica leads
	// Index of the newest durable snapshot, which is to be brought, or a newer one.
	Index uint64
}

// Append is what goes to the log.
type Append struct {
	HardState *wal.HardState // nil when unchanged
	Entries   []wal.Entry    // an entry at or below the log's last index replaces it and all behind it
	Done      Done
	// CommitOnly says that nothing but the commit index is new. No promise rests on that: whoever forgets it is told again.
	CommitOnly bool
}

// Empty reports whether there is nothing to write. Done may still wait for earlier appends.
func (a *Append) Empty() bool { return a.HardState == nil && len(a.Entries) == 0 }

// Done is the part of an append that may be told only when it is durable: votes and acknowledgements, and requests for votes. For these the
// library does not ask that, and counts a candidate's own vote when it is durable. But the votes of the others may be a majority without
// it. Who led by them, and lost power before its term was durable, would not know that term any more, and could be elected for it again, by the
// same votes. Then there would be two entries of one index and one term.
type Done struct{ responses []*raftpb.Message }

// Waits reports whether anything waits for the append to be durable.
func (d Done) Waits() bool { return len(d.responses) > 0 }

// Committed holds entries to apply.
type Committed struct {
	entries   []*raftpb.Entry
	responses []*raftpb.Message
}

// Len is the number of entries.
func (c Committed) Len() int { return len(c.entries) }

// ReadState answers ReadIndex: the read named ID may be served once Index is applied.
type ReadState struct {
	ID, Index uint64
}

// HasReady reports whether Ready has effects.
func (s *Shard) HasReady() bool {
	return s.err == nil && (len(s.outbox) > 0 || s.node.HasReady())
}

// Ready returns what is to be done now. The owner must carry it out.
func (s *Shard) Ready() (eff Effects, err error) {
	if s.err != nil {
		return Effects{}, s.err
	}
	defer s.caught(&err)
	rd := s.node.Ready()
	if rd.SoftState != nil {
		s.leader = ReplicaID(rd.Lead)
		s.leads = rd.RaftState == raft.StateLeader
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		s.term = rd.GetTerm()
	}
	for _, r := range rd.ReadStates {
		eff.Reads = append(eff.Reads, ReadState{ID: binary.LittleEndian.Uint64(r.RequestCtx), Index: r.Index})
	}
	eff.Messages = s.outbox
	s.outbox = nil
	asks := func(m *raftpb.Message) bool { return m.GetType() == raftpb.MsgPreVote }
	if slices.ContainsFunc(rd.Messages, asks) {
		eff.Messages = s.tellAll(eff.Messages)
	}
	var votes []*raftpb.Message
	for _, m := range rd.Messages {
		switch {
		case m.GetTo() == raft.LocalAppendThread:
			eff.Append = s.appendEffect(m)
		case m.GetTo() == raft.LocalApplyThread:
			eff.Committed = Committed{entries: m.GetEntries(), responses: m.GetResponses()}
		case m.GetType() == raftpb.MsgSnap:
			eff.Snapshots = append(eff.Snapshots, SnapshotWish{
				To: ReplicaID(m.GetTo()), Term: m.GetTerm(), Index: m.GetSnapshot().GetMetadata().GetIndex(),
			})
		case m.GetType() == raftpb.MsgVote:
			votes = append(votes, m)
		default:
			eff.Messages = append(eff.Messages, m)
		}
	}
	if len(votes) > 0 {
		eff.Append.Done.responses = slices.Concat(eff.Append.Done.responses, votes)
	}
	return eff, nil
}

// appendEffect turns the library's order to its storage into an Append.
func (s *Shard) appendEffect(m *raftpb.Message) Append {
	// A snapshot to install arrives by its own stream, never inside a message; see Step.
	invariant.Check(m.GetSnapshot() == nil, "shard %d: raft installs a snapshot by message", s.cfg.ID)
	a := Append{Done: Done{m.GetResponses()}}
	a.CommitOnly = len(m.GetEntries()) == 0
	if m.Term != nil {
		hard := wal.HardState{Term: m.GetTerm(), Vote: m.GetVote(), Commit: m.GetCommit()}
		a.CommitOnly = a.CommitOnly && hard.Term == s.hard.Term && hard.Vote == s.hard.Vote
		s.hard = hard
		a.HardState = &s.hard
	}
	clear(s.entries)
	s.entries = s.entries[:0]
	if entries := m.GetEntries(); len(entries) > 0 {
		s.store.appended(entries)
		s.taken(entries)
		s.entries = toLog(s.entries, entries)
		a.Entries = s.entries
	}
	return a
}

// taken looks what became of a change of members that was proposed, which is among the entries appended next. The library puts an empty entry
// in its place when another may be under way, and says nothing. It believes that also after it dropped one, since too much was
// uncommitted, until it has applied what came in the place of that.
func (s *Shard) taken(entries []*raftpb.Entry) {
	if s.changeGoes && !slices.ContainsFunc(entries, func(e *raftpb.Entry) bool { return e.GetType() != raftpb.EntryNormal }) {
		s.changeTerm = 0
	}
	s.changeGoes = false
}

// AppendDone says that an append, and all appends before it, are durable.
func (s *Shard) AppendDone(d Done) (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	s.respond(d.responses)
	return nil
}

// respond delivers what waited: to this replica at once, to others with the next Ready.
func (s *Shard) respond(responses []*raftpb.Message) {
	for _, m := range responses {
		if m.GetTo() == uint64(s.cfg.Replica) {
			s.stepped(s.node.Step(m))
		} else {
			s.outbox = append(s.outbox, m)
		}
	}
}

// Apply applies committed entries to the machine. An entry that cannot be read is an *EntryError; what came before it
// was applied.
func (s *Shard) Apply(c Committed) (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	for _, e := range c.entries {
		if err := s.applyEntry(e); err != nil {
			s.err = &EntryError{Shard: s.cfg.ID, Index: e.GetIndex(), Err: err}
			return s.err
		}
	}
	s.respond(c.responses)
	s.standAgain()
	return nil
}

func (s *Shard) applyEntry(e *raftpb.Entry) error {
	index := e.GetIndex()
	if index != s.applied+1 {
		invariant.Check(false, "shard %d: entry %d follows %d", s.cfg.ID, index, s.applied)
	}
	switch e.GetType() {
	case raftpb.EntryNormal:
		if err := s.applyBatch(index, e.GetData()); err != nil {
			return err
		}
	case raftpb.EntryConfChange:
		if err := s.applyChange(e.GetData(), new(raftpb.ConfChange)); err != nil {
			return err
		}
	case raftpb.EntryConfChangeV2:
		if err := s.applyChange(e.GetData(), new(raftpb.ConfChangeV2)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown entry type %d: written by a newer version", e.GetType())
	}
	s.applied, s.appliedTerm = index, e.GetTerm()
	s.appliedBytes += uint64(len(e.GetData()))
	return nil
}

// applyBatch applies a normal entry. One without data is the library's own, or a proposal to move the index.
func (s *Shard) applyBatch(index uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	h, items, err := DecodeBatch(data, s.items[:0])
	if err != nil {
		return err
	}
	s.items = items
	s.cfg.Machine.Apply(index, h, items)
	clear(s.items) // The memory of the slice is kept, the entries it pointed into are not.
	return nil
}

// applyChange applies a change of members. cc is what the data decodes into.
func (s *Shard) applyChange(data []byte, cc interface {
	raftpb.ConfChangeI
	proto.Message
},
) error {
	if err := proto.Unmarshal(data, cc); err != nil {
		return fmt.Errorf("change of members: %w", err)
	}
	s.conf = raftpb.EnsureConfState(s.node.ApplyConfChange(cc))
	s.changeTerm = 0
	return nil
}
