package replica

import "github.com/beaver-raft/beaver/internal/shard"

// Stats describes a replica at one moment.
type Stats struct {
	ID          shard.ID
	Applied     uint64
	Last        uint64 // the last index of the log, applied or not
	Fingerprint uint64 // of the state at Applied
	Term        uint64
	Replica     shard.ReplicaID
	Leader      uint64 // node id; 0 when unknown
	Leading     bool   // this node leads and may propose
	Role        shard.Role
	Elections   uint64 // terms since Open in which a leader was heard of: each but the first is a change

	Batches, BatchItems, BatchBytes uint64 // applied since Open
	Doubt                           Doubt  // what is known of the state
	Rebuilt                         uint64 // 1 when the state was wrong, and was replaced when the replica was opened last

	Dropped    uint64 // batches told to the driver as dropped
	CacheBytes int64  // memory that recent entries take

	SnapshotIndex   uint64
	SnapshotMillis  int64 // when the newest one was stored, by the node's clock; 0 when that was before Open
	SnapshotBytes   int64
	SnapshotSeconds float64 // how long the newest one took in the background
	SnapshotPause   float64 // for how many seconds it stopped the machine
	Snapshots       uint64  // taken since Open
	SnapshotsFailed uint64  // that found no room, since Open

	// Hole is the first damaged entry of the log that keeps the replica out of its group; 0 when there is none. HolesBarren says
	// that all other members have answered that they do not have it.
	Hole        uint64
	HolesBarren bool

	RecoverySeconds float64
	EntriesReplayed uint64
	DamagedSnapshot uint64 // snapshots passed over by the recovery since they were damaged
}

// Stats describes the replica. The owner adds what only a clock can tell, RecoverySeconds and SnapshotPause, and counts
// Elections from one report to the next.
func (r *Replica) Stats() Stats {
	applied, _, bytes := r.sh.Applied()
	s := &r.count
	s.Applied, s.Last, s.BatchBytes = applied, r.sh.Last(), bytes
	s.CacheBytes = r.sh.CacheBytes()
	s.Fingerprint = r.cfg.Driver.Fingerprint()
	s.Leading, s.Term = r.leads()
	s.Doubt = r.doubts.Doubt
	s.Role = r.sh.Role()
	s.Hole, s.HolesBarren = 0, false
	if r.holes.out {
		s.Leading, s.Role = false, shard.RoleMending
		s.Hole, s.HolesBarren = r.holes.first, r.mender.Barren()
	}
	s.Replica, s.Leader = r.cfg.Replica, uint64(r.Leader().Node())
	return *s
}
