package shard

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Shard is one replica of one Raft group. Its methods must be called by one goroutine at a time, but for CachedItem.
// Every error it returns, apart from ErrDropped, is final: the log could not be read, or what was committed cannot be
// applied; the replica must not go on.
type Shard struct {
	cfg   Config
	node  *raft.RawNode
	store *storage
	conf  *raftpb.ConfState // as applied
	err   error             // final

	applied      uint64 // each index up to it was applied, each once, in order
	appliedTerm  uint64 // term of that entry
	appliedBytes uint64 // of entry data, since Open

	term       uint64
	leader     ReplicaID
	changeTerm uint64 // a change of members was proposed in this term and not applied yet
	changeGoes bool   // and it is not known whether the library took it: see taken
	standsAt   uint64 // when this is applied, it stands for election again: see heardCommitted

	leads   bool              // the library says so; see Leading
	outbox  []*raftpb.Message // responses to others that became sendable by AppendDone
	entries []wal.Entry       // Ready's memory
	hard    wal.HardState     // as it was appended last
	items   [][]byte          // Apply's memory
}

// Open makes the replica from its log and from the snapshot that cfg.Machine was restored from. A new group needs its
// genesis first; see GenesisConfState. The zero Restored is a replica that is to join a group: it answers, but neither
// votes nor applies, until its owner has brought it a snapshot and opens it anew. Nothing happens before the first event.
func Open(cfg Config, snap Restored) (s *Shard, err error) {
	checkLimits()
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	conf := new(raftpb.ConfState)
	if err := proto.Unmarshal(snap.ConfState, conf); err != nil {
		return nil, &StateError{cfg.ID, fmt.Sprintf("the snapshot's configuration is unreadable: %v", err)}
	}
	conf = raftpb.EnsureConfState(conf)
	switch {
	case snap.Index == 0 && len(snap.ConfState) > 0:
		return nil, &StateError{cfg.ID, "the snapshot names index 0"}
	case snap.Index > 0 && len(conf.GetVoters()) == 0:
		return nil, &StateError{cfg.ID, "the snapshot's configuration has no voters"}
	}
	store, err := openStorage(cfg, snap, conf)
	if err != nil {
		return nil, err
	}
	s = &Shard{
		cfg: cfg, store: store, conf: conf, applied: snap.Index, appliedTerm: snap.Term, term: store.hard.Term,
		hard: cfg.Log.State(cfg.ID).HardState,
	}
	defer s.caught(&err)
	s.node, err = raft.NewRawNode(cfg.raftConfig(store, snap.Index))
	return s, err
}

// caught is deferred around every use of the library. The library panics when the log cannot be read; that is an error
// of the disk, not of ours, and becomes an error again. Any other panic goes on.
func (s *Shard) caught(err *error) {
	if s.store.err == nil {
		return
	}
	_ = recover()
	s.err = s.store.err
	*err = s.err
}

// Tick tells that a tick of time has passed.
func (s *Shard) Tick() (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	s.node.Tick()
	return nil
}

// NeedsTicks is false when time means nothing to the replica: it leads and nobody else votes or listens.
func (s *Shard) NeedsTicks() bool { return !(s.leads && s.Alone()) }

// Alone reports whether this replica is the whole group.
func (s *Shard) Alone() bool {
	c := s.conf
	return len(c.GetVoters()) == 1 && c.GetVoters()[0] == uint64(s.cfg.Replica) &&
		len(c.GetVotersOutgoing())+len(c.GetLearners())+len(c.GetLearnersNext()) == 0
}

// stepped looks at what the library says of a message: it refuses those it cannot use, which is no error of ours.
func (s *Shard) stepped(err error) {
	refused := err == nil || errors.Is(err, raft.ErrProposalDropped) || errors.Is(err, raft.ErrStepPeerNotFound) ||
		errors.Is(err, raft.ErrStepLocalMsg)
	invariant.Check(refused, "shard %d: raft refused a message: %v", s.cfg.ID, err)
}

// Campaign makes the replica stand for election now. A replica that is alone calls it at start, rather than wait for
// an election timeout; it has no effect on a leader.
func (s *Shard) Campaign() (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	s.stepped(s.node.Campaign())
	return nil
}

// CampaignAlone makes the replica stand for election if nobody else could and it does not lead yet.
func (s *Shard) CampaignAlone() error {
	if s.leads || !s.Alone() {
		return s.err
	}
	return s.Campaign()
}

// ForgetLeader makes a follower of a leader that is on a node forget it, and returns who that was: it votes for others from now on, and
// does not refuse until the leader was silent for an election timeout. Who is heard of again is followed again. 0: there was nothing to
// forget.
func (s *Shard) ForgetLeader(on NodeID) (leader ReplicaID, err error) {
	if s.err != nil {
		return 0, s.err
	}
	defer s.caught(&err)
	status := s.node.BasicStatus()
	leader = ReplicaID(status.Lead)
	if status.RaftState != raft.StateFollower || leader == 0 || leader.Node() != on {
		return 0, nil
	}
	s.stepped(s.node.ForgetLeader())
	return leader, nil
}

// Leaderless reports whether no leader is known at this moment.
func (s *Shard) Leaderless() bool { return s.node.BasicStatus().Lead == raft.None }

// MayStand reports whether an election that this replica begins now disturbs none of its own: it does not ask for votes already.
func (s *Shard) MayStand() bool {
	state := s.node.BasicStatus().RaftState
	return state == raft.StateFollower || state == raft.StatePreCandidate
}

// Propose proposes a batch, which it copies. ErrDropped: it was not accepted. An accepted batch is applied sooner or
// later, or lost together with the lead. No data proposes an entry that only moves the index.
func (s *Shard) Propose(data []byte) (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	if err := s.node.Propose(data); err != nil {
		return fmt.Errorf("shard %d: %w: %w", s.cfg.ID, ErrDropped, err)
	}
	return nil
}

// ReadIndex asks for the index that a read must wait for to be linearizable. The answer comes in Effects.Reads under
// the same id, which must be unique in this process; no answer comes when the lead is lost meanwhile.
func (s *Shard) ReadIndex(id uint64) (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	s.node.ReadIndex(binary.LittleEndian.AppendUint64(nil, id))
	return nil
}

// Applied is the last index applied, its term, and how many bytes of entries were applied since Open.
func (s *Shard) Applied() (index, term, bytes uint64) {
	return s.applied, s.appliedTerm, s.appliedBytes
}

// Last is the last index of the log.
func (s *Shard) Last() uint64 { return s.store.last }

// Committed is the last index known as committed when the replica was opened.
func (s *Shard) Committed() uint64 { return s.store.hard.Commit }

// Leading tells whether this replica leads and has applied all entries of earlier terms, and in which term: only then
// does its state say what a leader needs to know before it proposes.
func (s *Shard) Leading() (leading bool, term uint64) {
	return s.leads && s.appliedTerm == s.term, s.term
}

// LeadTerm is the term in which this replica leads, also when it has not applied all of earlier terms yet; else 0.
func (s *Shard) LeadTerm() uint64 {
	if !s.leads {
		return 0
	}
	return s.term
}

// Leader is the leader as far as known, else 0.
func (s *Shard) Leader() ReplicaID { return s.leader }

// ConfState encodes the configuration as of the last index applied, for a snapshot at that index.
func (s *Shard) ConfState() ([]byte, error) { return proto.Marshal(s.conf) }

// Snapshotted says that a snapshot is durable, and that the log keeps no entries below first any more, but as payloads.
// From now on members that need older entries are wished that snapshot.
// snap.ConfState is what ConfState gave at that index.
func (s *Shard) Snapshotted(snap Restored, first uint64) {
	conf := new(raftpb.ConfState)
	err := proto.Unmarshal(snap.ConfState, conf)
	invariant.Check(err == nil, "shard %d: the configuration of a snapshot does not decode: %v", s.cfg.ID, err)
	s.store.snapshot = snapshotMetadata(snap, raftpb.EnsureConfState(conf))
	s.store.compact(first)
}

// CacheBytes is how much memory recent entries take. Any goroutine may call it, also while the shard is being turned.
func (s *Shard) CacheBytes() int64 { return s.store.cache.size() }

// CachedItem returns an item of an entry that is still in memory; ok is false when the entry is not. Any goroutine may
// call it, also while the shard is being turned.
func (s *Shard) CachedItem(index uint64, ordinal int) (h Header, item []byte, ok bool, err error) {
	e, ok := s.store.cache.get(index)
	if !ok {
		return Header{}, nil, false, nil
	}
	if len(e.GetData()) == 0 || e.GetType() != raftpb.EntryNormal {
		return Header{}, nil, true, ErrNoItem
	}
	h, item, err = ItemAt(e.GetData(), ordinal)
	return h, item, true, err
}

// CachedBatch returns an entry that is still in memory, for reading several of its items; ok is false when it is not or
// holds no batch. Any goroutine may call it, also while the shard is being turned.
func (s *Shard) CachedBatch(index uint64) (b Batch, ok bool) {
	e, ok := s.store.cache.get(index)
	if !ok || e.GetType() != raftpb.EntryNormal {
		return Batch{}, false
	}
	b, err := OpenBatch(e.GetData())
	return b, err == nil
}
