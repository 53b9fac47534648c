package host

import (
	"fmt"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/transfer"
)

// reopen begins the replica anew since an entry that Raft needed is damaged: it then keeps out of its group until another member
// has sent the entry, or goes on at once if its snapshot covers it.
func (l *loop) reopen(damage error) error {
	l.h.opts.Logger.Error("a log entry is damaged, and other members are asked for it", "shard", l.id, "error", damage)
	for l.rep.Storing() {
		select {
		case <-l.signal:
		case <-l.h.aborted:
			return ErrStopped
		}
		l.mu.Lock()
		stored := l.stored
		l.stored = nil
		l.mu.Unlock()
		if stored != nil {
			l.rep.SnapshotStored(l.h.now(), *stored)
		}
	}
	if l.carrier != nil {
		l.carrier.work.acquire()
		defer l.carrier.work.release()
	}
	l.rep.Stop(ErrNotLeader)
	l.awaits.Store(0)
	return l.again()
}

// again opens the replica anew and applies what is known as committed. REQUIRES: carrier.work, if there is a carrier.
func (l *loop) again() error {
	err := l.restore()
	for more := err == nil; more; {
		if more, err = l.rep.Replay(); err != nil && l.rep.Heals(err) {
			// What was damaged is known now: the replica opens out of its group.
			l.rep.Stop(ErrNotLeader)
			err = l.restore()
			more = err == nil
		}
	}
	if err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	l.report()
	return l.rep.Campaign()
}

// tellHoles logs what a person must know of holes in the log.
func (l *loop) tellHoles(eff *replica.Effects) {
	logger := l.h.opts.Logger
	if eff.HolesBegan {
		logger.Error("log entries are damaged: until other members have sent them, the replica neither votes nor acknowledges",
			"shard", l.id, "index", l.rep.Stats().Hole)
	}
	if eff.HolesEnded {
		logger.Info("the log is whole again, and the replica is back in its group", "shard", l.id)
		l.barren = false
	}
	for _, m := range eff.Mends {
		if transfer.KindOf(m.Data) == transfer.KindRenew && l.rep.Stats().HolesBarren && !l.barren {
			l.barren = true
			logger.Error("no other member has a log entry that is damaged here, and the leader is asked for a snapshot: if the replica stays out, remove it and let the node join anew, under a new id",
				"shard", l.id, "index", l.rep.Stats().Hole)
		}
	}
}
