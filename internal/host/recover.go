package host

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
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
	for _, l := range loops {
		if h.log.Lost(l.id) != nil {
			continue // It will not be opened.
		}
		if err := l.completeInstallation(); err != nil {
			return err
		}
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
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return nil
}
