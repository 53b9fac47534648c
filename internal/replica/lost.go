package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
)

// LostError says that damage of the log may have taken what a replica promised: a vote, a term, an acknowledgement (wal: lost.go); or, by
// the owner, that a damaged installation left it without a state (transfer.DamagedError). It must never speak again. Its group, which goes on as if it was down, has to remove it, and to make its node a member under another
// id. Until that is done nothing here may be removed: should the others have lost theirs too, this is what there is.
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

// lost is the error of opening a replica whose promises may be lost. If it is its whole group, nobody can take its place, and the
// damage itself is the error.
func (r *Replica) lost(damage error) error {
	others := len(r.cfg.Founders) != 1
	loaded, _, err := snapshot.Load(r.cfg.FS, r.cfg.SnapshotDir)
	switch {
	case err == nil:
		conf := loaded.Meta.ConfState
		if err := loaded.Close(); err != nil {
			return err
		}
		members, err := shard.DecodeMembers(conf)
		if err != nil {
			return err
		}
		others = slices.ContainsFunc(members.All(), func(m shard.ReplicaID) bool { return m != r.cfg.Replica })
	case !errors.Is(err, snapshot.ErrNone) && !errors.Is(err, snapshot.ErrAllDamaged):
		return err
	}
	if !others {
		return damage
	}
	return &LostError{Shard: r.cfg.Shard, Replica: r.cfg.Replica, Reason: damage}
}
