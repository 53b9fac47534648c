package shard

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// NodeID names a node of the cluster, 1 to NodeMax.
type NodeID uint64

// ReplicaID names one replica of one group for all time: the node it is on in the low bits, and above them its birth, the
// index of the group's log behind which it was made a member. The first members of a group have birth 0, so that their
// ids are those of their nodes. Changes of members are applied one after the other, each at a higher index than the one
// before, so a node that lost what it had comes back under an id that nobody ever had.
type ReplicaID uint64

const (
	nodeBits = 16
	// NodeMax is the largest id of a node.
	NodeMax = 1<<nodeBits - 1
	// birthMax keeps clear of the ids that the library has for itself, the largest of all.
	birthMax = 1<<(64-nodeBits) - 2
)

// NewReplicaID is the id of a replica on a node. REQUIRES: node is 1 to NodeMax.
func NewReplicaID(node NodeID, birth uint64) ReplicaID {
	return ReplicaID(birth<<nodeBits | uint64(node))
}

// Node is the node that the replica is on.
func (r ReplicaID) Node() NodeID { return NodeID(r & NodeMax) }

// Birth is the index behind which the replica was made a member; 0 for the first members.
func (r ReplicaID) Birth() uint64 { return uint64(r >> nodeBits) }

// valid reports whether it can be the id of a replica.
func (r ReplicaID) valid() bool { return r.Node() != 0 && r.Birth() <= birthMax }

func (r ReplicaID) String() string {
	if r.Birth() == 0 {
		return fmt.Sprint(uint64(r))
	}
	return fmt.Sprintf("%d@%d", r.Node(), r.Birth())
}

// Members is who belongs to a group, as of some index. While a change of voters is under way (joint consensus) both the
// voters and those outgoing must agree, each set by its own majority.
type Members struct {
	Voters       []ReplicaID
	Outgoing     []ReplicaID // voters of before; empty unless a change is under way
	Learners     []ReplicaID
	LearnersNext []ReplicaID // outgoing voters that become learners
}

// Has reports whether a replica belongs to the group in any way.
func (m *Members) Has(r ReplicaID) bool { return m.Votes(r) || slices.Contains(m.Learners, r) }

// All returns every member once.
func (m *Members) All() []ReplicaID {
	all := slices.Concat(m.Voters, m.Outgoing, m.Learners, m.LearnersNext)
	slices.Sort(all)
	return slices.Compact(all)
}

// Votes reports whether a replica is a voter, incoming or outgoing.
func (m *Members) Votes(r ReplicaID) bool {
	return slices.Contains(m.Voters, r) || slices.Contains(m.Outgoing, r)
}

// onNode returns the member that is on a node, or 0.
func (m *Members) onNode(n NodeID) ReplicaID {
	for _, set := range [][]ReplicaID{m.Voters, m.Outgoing, m.Learners} {
		for _, r := range set {
			if r.Node() == n {
				return r
			}
		}
	}
	return 0
}

// DecodeMembers reads the members from a configuration as Shard.ConfState gave it.
func DecodeMembers(confState []byte) (Members, error) {
	c := new(raftpb.ConfState)
	if err := proto.Unmarshal(confState, c); err != nil {
		return Members{}, fmt.Errorf("decode the members of a group: %w", err)
	}
	return membersOf(c), nil
}

func membersOf(c *raftpb.ConfState) Members {
	return Members{
		Voters: replicaIDs(c.GetVoters()), Outgoing: replicaIDs(c.GetVotersOutgoing()),
		Learners: replicaIDs(c.GetLearners()), LearnersNext: replicaIDs(c.GetLearnersNext()),
	}
}

func replicaIDs(ids []uint64) []ReplicaID {
	var out []ReplicaID
	for _, id := range ids {
		out = append(out, ReplicaID(id))
	}
	slices.Sort(out)
	return out
}

// ChangeKind says what becomes of a replica.
type ChangeKind uint8

// Kinds of changes. A replica comes as a learner and goes as a learner: a learner that is far behind holds up nothing, and
// a voter that leaves hears of it while it still is a member.
const (
	AddLearner ChangeKind = iota + 1 // a new member
	Promote                          // a learner that has caught up becomes a voter
	Demote                           // a voter becomes a learner
	Remove                           // a learner goes for good
)

// Change is one part of a change of members.
type Change struct {
	Kind ChangeKind
	// Replica is who is changed. For AddLearner it is the node alone, as a replica without birth, which ChangeMembers gives
	// it.
	Replica ReplicaID
}

var (
	// ErrChangePending: a change of members is under way already; try again when it is done.
	ErrChangePending = errors.New("a change of members is under way")
	// ErrNotCaughtUp: the learner lacks too much of the log to vote; try again later.
	ErrNotCaughtUp = errors.New("the learner has not caught up yet")
	// ErrLeads: the leader cannot be demoted; transfer the lead first.
	ErrLeads = errors.New("the replica leads the shard: transfer the lead first")
)

// ChangeError says that a change of members is impossible as asked.
type ChangeError struct {
	Shard   ID
	Replica ReplicaID
	Reason  string
}

func (e *ChangeError) Error() string {
	return fmt.Sprintf("shard %d: change of member %s: %s", e.Shard, e.Replica, e.Reason)
}

// ChangeMembers proposes changes that take effect as one. Several are made by joint consensus, which is left by itself.
// It returns them with the ids that learners were given. Errors that leave everything as it is: ErrDropped,
// ErrChangePending, ErrNotCaughtUp, ErrLeads, *ChangeError. Whether an accepted change was made is seen in Members; it may
// be lost together with the lead, or after one that was dropped.
func (s *Shard) ChangeMembers(changes ...Change) (made []Change, err error) {
	if s.err != nil {
		return nil, s.err
	}
	defer s.caught(&err)
	if leading, _ := s.Leading(); !leading {
		return nil, fmt.Errorf("shard %d: %w", s.cfg.ID, ErrDropped)
	}
	members := s.Members()
	if s.changeTerm == s.term || len(members.Outgoing) > 0 {
		return nil, ErrChangePending
	}
	cc := &raftpb.ConfChangeV2{}
	for _, c := range changes {
		if err := s.allowed(&members, c, changes); err != nil {
			return nil, err
		}
		if c.Kind == AddLearner {
			// Every change before this one was applied here, so no birth was as late as this.
			c.Replica = NewReplicaID(c.Replica.Node(), s.applied)
		}
		made = append(made, c)
		kind := raftpb.ConfChangeAddLearnerNode // of a voter: it becomes one
		switch c.Kind {
		case Promote:
			kind = raftpb.ConfChangeAddNode
		case Remove:
			kind = raftpb.ConfChangeRemoveNode
		case AddLearner, Demote:
		}
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: new(uint64(c.Replica))})
	}
	if err := s.node.ProposeConfChange(cc); err != nil {
		return nil, fmt.Errorf("shard %d: %w: %w", s.cfg.ID, ErrDropped, err)
	}
	s.changeTerm, s.changeGoes = s.term, true
	return made, nil
}

// allowed says why a change cannot be made.
func (s *Shard) allowed(m *Members, c Change, all []Change) error {
	refuse := func(reason string) error { return &ChangeError{s.cfg.ID, c.Replica, reason} }
	same := 0
	for _, other := range all {
		if other.Replica.Node() == c.Replica.Node() {
			same++
		}
	}
	switch {
	case same > 1:
		return refuse("its node is named twice")
	case len(all) > MembersMax:
		return refuse(fmt.Sprintf("%d changes at once, at most %d are possible", len(all), MembersMax))
	case !c.Replica.valid():
		return refuse("no such id is possible")
	}
	switch c.Kind {
	case AddLearner:
		if on := m.onNode(c.Replica.Node()); on != 0 {
			return refuse(fmt.Sprintf("its node has member %s already: remove that first", on))
		}
		if c.Replica.Birth() != 0 {
			return refuse("a new member is named by its node alone")
		}
		if len(m.Voters)+len(m.Learners) >= MembersMax {
			return refuse(fmt.Sprintf("the group has %d members already, which is the limit", MembersMax))
		}
	case Promote:
		if !slices.Contains(m.Learners, c.Replica) {
			return refuse("it is not a learner")
		}
		if len(m.Voters) >= VotersMax {
			return refuse(fmt.Sprintf("the group has %d voters already, which is the limit", VotersMax))
		}
		if !s.caughtUp(c.Replica) {
			return ErrNotCaughtUp
		}
	case Demote:
		switch {
		case !slices.Contains(m.Voters, c.Replica):
			return refuse("it is not a voter")
		case c.Replica == s.cfg.Replica:
			return ErrLeads
		}
	case Remove:
		if !slices.Contains(m.Learners, c.Replica) {
			return refuse("it is not a learner; demote a voter first")
		}
	default:
		return refuse(fmt.Sprintf("unknown kind of change %d", c.Kind))
	}
	return nil
}

// caughtUp reports whether a learner would not hold up the group as a voter.
func (s *Shard) caughtUp(r ReplicaID) (ok bool) {
	s.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if ReplicaID(id) == r {
			ok = p.RecentActive && p.State == tracker.StateReplicate && p.Match+PromoteLagMax >= s.store.last
		}
	})
	return ok
}

// Members is who belongs to the group as of the last index applied.
func (s *Shard) Members() Members { return membersOf(s.conf) }

// Role is what a replica is in its group.
type Role uint8

// Roles of a replica.
const (
	RoleBlank    Role = iota // waits for its first snapshot
	RoleOutside              // no member any more, or not yet, as far as known here
	RoleLearner              // follows, and does not vote
	RoleFollower             // votes
	RoleLeader
	RoleMending // neither votes nor acknowledges until its log is whole again: see package replica
)

func (r Role) String() string {
	if names := [...]string{"blank", "outside", "learner", "follower", "leader", "mending"}; int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Role is what this replica is, as of the last index applied.
func (s *Shard) Role() Role {
	id := uint64(s.cfg.Replica)
	switch {
	case s.leads:
		return RoleLeader
	case s.applied == 0:
		return RoleBlank
	case slices.Contains(s.conf.GetVoters(), id), slices.Contains(s.conf.GetVotersOutgoing(), id):
		return RoleFollower
	case slices.Contains(s.conf.GetLearners(), id):
		return RoleLearner
	}
	return RoleOutside
}

// Peer is what a leader knows of another member.
type Peer struct {
	Replica ReplicaID
	Learner bool
	Match   uint64 // the highest index it is known to hold
	Active  bool   // heard of within the last election timeout
	// Snapshot is the index of the snapshot that it needs and that is on its way, or 0.
	Snapshot uint64
}

// Peers appends what a leader knows of the other members, by id; nothing when this replica does not lead.
func (s *Shard) Peers(dst []Peer) []Peer {
	if !s.leads {
		return dst
	}
	start := len(dst)
	s.node.WithProgress(func(id uint64, kind raft.ProgressType, p tracker.Progress) {
		if ReplicaID(id) == s.cfg.Replica {
			return
		}
		peer := Peer{Replica: ReplicaID(id), Learner: kind == raft.ProgressTypeLearner, Match: p.Match, Active: p.RecentActive}
		if p.State == tracker.StateSnapshot {
			peer.Snapshot = p.PendingSnapshot
		}
		dst = append(dst, peer)
	})
	slices.SortFunc(dst[start:], func(a, b Peer) int {
		if a.Replica < b.Replica {
			return -1
		}
		return 1
	})
	return dst
}

// Transfer asks another voter to take the lead. From now on proposals are dropped, until the lead is gone or an election
// timeout has passed without that; see Transferring. REQUIRES: LeadTerm is not 0.
func (s *Shard) Transfer(to ReplicaID) (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	members := s.Members()
	switch {
	case !s.leads:
		return fmt.Errorf("shard %d: %w", s.cfg.ID, ErrDropped)
	case to == s.cfg.Replica:
		return nil
	case !slices.Contains(members.Voters, to):
		return &ChangeError{s.cfg.ID, to, "only a voter can take the lead"}
	}
	s.node.TransferLeader(uint64(to))
	return nil
}

// Transferring reports whether the lead is being handed over.
func (s *Shard) Transferring() bool {
	return s.leads && s.node.BasicStatus().LeadTransferee != raft.None
}

// Heir is the voter that a leader had best hand over to: the one that is there and holds most of the log, besides some; 0 when there is
// none.
func (s *Shard) Heir(besides []ReplicaID) ReplicaID {
	var best Peer
	for _, p := range s.Peers(nil) {
		if p.Active && p.Match > best.Match && slices.Contains(s.conf.GetVoters(), uint64(p.Replica)) && !slices.Contains(besides, p.Replica) {
			best = p
		}
	}
	return best.Replica
}

// Unreachable says that messages to a member were lost: until it answers, it is sent less at a time.
func (s *Shard) Unreachable(to ReplicaID) { s.node.ReportUnreachable(uint64(to)) }

// SnapshotSent ends what a SnapshotWish began: the member has installed the snapshot, or one as good; or it could not be
// brought there, and will be wished for again.
func (s *Shard) SnapshotSent(to ReplicaID, ok bool) (err error) {
	if s.err != nil {
		return s.err
	}
	defer s.caught(&err)
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	s.node.ReportSnapshot(uint64(to), status)
	return nil
}
