package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
)

var (
	// ErrNoMember: the node has no voter in the shard's group.
	ErrNoMember = errors.New("the node has no voter of the shard")
	// ErrTransferFailed: the lead stayed where it was, or went elsewhere.
	ErrTransferFailed = errors.New("the lead was not taken over")
	// ErrChangeUnknown: the lead was lost before the change of members was applied. Members tells later what became of it.
	ErrChangeUnknown = errors.New("the lead was lost before the change of members was applied; look at the members")
)

// operation is what somebody wants of a replica, beyond a single moment.
type operation struct {
	// begin is called once, on the shard loop.
	begin func(r *replica.Replica) error
	// finished is called after each turn until it is true or an error; nil when begin was all.
	finished func(r *replica.Replica) (bool, error)
	gone     atomic.Bool // nobody waits any more
	done     chan error  // has room for one
}

// operate carries out an operation on a shard's loop and waits for its end. It returns what the operation does, ctx's error,
// ErrNoShard, ErrStopped or ErrOverloaded. An operation whose caller is gone is forgotten, and what it began goes on.
func (h *Host) operate(ctx context.Context, id shard.ID, op *operation) error {
	l := h.loop(id)
	if l == nil {
		return ErrNoShard
	}
	op.done = make(chan error, 1)
	l.mu.Lock()
	switch {
	case l.quitted:
		l.mu.Unlock()
		return ErrStopped
	case l.operations >= OperationsMax:
		l.mu.Unlock()
		l.poke() // The loop drops those that were given up.
		return fmt.Errorf("shard %d: %w", id, ErrOverloaded)
	}
	l.operations++
	l.begun = append(l.begun, op)
	l.mu.Unlock()
	l.poke()
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
		op.gone.Store(true)
		return ctx.Err()
	}
}

// begin begins the operations that came.
func (l *loop) begin(ops []*operation) {
	for _, op := range ops {
		if err := op.begin(l.rep); err != nil || op.finished == nil {
			op.done <- err
			l.endedOperations(1)
			continue
		}
		l.pending = append(l.pending, op)
	}
}

// look ends the operations that are finished or given up.
func (l *loop) look() {
	before := len(l.pending)
	l.pending = slices.DeleteFunc(l.pending, func(op *operation) bool {
		if op.gone.Load() {
			return true
		}
		done, err := op.finished(l.rep)
		if done || err != nil {
			op.done <- err
			return true
		}
		return false
	})
	l.endedOperations(before - len(l.pending))
}

func (l *loop) endedOperations(n int) {
	l.mu.Lock()
	l.operations -= n
	l.mu.Unlock()
}

// TransferLead hands the lead of a shard over to another node, and returns when that leads. Commands wait meanwhile; if the other
// does not take the lead within an election timeout it stays here, and they go on. Errors: a *replica.NotLeaderError, ErrNoMember,
// ErrTransferFailed, and those of operate.
func (h *Host) TransferLead(ctx context.Context, id shard.ID, to shard.NodeID) error {
	var heir shard.ReplicaID
	return h.operate(ctx, id, &operation{
		begin: func(r *replica.Replica) error {
			for _, v := range r.Members().Voters {
				if v.Node() == to {
					heir = v
				}
			}
			if heir == 0 {
				return fmt.Errorf("shard %d, node %d: %w", id, to, ErrNoMember)
			}
			return r.Transfer(heir)
		},
		finished: func(r *replica.Replica) (bool, error) {
			switch leader := r.Leader(); {
			case leader == heir:
				return true, nil
			case r.LeadTerm() != 0 && r.Transferring(), r.LeadTerm() == 0 && leader == 0:
				return false, nil
			}
			return true, fmt.Errorf("shard %d, node %d: %w", id, to, ErrTransferFailed)
		},
	})
}

// ChangeMembers changes who belongs to a shard's group, and returns when the change is applied here; see shard.Shard.ChangeMembers.
// It returns the changes with the ids that new members were given. Errors: a *replica.NotLeaderError, those of
// shard.Shard.ChangeMembers, ErrChangeUnknown, and those of operate.
func (h *Host) ChangeMembers(ctx context.Context, id shard.ID, changes ...shard.Change) ([]shard.Change, error) {
	var (
		made []shard.Change
		term uint64
	)
	err := h.operate(ctx, id, &operation{
		begin: func(r *replica.Replica) (err error) {
			term = r.LeadTerm()
			made, err = r.ChangeMembers(changes...)
			return err
		},
		finished: func(r *replica.Replica) (bool, error) {
			members := r.Members()
			if len(members.Outgoing) == 0 && !slices.ContainsFunc(made, func(c shard.Change) bool { return !applied(&members, c) }) {
				return true, nil
			}
			if r.LeadTerm() != term {
				return true, fmt.Errorf("shard %d: %w", id, ErrChangeUnknown)
			}
			return false, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// applied reports whether members are as a change makes them.
func applied(m *shard.Members, c shard.Change) bool {
	switch c.Kind {
	case shard.AddLearner, shard.Demote:
		return slices.Contains(m.Learners, c.Replica)
	case shard.Promote:
		return slices.Contains(m.Voters, c.Replica)
	case shard.Remove:
		return !m.Has(c.Replica)
	}
	return true
}

// Members is who belongs to a shard's group as this node knows it, which may be late, and what a leader knows of the others.
func (h *Host) Members(ctx context.Context, id shard.ID) (shard.Members, []shard.Peer, error) {
	var ( // not the results: the operation may still run when this has returned
		members shard.Members
		peers   []shard.Peer
	)
	err := h.operate(ctx, id, &operation{begin: func(r *replica.Replica) error {
		members, peers = r.Members(), r.Peers(nil)
		return nil
	}})
	if err != nil {
		return shard.Members{}, nil, err
	}
	return members, peers, nil
}

// Leadership is who leads a shard, as this node knows it.
type Leadership struct {
	Leader  shard.NodeID // 0: nobody that is known here
	Leading bool         // this node, and it may propose
	Term    uint64
}

// LeadershipOf tells who leads a shard, as this node knows it; false when it has no replica of the shard. It does not wait.
func (h *Host) LeadershipOf(id shard.ID) (Leadership, bool) {
	l := h.loop(id)
	if l == nil {
		return Leadership{}, false
	}
	s := l.stats()
	return Leadership{Leader: shard.NodeID(s.Leader), Leading: s.Leading, Term: s.Term}, true
}

// Moved returns a channel that is closed when who leads some shard has changed, as this node knows it. Whoever waits for a leader
// takes the channel first and then looks at LeadershipOf.
func (h *Host) Moved() <-chan struct{} {
	h.movedMu.Lock()
	defer h.movedMu.Unlock()
	if h.moved == nil {
		h.moved = make(chan struct{})
	}
	return h.moved
}

// leadMoved tells whoever waits that a leadership has changed.
func (h *Host) leadMoved() {
	h.movedMu.Lock()
	defer h.movedMu.Unlock()
	if h.moved != nil {
		close(h.moved)
		h.moved = nil
	}
}
