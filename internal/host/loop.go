package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// loop is the goroutine of one replica and what others hand to it. All fields that say nothing else belong to the loop.
type loop struct {
	h        *Host
	id       shard.ID
	replica  shard.ReplicaID // never changes
	founders []shard.ReplicaID
	record   Record
	driver   Driver
	rep      *replica.Replica
	alone    bool                            // it was its whole group when it was opened
	shared   atomic.Pointer[replica.Replica] // rep, for others
	batches  batchCache                      // for others

	signal chan struct{} // one element: something happened
	led    chan struct{} // closed when it leads for the first time
	awaits atomic.Uint64 // the position that the oldest waiting append needs; 0 is none
	wanted atomic.Bool   // the maintainer wants a snapshot

	carrier     *carrier      // nil when there is no network
	installFrom atomic.Uint64 // the node that sent a snapshot that is all here; 0: there is none
	leave       atomic.Bool   // stop for good
	gone        chan struct{} // closed when the loop is

	unserved atomic.Int64 // reads taken out of the inbox that wait for their index

	mu       sync.Mutex
	inbox    []*readCall             // guarded by mu
	mail     mail                    // guarded by mu
	ended    []transfer.Ended        // guarded by mu
	mends    []parcel                // about damaged entries, and states that differ; guarded by mu
	begun    []*operation            // guarded by mu
	stored   *replica.SnapshotResult // guarded by mu: what the snapshotter finished
	quitted  bool                    // guarded by mu: the loop is gone
	reported ShardStats              // guarded by mu
	// operations that came and are not over; guarded by mu.
	operations int

	calls    []*readCall // taken out of the inbox
	got      mail        // taken out of mail
	sending  []*raftpb.Message
	pending  []*operation
	leadTerm uint64  // as told to the carrier
	barren   bool    // it was logged that no other member has an entry that is damaged here
	recovery float64 // seconds
	pause    float64 // seconds for which the newest snapshot stopped the machine

	elections uint64 // as ShardStats counts them
	electedIn uint64 // term of the newest of these
}

func newLoop(h *Host, record Record, founders []shard.ReplicaID) *loop {
	l := &loop{
		h: h, id: record.Shard, replica: record.Replica, record: record, founders: founders, driver: h.opts.NewDriver(record.Shard, h),
		signal: make(chan struct{}, 1), led: make(chan struct{}), gone: make(chan struct{}),
	}
	if h.opts.Transport != nil {
		l.carrier = newCarrier(l)
	}
	return l
}

// receiverConfig says how snapshots come in.
func (l *loop) receiverConfig() transfer.ReceiverConfig {
	h := l.h
	return transfer.ReceiverConfig{
		FS: h.opts.FS, Shard: l.id, Dir: transfer.Dir(h.opts.Dir, l.id), SnapshotDir: SnapshotDir(h.opts.Dir, l.id), Log: h.log,
		Verify: l.verify,
	}
}

// restore restores the replica, and records that it has a state before it speaks.
func (l *loop) restore() error {
	h := l.h
	config := replica.Config{
		Shard:   l.id,
		Replica: l.replica,
		Log:     roomyLog{h.log, l},
		Driver:  l.driver,

		FS:          h.opts.FS,
		SnapshotDir: SnapshotDir(h.opts.Dir, l.id),
		DiskDir:     h.opts.Dir,
		Peers:       h.opts.WAL.Peers || l.record.State == Joining || l.replica.Birth() > 0,

		TickInterval:     h.opts.TickInterval,
		ElectionTicks:    h.opts.ElectionTicks,
		SnapshotBytes:    h.opts.SnapshotBytes,
		CacheBytes:       h.opts.CacheBytes,
		UncommittedBytes: h.opts.UncommittedBytes,

		Logger: h.opts.Logger,
	}
	if l.record.State == Founding {
		config.Founders = l.founders
	}
	rep, err := replica.Open(config)
	if err != nil {
		return err
	}
	if rep.Blank() == (l.record.State == Member) {
		if rep.Blank() {
			return &ReplicaError{l.id, fmt.Sprintf("%s was a member and its data is gone: let the node join anew, under a new id", l.replica)}
		}
		record := l.record
		record.State = Member
		if err := h.writeRecord(record); err != nil {
			return err
		}
		l.record = record
	}
	h.log.Retain(l.id, rep.Retention())
	if l.carrier != nil {
		if l.carrier.receiver, err = transfer.NewReceiver(l.receiverConfig()); err != nil {
			return err
		}
		if above, wrong := rep.Renewing(); wrong {
			l.carrier.receiver.Renew(above)
		}
	}
	l.rep = rep
	l.shared.Store(rep)
	return nil
}

// replay applies what is known as committed. What the log holds behind it follows once the shard leads.
func (l *loop) replay(ctx context.Context, started time.Time, progress *sync.Mutex) error {
	report := func(done bool) {
		if l.h.opts.Progress == nil {
			return
		}
		progress.Lock()
		defer progress.Unlock()
		l.h.opts.Progress(Progress{Shard: l.id, Applied: l.rep.Applied(), Last: l.rep.Last(), Done: done})
	}
	report(false)
	reported := l.rep.Applied()
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("recover shard %d: %w", l.id, err)
		}
		var err error
		if more, err = l.rep.Replay(); err != nil {
			return err
		}
		if applied := l.rep.Applied(); applied-reported >= progressEntries {
			reported = applied
			report(false)
		}
	}
	report(true)
	l.recovery = time.Since(started).Seconds()
	l.alone = l.rep.Alone()
	l.report()
	return nil
}

// poke wakes the loop. Any goroutine may call it; it never blocks.
func (l *loop) poke() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// run is the shard loop.
func (l *loop) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	if l.carrier != nil {
		go l.carrier.run() // quit waits for it
	}
	err := l.rep.Campaign()
	for err == nil {
		if err = l.turn(); err != nil && l.rep.Heals(err) {
			if err = l.reopen(err); err == nil {
				continue
			}
		}
		if err != nil || l.rep.Finished(l.h.now()) || l.leave.Load() && !l.rep.Storing() {
			break
		}
		if pause, ok := l.rep.Pause(l.h.now()); ok {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		select {
		case <-l.signal:
		case <-timer.C:
		case <-l.h.aborted:
			err = ErrStopped
		}
	}
	if err != nil && !l.h.failed.Load() && !isStopped(l.h.aborted) {
		l.h.fail(err)
	}
	l.quit()
}

func isStopped(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// quit answers everybody who still waits.
func (l *loop) quit() {
	defer close(l.gone)
	if l.carrier != nil {
		l.carrier.stop()
	}
	l.rep.Stop(ErrStopped)
	l.mu.Lock()
	l.quitted = true
	calls, ops := l.inbox, append(l.pending, l.begun...)
	l.inbox, l.begun, l.pending, l.mail = nil, nil, nil, mail{}
	l.mu.Unlock()
	for _, c := range calls {
		c.Finish(ErrStopped)
	}
	for _, op := range ops {
		op.done <- ErrStopped
	}
	l.unserved.Store(0)
	l.report()
}

// turn turns the replica until there is nothing left to do without waiting.
func (l *loop) turn() error {
	for {
		if l.h.failed.Load() {
			return ErrStopped
		}
		now := l.h.now()
		if err := l.receive(now); err != nil {
			return err
		}
		eff, err := l.rep.Turn(now)
		if err != nil {
			return err
		}
		if len(l.pending) > 0 {
			l.look()
		}
		l.unserved.Store(int64(l.rep.ReadsWaiting()))
		again, err := l.carryOut(&eff)
		if err != nil {
			return err
		}
		if eff.Batch.Items == 0 {
			l.report()
		}
		if !again && !eff.More {
			return nil
		}
	}
}

// receive tells the replica what happened outside: acknowledgements of the log writer, messages, reads, snapshots.
func (l *loop) receive(now replica.Instant) error {
	l.rep.Durable(wal.Position(l.h.durable.Load()))
	if l.wanted.Load() && l.wanted.Swap(false) {
		l.rep.WantSnapshot()
	}
	if l.h.closing.Load() {
		l.rep.BeginClose()
	}
	l.mu.Lock()
	stored, ended, begun, mends := l.stored, l.ended, l.begun, l.mends
	l.stored, l.ended, l.begun, l.mends = nil, nil, nil, nil
	l.got, l.mail = l.mail, mail{messages: l.got.messages[:0]}
	l.calls, l.inbox = l.inbox, l.calls[:0]
	for _, c := range l.calls {
		if !c.stale {
			l.unserved.Add(1)
		}
	}
	l.mu.Unlock()
	for _, c := range l.calls {
		if c.stale {
			c.Finish(nil)
		} else {
			l.rep.Read(c)
		}
	}
	clear(l.calls)
	if stored != nil {
		l.rep.SnapshotStored(now, *stored)
	}
	if err := l.unpack(now, &l.got); err != nil {
		return err
	}
	for _, e := range ended {
		if err := l.rep.SnapshotSent(shard.ReplicaID(e.To), e.OK); err != nil {
			return err
		}
		if e.Err != nil || e.Refused {
			l.rep.WantSnapshot() // This one is of no more use.
		}
	}
	for _, p := range mends {
		if answer := l.rep.StepMend(now, shard.NodeID(p.from), p.data); answer != nil {
			l.h.opts.Transport.SendTransfer(p.from, uint16(l.id), uint8(transfer.KindOf(answer)), answer)
		}
	}
	if len(mends) > 0 {
		l.h.kickMaintainer()
	}
	l.begin(begun)
	if from := l.installFrom.Load(); from != 0 && !l.rep.Storing() {
		l.installFrom.Store(0)
		return l.install(from)
	}
	return nil
}

// carryOut does what a turn asks for. It reports whether something happened that is worth another.
func (l *loop) carryOut(eff *replica.Effects) (again bool, err error) {
	if eff.Batch.Items > 0 {
		l.h.batchBytes.add(uint64(eff.Batch.Bytes))
		l.h.batchItems.add(uint64(eff.Batch.Items))
	}
	if eff.Snapshot {
		if err := l.freeze(); err != nil {
			return false, err
		}
	}
	if len(eff.Messages) > 0 {
		l.send(eff.Messages)
	}
	if l.carrier != nil {
		for _, m := range eff.Mends {
			l.h.opts.Transport.SendTransfer(uint64(m.To.Node()), uint16(l.id), uint8(transfer.KindOf(m.Data)), m.Data)
		}
		if above, wrong := l.rep.Renewing(); eff.Renew && wrong {
			l.carrier.renew(above)
		}
		if term := l.rep.LeadTerm(); term != l.leadTerm || len(eff.Snapshots) > 0 {
			l.leadTerm = term
			l.carrier.lead(term, eff.Snapshots)
		}
	}
	l.tellHoles(eff)
	awaits := l.rep.Awaits()
	l.awaits.Store(uint64(awaits))
	switch eff.Flush {
	case replica.FlushAside:
		l.h.kickWriter()
	case replica.FlushHere:
		if l.rep.Alone() {
			return l.flush()
		}
		// The loop is what others hear heartbeats from, and must not stand still with the disk.
		l.h.kickWriter()
	case replica.FlushNone:
	}
	// The writer may have passed the position before it could know that somebody waits for it.
	return awaits != 0 && l.h.isDurable(awaits), nil
}

// flush makes a small append durable right here, when nobody else is flushing; otherwise it leaves it to the writer.
func (l *loop) flush() (flushed bool, err error) {
	if !l.h.flushing.tryAcquire() {
		l.h.kickWriter()
		return false, nil
	}
	ok := l.h.flush(l)
	l.h.flushing.release()
	if !ok {
		return false, ErrStopped
	}
	return true, nil
}

// freeze hands a snapshot to the snapshotter.
func (l *loop) freeze() error {
	started := time.Now()
	job, err := l.rep.Freeze()
	if err != nil {
		return err
	}
	l.pause = time.Since(started).Seconds()
	l.h.snapshots <- &snapshotJob{l, job} // Never blocks: each shard has one job at most.
	return nil
}

// report publishes what Stats tells.
func (l *loop) report() {
	s := l.rep.Stats()
	s.RecoverySeconds, s.SnapshotPause = l.recovery, l.pause
	if s.Leader != 0 && s.Term != l.electedIn { // A term has one leader at most.
		l.electedIn = s.Term
		l.elections++
	}
	s.Elections = l.elections
	l.mu.Lock()
	moved := s.Leader != l.reported.Leader || s.Leading != l.reported.Leading
	l.reported = s
	l.mu.Unlock()
	if moved {
		l.h.leadMoved()
	}
	if s.Leading && l.rep.Leading() && !isStopped(l.led) {
		close(l.led)
	}
}

// stats is the last report.
func (l *loop) stats() ShardStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reported
}

// roomyLog is the node's log as a replica sees it: when the shards together run ahead of the disk, this shard waits for
// room.
type roomyLog struct {
	nodeLog
	l *loop
}

// Append implements replica.Log.
func (r roomyLog) Append(id wal.ShardID, hs *wal.HardState, entries []wal.Entry) (wal.Position, error) {
	h := r.l.h
	for {
		position, err := r.nodeLog.Append(id, hs, entries)
		if err == nil {
			size := 0
			for i := range entries {
				size += len(entries[i].Data)
			}
			h.appendedBytes(size)
			return position, nil
		}
		if !errors.Is(err, wal.ErrBacklogged) {
			return 0, err
		}
		h.flushing.acquire()
		ok := h.flush(r.l)
		h.flushing.release()
		if !ok {
			return 0, ErrStopped
		}
	}
}

// verify restores a hot state where nobody serves from, and says what it is.
func (l *loop) verify(_ snapshot.Meta, content io.Reader) (transfer.State, error) {
	m := l.h.opts.NewMachine(l.id)
	if err := m.Restore(content); err != nil {
		return transfer.State{}, err
	}
	return transfer.State{Fingerprint: m.Fingerprint(), Live: m.Snapshot().Live()}, nil
}
