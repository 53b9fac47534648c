package replica

import "github.com/beaver-raft/beaver/internal/shard"

// A member that lacks what the log has forgotten is brought a snapshot, what it refers to, and then the log behind it. What has died since
// the newest snapshot would be sent in vain: after a burst that may be nearly all. So another snapshot is taken first, unless so little was
// applied meanwhile that it cannot matter. To take one costs less than to send what it spares. Such a snapshot takes nothing
// away from the log: members that need none go on to get log.

// bringing is a wish of the shard that waits for the snapshot to be brought.
type bringing struct {
	shard.SnapshotWish
	least uint64 // index of a snapshot that is good enough
}

// wish takes wishes of the shard.
func (r *Replica) wish(wishes []shard.SnapshotWish) {
	applied, _, _ := r.sh.Applied()
	for _, w := range wishes {
		r.snap.bringing = append(r.snap.bringing, bringing{w, applied})
	}
}

// bring hands out the wishes that need not wait for a snapshot, or not any more. Each waits for one at most.
func (r *Replica) bring() {
	if len(r.snap.bringing) == 0 {
		return
	}
	waiting := r.snap.bringing[:0]
	for _, b := range r.snap.bringing {
		switch {
		case b.Term != r.sh.LeadTerm(): // The lead was lost: nobody waits for it any more.
		case r.snap.index < b.least && r.stale() && r.maySnapshot():
			waiting = append(waiting, b)
		default:
			b.Index = r.snap.index
			r.eff.Snapshots = append(r.eff.Snapshots, b.SnapshotWish)
		}
	}
	r.snap.bringing = waiting
}

// stale reports whether so much was applied since the newest snapshot that another would spare more than it costs.
func (r *Replica) stale() bool {
	_, _, bytes := r.sh.Applied()
	return bytes-r.snap.bytes > uint64(r.count.SnapshotBytes)/staleShare
}

// maySnapshot reports whether a snapshot may be taken now, or when the one that is being stored is done.
func (r *Replica) maySnapshot() bool {
	return !r.closing && !r.barred() && r.now.Mono >= r.snap.notBefore
}
