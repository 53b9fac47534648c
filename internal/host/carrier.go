package host

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// parcel is a chunk of a snapshot or an acknowledgement, as it came.
type parcel struct {
	from uint64 // node
	kind uint8
	data []byte
}

// TransferStats describes a snapshot that is on its way to another member.
type TransferStats struct {
	Shard    shard.ID
	To       shard.ReplicaID
	Snapshot uint64 // its index
	Bytes    uint64 // sent so far
	// FullBytes is what a full snapshot would send: the hot state and all live entries.
	FullBytes uint64
}

// IncomingStats describes a snapshot that is being taken in.
type IncomingStats struct {
	Shard shard.ID
	transfer.Incoming
}

// carrier is the goroutine that sends one replica's snapshots to members that lack what the log forgot, and takes in those that
// are sent here. It may wait for the disk, which the shard loop must not.
type carrier struct {
	l      *loop
	signal chan struct{}
	quit   chan struct{} // closed by the loop
	gone   chan struct{} // closed when the goroutine is

	mu      sync.Mutex
	parcels []parcel             // guarded by mu
	bytes   int                  // of parcels, guarded by mu
	wishes  []shard.SnapshotWish // guarded by mu
	term    uint64               // in which the replica leads, guarded by mu
	under   []transfer.Transfer  // guarded by mu: as of the last turn
	coming  *transfer.Incoming   // guarded by mu: as of the last turn

	// work is held by whoever uses what follows: the carrier, and the loop while it installs a snapshot.
	work     semaphore
	senders  *transfer.Senders
	receiver *transfer.Receiver
}

func newCarrier(l *loop) *carrier {
	h := l.h
	return &carrier{
		l: l, work: newSemaphore(), signal: make(chan struct{}, 1), quit: make(chan struct{}), gone: make(chan struct{}),
		senders: transfer.NewSenders(transfer.SendersConfig{
			FS: h.opts.FS, Shard: l.id, SnapshotDir: SnapshotDir(h.opts.Dir, l.id), Log: h.log,
		}),
	}
}

func (c *carrier) poke() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// receive takes a parcel from any goroutine.
func (c *carrier) receive(p parcel) {
	c.mu.Lock()
	if n := len(c.parcels); n >= ParcelsMax || n > 0 && c.bytes+len(p.data) > ParcelBytesMax {
		c.l.h.chunksDropped.Add(1)
	} else {
		c.parcels = append(c.parcels, p)
		c.bytes += len(p.data)
	}
	c.mu.Unlock()
	c.poke()
}

// lead tells in which term the replica leads, and what it wishes.
func (c *carrier) lead(term uint64, wishes []shard.SnapshotWish) {
	c.mu.Lock()
	c.term = term
	c.wishes = append(c.wishes, wishes...)
	c.mu.Unlock()
	c.poke()
}

// stop ends the goroutine and lets go of the files.
func (c *carrier) stop() {
	close(c.quit)
	<-c.gone
	c.work.acquire()
	defer c.work.release()
	c.senders.Close()
}

// run is the carrier.
func (c *carrier) run() {
	defer close(c.gone)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		pause, timed, err := c.turn()
		if err != nil {
			c.l.h.fail(fmt.Errorf("shard %d: %w", c.l.id, err))
			return
		}
		if timed {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		select {
		case <-c.signal:
		case <-timer.C:
		case <-c.quit:
			return
		case <-c.l.h.aborted:
			return
		}
	}
}

// turn does what there is to do, and says when to come again. An error is final for the node.
func (c *carrier) turn() (pause time.Duration, timed bool, err error) {
	c.work.acquire()
	defer c.work.release()
	c.mu.Lock()
	parcels, wishes, term := c.parcels, c.wishes, c.term
	c.parcels, c.bytes, c.wishes = nil, 0, nil
	c.mu.Unlock()

	h := c.l.h
	c.senders.Lead(term)
	for _, w := range wishes {
		if w.Term == term {
			c.senders.Begin(h.now().Mono, uint64(w.To))
		}
	}
	for _, p := range parcels {
		switch transfer.Kind(p.kind) {
		case transfer.KindAck:
			c.senders.Acked(h.now().Mono, p.data)
			continue
		case transfer.KindWant, transfer.KindHave, transfer.KindPrint, transfer.KindRenew:
			c.mend(p)
			continue
		default:
		}
		if err := c.accept(p); err != nil {
			return 0, false, err
		}
	}
	c.senders.Held(h.now().Mono, func(to uint64) bool {
		return h.opts.Transport.TransfersWait(uint64(shard.ReplicaID(to).Node()), uint16(c.l.id))
	})
	for o, ok := c.senders.Next(h.now().Mono); ok; o, ok = c.senders.Next(h.now().Mono) {
		kind, to := transfer.KindOf(o.Data), shard.ReplicaID(o.To).Node()
		if !h.opts.Transport.SendTransfer(uint64(to), uint16(c.l.id), uint8(kind), o.Data) {
			c.senders.Refused(h.now().Mono, o)
		}
	}
	if ended := c.senders.Ended(); len(ended) > 0 {
		c.l.transfersEnded(ended)
	}
	c.publish()
	at, timed := c.senders.Due()
	return max(at-h.now().Mono, 0), timed, nil
}

// accept takes in a chunk. When it was the last one, the loop is asked to install what is here.
func (c *carrier) accept(p parcel) error {
	ack, err := c.receiver.Accept(p.data)
	_, newer := errors.AsType[*transfer.VersionError](err)
	switch {
	case errors.Is(err, transfer.ErrMalformed), newer:
		c.l.h.opts.Logger.Warn("chunk of a snapshot is refused", "shard", c.l.id, "node", p.from, "error", err)
		return nil
	case err != nil:
		return err
	}
	c.reply(p.from, ack)
	if c.receiver.Ready() {
		c.l.installFrom.Store(p.from)
		c.l.poke()
	}
	return nil
}

// renew has the receiver take a snapshot in the place of a state that is wrong.
func (c *carrier) renew(above uint64) {
	c.work.acquire()
	defer c.work.release()
	c.receiver.Renew(above)
}

// mend answers a request for entries that are damaged at another member, or hands an answer, or what is said of states that differ,
// to the loop. Lost ones are repeated.
func (c *carrier) mend(p parcel) {
	l := c.l
	if kind := transfer.KindOf(p.data); kind != transfer.KindWant {
		most, waiting := PrintsMax, 0
		if kind == transfer.KindHave {
			most = MendAnswersMax
		}
		l.mu.Lock()
		for _, o := range l.mends {
			if (transfer.KindOf(o.data) == transfer.KindHave) == (kind == transfer.KindHave) {
				waiting++
			}
		}
		if waiting < most { // what is over is asked for again
			l.mends = append(l.mends, p)
		}
		l.mu.Unlock()
		l.poke()
		return
	}
	answer, err := transfer.Serve(l.id, l.h.log, p.data, transfer.MendBytesDefault)
	if err != nil {
		l.h.opts.Logger.Warn("request for damaged entries is refused", "shard", l.id, "node", p.from, "error", err)
		return
	}
	l.h.opts.Transport.SendTransfer(p.from, uint16(l.id), uint8(transfer.KindHave), answer)
}

// reply sends an acknowledgement. If there is no room for it the sender asks again.
func (c *carrier) reply(to uint64, ack transfer.Ack) {
	c.l.h.opts.Transport.SendTransfer(to, uint16(c.l.id), uint8(transfer.KindAck), ack.Append(nil))
}

// publish makes known what is under way.
func (c *carrier) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.under = c.senders.Under(c.under[:0])
	c.coming = nil
	if in, ok := c.receiver.Incoming(); ok {
		c.coming = &in
	}
}

// stats appends what is under way.
func (c *carrier) stats(s *Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.under {
		s.Transfers = append(s.Transfers, TransferStats{
			Shard: c.l.id, To: shard.ReplicaID(t.To), Snapshot: t.Index, Bytes: t.Stats.Bytes, FullBytes: t.Stats.FullBytes,
		})
	}
	if c.coming != nil {
		s.Incoming = append(s.Incoming, IncomingStats{c.l.id, *c.coming})
	}
}

// transfersEnded hands the loop what became of transfers.
func (l *loop) transfersEnded(ended []transfer.Ended) {
	for _, e := range ended {
		l.h.transfers.Add(1)
		l.h.transferBytes.Add(e.Stats.Bytes)
		l.h.transferFullBytes.Add(e.Stats.FullBytes)
		if !e.OK {
			l.h.opts.Logger.Warn("snapshot could not be brought to a member, which is tried again", "shard", l.id, "replica", shard.ReplicaID(e.To).String(), "reason", e.Reason)
		}
	}
	l.mu.Lock()
	l.ended = append(l.ended, ended...)
	l.mu.Unlock()
	l.poke()
}

// install puts a snapshot that is all here into the replica's place: the replica ends, and another begins from the snapshot.
// No snapshot of its own is on its way to the disk.
func (l *loop) install(from uint64) error {
	h, c := l.h, l.carrier
	c.work.acquire()
	defer c.work.release()
	if !c.receiver.Ready() {
		return nil
	}
	l.rep.Stop(ErrNotLeader)
	l.awaits.Store(0)
	_, ack, err := c.receiver.Finish(func(wal.Position) error { return h.flushAll() })
	switch {
	case err == nil:
		h.opts.Logger.Info("snapshot of another node is installed", "shard", l.id, "node", from, "index", ack.Index())
		c.reply(from, ack)
	case errors.Is(err, transfer.ErrNotNeeded):
	case replica.NoSpace(err) && c.receiver.Ready(): // Nothing was decided. The next chunk, which is a repetition, has it tried again.
		h.opts.Logger.Warn("a snapshot waits for disk space", "shard", l.id, "error", err)
	default:
		return err
	}
	return l.again()
}
