package replica

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Instant is one moment on both clocks of a node.
type Instant struct {
	// Mono is the time since some moment, never negative, on a clock that never runs back: ticks and pauses go by it.
	Mono time.Duration
	// Millis is the wall clock in milliseconds since the Unix epoch. It may jump; only stamps come from it.
	Millis int64
}

// Flush is what a replica asks of whoever makes the log durable.
type Flush uint8

const (
	// FlushNone: nothing, or what was asked before is still to come.
	FlushNone Flush = iota
	// FlushHere: flush all that was appended. The replica has nothing else to do meanwhile, and little was appended.
	FlushHere
	// FlushAside: have all that was appended flushed by somebody else, and go on turning.
	FlushAside
)

// Effects is what the owner carries out after a Turn, in any order, before the next.
type Effects struct {
	// Messages go to other replicas of the group. They may be lost, late, twice or in another order. They depend on
	// nothing that is not durable; the slice is valid until the next Turn.
	Messages []*raftpb.Message
	// Snapshots are to be brought to members that lack what the log has forgotten; SnapshotSent ends each. A wish may have waited for a
	// snapshot of this replica.
	Snapshots []shard.SnapshotWish
	// Flush asks for what was appended; Durable answers it.
	Flush Flush
	// Mends are requests and statements to other members, who hand them to StepMend: for what is damaged here, and about states
	// that differ. They may be lost.
	Mends []Mail
	// Renew asks the owner to tell its transfer.Receiver that the state here is wrong, as Renewing says.
	Renew bool
	// HolesBegan and HolesEnded say that the replica left its group on account of holes in its log, and that it is back.
	HolesBegan, HolesEnded bool
	// Batch was proposed.
	Batch Batch
	// Snapshot asks for Freeze, SnapshotJob.Store and then SnapshotStored.
	Snapshot bool
	// More asks for another Turn without waiting.
	More bool
}

// waiting is an append that waits to be durable.
type waiting struct {
	position wal.Position
	done     shard.Done
	since    time.Duration
}

// heirs are those that a leader asked to take the lead.
type heirs struct {
	term  uint64 // of the lead
	asked []shard.ReplicaID
}

// Replica is one replica of one shard. See the package's doc for what its owner must do. An error of any method is final:
// the replica must not go on, and Stop is all that may follow.
type Replica struct {
	cfg Config
	sh  *shard.Shard
	now Instant // of the Turn
	eff Effects // of the Turn

	builder   shard.BatchBuilder
	inflight  []uint64 // sequences proposed and not applied, oldest first
	full      bool     // the last batch was at least half full
	committed shard.Committed
	waits     []waiting // oldest first
	durable   wal.Position
	lastPos   wal.Position // of what this replica appended, or found appended, and promises rest on
	lazyPos   wal.Position // of a commit index that was appended; no promise rests on it
	handed    wal.Position // what was appended up to it was flushed, or the owner was asked to
	unsynced  int          // bytes appended behind handed

	leading      bool // as told to the driver
	term         uint64
	stamp        int64 // the highest applied, or given to a batch
	closing      bool
	transferring bool          // the lead is being handed over
	heirUntil    time.Duration // a closing leader waits so long for its heir
	yieldedUntil time.Duration // a leader whose disk stands still has asked its heir, and waits so long
	heirs        heirs

	asked    []Read // since the last Turn
	reads    []readGroup
	waiting  int // reads in reads
	nextRead uint64

	ticking  bool // time means something to the shard
	nextTick time.Duration
	settle   bool // something was applied or dropped since Settled

	restored wal.Retention // what the restored snapshot refers to
	snap     snapshotState
	mender   *transfer.Mender
	mendable bool // as the log was told
	doubts   doubts
	holes    holes
	count    Stats

	succession succession
}

// Campaign makes a replica that is its whole group stand for election now, rather than wait for an election timeout.
func (r *Replica) Campaign() error {
	if r.holes.out {
		return nil
	}
	return r.sh.CampaignAlone()
}

// Step takes a message of another replica; see shard.Shard.Step for what is ignored.
func (r *Replica) Step(m *raftpb.Message) error {
	if r.holes.out || m.GetType() == raftpb.MsgTimeoutNow && r.barred() {
		return nil // It must not take the lead, or is not there.
	}
	if t := m.GetType(); t == raftpb.MsgPreVote || t == raftpb.MsgVote {
		r.succession.asked = true
	}
	return r.sh.Step(m)
}

// Durable says that everything appended up to a position is durable.
func (r *Replica) Durable(p wal.Position) { r.durable = max(r.durable, p) }

// Awaits is the position that the oldest waiting append needs to be durable; 0 is none.
func (r *Replica) Awaits() wal.Position {
	if len(r.waits) == 0 || r.holes.out {
		return 0
	}
	return r.waits[0].position
}

// Leading tells whether this replica leads and has told its driver so.
func (r *Replica) Leading() bool { return r.leading }

// Applied is the last index applied.
func (r *Replica) Applied() uint64 {
	applied, _, _ := r.sh.Applied()
	return applied
}

// Last is the last index of the log.
func (r *Replica) Last() uint64 { return r.sh.Last() }

// Turn does one round of what there is to do. A round does a bit of everything: a replica that always has one more small
// command must not keep reads and snapshots waiting.
func (r *Replica) Turn(now Instant) (Effects, error) {
	r.now = now
	clear(r.eff.Messages)
	r.eff = Effects{Messages: r.eff.Messages[:0]}
	if out, err := r.lookForHoles(); out || err != nil {
		return r.eff, err
	}
	if err := r.turn(); err != nil {
		return Effects{}, err
	}
	r.eff.Messages = spare(r.eff.Messages)
	return r.eff, nil
}

func (r *Replica) turn() error {
	if err := r.apply(); err != nil {
		return err
	}
	if err := r.tick(); err != nil {
		return err
	}
	if err := r.succeed(); err != nil {
		return err
	}
	if err := r.complete(); err != nil {
		return err
	}
	if err := r.ask(); err != nil {
		return err
	}
	for r.sh.HasReady() {
		if err := r.process(); err != nil {
			return err
		}
		if r.eff.Flush == FlushAside {
			r.eff.More = true // The flush begins now, and the rest goes on beside it.
			return nil
		}
		if err := r.apply(); err != nil {
			return err
		}
	}
	r.lead()
	r.serveReads()
	if r.settle {
		r.settle = false
		r.cfg.Driver.Settled()
	}
	r.bring()
	if err := r.snapshot(); err != nil {
		return err
	}
	r.mend()
	if err := r.settleDoubts(); err != nil {
		return err
	}
	if err := r.handOver(); err != nil {
		return err
	}
	if err := r.yield(); err != nil {
		return err
	}
	if err := r.gather(); err != nil {
		return err
	}
	if r.sh.HasReady() {
		r.eff.More = true
		if r.eff.Batch.Items > 0 {
			return r.process() // The batch goes out with what this turn has found committed: see spare.
		}
		return nil
	}
	r.wishFlush()
	if !r.ticking && r.sh.NeedsTicks() {
		return r.tick() // The group has just got company: from now on time means something.
	}
	return nil
}

// tick gives the shard its time, if time means anything to it.
func (r *Replica) tick() error {
	if !r.sh.NeedsTicks() {
		r.ticking = false
		return nil
	}
	switch {
	case !r.ticking:
		r.ticking, r.nextTick = true, r.now.Mono+r.cfg.TickInterval
	case r.now.Mono >= r.nextTick:
		// Ticks that were missed stay missed: a stalled node should not hurry into an election.
		r.nextTick = r.now.Mono + r.cfg.TickInterval
		r.flushLazily()
		return r.sh.Tick()
	}
	return nil
}

// Pause is how long the owner may wait when nothing happens; false is for ever.
func (r *Replica) Pause(now Instant) (time.Duration, bool) {
	pause, timed := time.Duration(0), false
	if r.holes.out { // the log does not tell when it has filled them
		return r.cfg.TickInterval, true
	}
	if r.ticking {
		pause, timed = r.nextTick-now.Mono, true
	}
	if r.succession.next != 0 && (!timed || r.succession.next-now.Mono < pause) {
		pause, timed = r.succession.next-now.Mono, true
	}
	if untilMend, ok := r.mender.Pause(now.Mono); ok && r.mendable && (!timed || untilMend < pause) {
		pause, timed = untilMend, true
	}
	if r.doubts.Trust == Wrong && !r.snap.running || r.doubts.inquiry != nil {
		if untilAsk := r.doubts.again - now.Mono; !timed || untilAsk < pause {
			pause, timed = untilAsk, true
		}
	}
	if at := max(r.snap.notBefore, r.snap.wantedAfter); r.snap.wanted && !r.snap.running && at > now.Mono {
		if untilRetry := at - now.Mono; !timed || untilRetry < pause {
			pause, timed = untilRetry, true
		}
	}
	if r.mayGather() {
		if at := r.cfg.Driver.Wakeup(); at != 0 {
			untilDue := WakeupMin
			if at > r.stamp {
				untilDue = max(time.Duration(at-now.Millis)*time.Millisecond, WakeupMin)
			}
			if !timed || untilDue < pause {
				pause, timed = untilDue, true
			}
		}
	}
	return max(pause, 0), timed
}

// complete delivers the acknowledgements of appends that are durable now.
func (r *Replica) complete() error {
	done := 0
	for done < len(r.waits) && r.waits[done].position <= r.durable {
		if err := r.sh.AppendDone(r.waits[done].done); err != nil {
			return err
		}
		done++
	}
	if done > 0 {
		clear(r.waits[:done])
		r.waits = append(r.waits[:0], r.waits[done:]...)
	}
	return nil
}

// process carries out one Ready of the shard, all but applying what it has committed.
func (r *Replica) process() error {
	eff, err := r.sh.Ready()
	if err != nil {
		return err
	}
	r.eff.Messages = append(r.eff.Messages, r.mute(eff.Messages)...)
	r.wish(eff.Snapshots)
	if err := r.append(&eff.Append); err != nil {
		return err
	}
	r.committed = eff.Committed
	if r.committed.Len() > 0 && len(r.waits) > 0 {
		r.flushAside() // One batch is flushed while the other is applied.
	}
	for _, state := range eff.Reads {
		r.readAt(state)
	}
	return nil
}

// apply applies what process found committed.
func (r *Replica) apply() error {
	if r.committed.Len() == 0 {
		return nil
	}
	c := r.committed
	r.committed = shard.Committed{}
	r.settle = true
	return r.sh.Apply(c)
}

// append writes to the log's buffer. It becomes durable by a flush.
func (r *Replica) append(a *shard.Append) error {
	if !a.Empty() {
		position, err := r.cfg.Log.Append(r.cfg.Shard, a.HardState, a.Entries)
		if err != nil {
			return fmt.Errorf("shard %d: append to log: %w", r.cfg.Shard, err)
		}
		if r.lazyPos = position; !a.CommitOnly {
			r.lastPos = position
		}
		for i := range a.Entries {
			r.unsynced += len(a.Entries[i].Data)
		}
	}
	switch {
	case !a.Done.Waits():
		return nil // Nobody waits for it: it becomes durable together with what comes next.
	case len(r.waits) == 0 && r.lastPos <= r.durable:
		return r.sh.AppendDone(a.Done) // What it promises is durable already: see shard.Append.CommitOnly.
	}
	r.waits = append(r.waits, waiting{r.lastPos, a.Done, r.now.Mono})
	if len(r.waits) > 1 || r.unsynced > FlushHereBytes {
		r.flushAside()
	}
	return nil
}

// flushAside asks for a flush that somebody else does.
func (r *Replica) flushAside() {
	if r.lastPos > r.handed {
		r.handed, r.unsynced = max(r.lastPos, r.lazyPos), 0
		r.eff.Flush = FlushAside
	}
}

// flushLazily asks for a flush of a commit index that no entry has taken along for a while. Nobody waits for it; but a start knows by it
// what was applied, and what is written behind an entry tells damage of that from a torn end.
func (r *Replica) flushLazily() {
	if r.lazyPos > r.handed && r.lazyPos > r.durable {
		r.handed, r.unsynced = r.lazyPos, 0
		r.eff.Flush = FlushAside
	}
}

// wishFlush asks for a flush of what waits and was not asked for yet.
func (r *Replica) wishFlush() {
	if len(r.waits) > 0 && r.waits[len(r.waits)-1].position > r.handed {
		r.handed, r.unsynced = max(r.lastPos, r.lazyPos), 0
		r.eff.Flush = FlushHere
	}
}

// leads is shard.Shard.Leading for a replica that may use the lead.
func (r *Replica) leads() (leading bool, term uint64) {
	leading, term = r.sh.Leading()
	return leading && !r.barred(), term
}

// lead tells the driver when the lead was won or lost. A lost lead leaves what was in flight undecided.
func (r *Replica) lead() {
	leading, term := r.leads()
	if leading == r.leading && (!leading || term == r.term) {
		return
	}
	if r.leading {
		for _, seq := range r.inflight {
			r.count.Dropped++
			r.cfg.Driver.Dropped(seq, true)
		}
		r.inflight = r.inflight[:0]
		r.settle = true
		r.refuseReads(r.notLeader())
		r.transferring = false
		r.cfg.Driver.Leadership(false, r.term)
	}
	r.leading, r.term = leading, term
	if leading {
		r.cfg.Driver.Leadership(true, term)
	}
}

// BeginClose makes the replica gather no more. When Finished reports true, it may be stopped without losing anything that
// is in flight.
func (r *Replica) BeginClose() { r.closing = true }

// Finished says that a closing replica has nothing left to do.
func (r *Replica) Finished(now Instant) bool {
	if r.closing && r.holes.out {
		return !r.snap.running
	}
	if !r.closing || len(r.inflight) > 0 || len(r.waits) > 0 || r.snap.running || r.leading && now.Mono < r.heirUntil {
		return false
	}
	return !r.closingSnapshot() || now.Mono < r.snap.notBefore
}

// Stop answers everybody who still waits, reads with err. What is in flight may yet turn out committed after the next
// start. Nothing but Stats, Payload and Batch may be called after it.
func (r *Replica) Stop(err error) {
	for _, seq := range r.inflight {
		r.cfg.Driver.Dropped(seq, true)
	}
	r.inflight = nil
	if r.leading {
		r.leading = false
		r.cfg.Driver.Leadership(false, r.term)
	}
	r.cfg.Driver.Settled()
	r.refuseReads(err)
}
