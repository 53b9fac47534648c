package host

import (
	"fmt"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
)

// snapshotJob is a frozen state on its way to the disk.
type snapshotJob struct {
	l   *loop
	job replica.SnapshotJob
}

// storeSnapshots is the snapshotter.
func (h *Host) storeSnapshots() {
	for {
		select {
		case s := <-h.snapshots:
			started := time.Now()
			res := s.job.Store()
			res.Took = time.Since(started)
			if res.Err != nil && !replica.NoSpace(res.Err) {
				h.fail(fmt.Errorf("shard %d: write snapshot: %w", s.l.id, res.Err))
				return
			}
			h.kickWriter() // Files may go when what the log was told is durable too, and nobody else may write for long.
			s.l.mu.Lock()
			s.l.stored = &res
			s.l.mu.Unlock()
			s.l.poke()
			h.kickMaintainer()
		case <-h.aborted:
			return
		case <-h.stop:
			return
		}
	}
}
