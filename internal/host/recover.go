package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// progressEntries is how many entries lie between two reports of Options.Progress.
const progressEntries = 4096

// RestoreError says that a snapshot that is intact could not be restored, or gave another state than it was taken of.
type RestoreError = replica.RestoreError

// recover restores all shards and replays what is known as committed, the shards beside one another.
func (h *Host) recover(ctx context.Context) error {
	var (
		group    sync.WaitGroup
		progress sync.Mutex
	)
	loops, err := h.settle(h.records)
	if err != nil {
		return err
	}
	if loops, err = h.completeInstallations(loops); err != nil {
		return err
	}
	errs := make([]error, len(loops))
	for i, l := range loops {
		group.Go(func() {
			started := time.Now()
			if errs[i] = l.restore(); errs[i] == nil {
				errs[i] = l.replay(ctx, started, &progress)
			}
		})
	}
	group.Wait()
	for i, l := range loops {
		if lost, ok := errors.AsType[*replica.LostError](errs[i]); ok {
			h.setLost(l.id, lost)
			errs[i] = nil
		} else if errs[i] == nil {
			h.list(l)
		}
	}
	return h.advise(errors.Join(errs...))
}

// advise says what to do about an error of Open if that is damage.
func (h *Host) advise(err error) error {
	_, behind := errors.AsType[*shard.StateError](err)
	_, spoiled := errors.AsType[*snapshot.Damage](err)
	switch {
	case err == nil || !behind && !spoiled && !wal.IsDamage(err) && !errors.Is(err, snapshot.ErrAllDamaged):
		return err
	case h.opts.WAL.Peers:
		return fmt.Errorf("%w; the other nodes have what this one lost: have it replaced by a new one with an empty data directory (beaver cluster replace)", err)
	default:
		return fmt.Errorf("%w; no other node has a copy: put back the file if it is missing, or else restore the directory %s from a copy", err, h.opts.Dir)
	}
}

// completeInstallations completes what a crash interrupted, and returns the replicas that may go on. REQUIRES: nothing else uses the log
// yet.
func (h *Host) completeInstallations(loops []*loop) (good []*loop, err error) {
	for _, l := range loops {
		if h.log.Lost(l.id) == nil { // It will not be opened otherwise.
			done, err := transfer.Recover(l.receiverConfig())
			if damaged, ok := errors.AsType[*transfer.DamagedError](err); ok {
				h.setLost(l.id, &replica.LostError{Shard: l.id, Replica: l.replica, Reason: damaged})
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("shard %d: %w", l.id, err)
			}
			if done.Abandoned != nil {
				h.opts.Logger.Error("a snapshot that was to be installed is damaged: the replica goes on without, and waits for another",
					"shard", l.id, "damage", done.Abandoned)
			}
		}
		good = append(good, l)
	}
	return good, nil
}
