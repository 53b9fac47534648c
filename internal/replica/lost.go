package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
)

// LostError says that damage of the log may have taken what a replica promised, a vote, a term, an acknowledgement (wal: lost.go), or that
// it has no state to go on from: its snapshots are damaged or gone, and its log begins behind them; or, by the owner, that an
// installation is damaged (transfer.DamagedError). It must never speak again. Its group, which goes on as if it was down, has to remove
// it, and to make its node a member under another id. Until that is done nothing here may be removed: should the others have lost theirs
// too, this is what there is.
type LostError struct {
	Shard   shard.ID
	Replica shard.ReplicaID
	Reason  error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("replica %s of shard %d must not go on: %v", e.Replica, e.Shard, e.Reason)
}

// Unwrap returns the damage.
func (e *LostError) Unwrap() error { return e.Reason }

// stateless is the error of opening a replica that cannot be restored. Where the log begins behind all snapshots that are left, the state is
// gone; only a snapshot of the group could bring another, and the damage that took a snapshot which was durable may have taken more.
func (r *Replica) stateless(err error) error {
	_, behind := errors.AsType[*shard.StateError](err)
	_, mark := errors.AsType[*snapshot.Damage](err)
	if behind || mark || errors.Is(err, snapshot.ErrAllDamaged) {
		return r.lost(err)
	}
	return err
}

// lost is the error of opening a replica that must not go on. If it is its whole group, nobody can take its place, and the damage itself is the
// error. Who the members are is told by the snapshot from which the log goes on.
func (r *Replica) lost(damage error) error {
	others := r.cfg.Peers || len(r.cfg.Founders) > 1
	loaded, _, err := snapshot.Load(r.cfg.FS, r.cfg.SnapshotDir)
	switch {
	case err == nil:
		m := loaded.Meta
		if err := loaded.Close(); err != nil {
			return err
		}
		members, err := shard.DecodeMembers(m.ConfState)
		if err != nil {
			return err
		}
		if m.Index+1 >= r.cfg.Log.State(r.cfg.Shard).First || !others {
			others = slices.ContainsFunc(members.All(), func(m shard.ReplicaID) bool { return m != r.cfg.Replica })
		}
	case !errors.Is(err, snapshot.ErrNone) && !errors.Is(err, snapshot.ErrAllDamaged):
		return err
	}
	if !others {
		return damage
	}
	return &LostError{Shard: r.cfg.Shard, Replica: r.cfg.Replica, Reason: damage}
}
