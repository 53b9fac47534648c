package transfer_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	testShard   wal.ShardID = 3
	hotPadBytes             = 3 << 10
)

// machine is a job machine reduced to what a transfer is about: each entry adds a job under its own index, and may end others.
// Once ended, a job is dead for ever.
type machine struct {
	applied, term uint64
	live          *roaring64.Bitmap
	sum           uint64
}

func newMachine() *machine { return &machine{live: roaring64.New()} }

func (m *machine) apply(e *wal.Entry) {
	m.applied, m.term = e.Index, e.Term
	ended, _ := decodeJob(e.Data)
	for _, index := range ended {
		m.live.Remove(index)
	}
	if e.Data != nil && e.Data[0] > 0 {
		m.live.Add(e.Index)
	}
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, []uint64{m.sum, e.Index, e.Term})
	_, _ = h.Write(e.Data)
	m.sum = h.Sum64()
}

// A job entry: whether it stays live, the number of jobs that it ends, those, and a payload.
func encodeJob(live bool, ended []uint64, payload []byte) []byte {
	b := []byte{0, byte(len(ended))}
	if live {
		b[0] = 1
	}
	for _, index := range ended {
		b = binary.LittleEndian.AppendUint64(b, index)
	}
	return append(b, payload...)
}

func decodeJob(b []byte) (ended []uint64, payload []byte) {
	if len(b) < 2 {
		return nil, nil
	}
	n := int(b[1])
	for i := range n {
		ended = append(ended, binary.LittleEndian.Uint64(b[2+8*i:]))
	}
	return ended, b[2+8*n:]
}

func (m *machine) writeTo(w io.Writer) error {
	var b []byte
	b = binary.LittleEndian.AppendUint64(b, m.applied)
	b = binary.LittleEndian.AppendUint64(b, m.term)
	b = binary.LittleEndian.AppendUint64(b, m.sum)
	live, err := m.live.MarshalBinary()
	if err != nil {
		return err
	}
	b = append(b, make([]byte, hotPadBytes)...) // more than one chunk
	_, err = w.Write(append(b, live...))
	return err
}

func restore(r io.Reader) (*machine, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(b) < 24+hotPadBytes {
		return nil, errors.New("a state is longer")
	}
	m := newMachine()
	m.applied, m.term, m.sum = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	return m, m.live.UnmarshalBinary(b[24+hotPadBytes:])
}

// history is what the group committed.
type history struct {
	rng     *rand.Rand
	entries []wal.Entry // entries[i] has index i+1
	live    []uint64
	endings int  // an entry ends up to so many jobs,
	spared  int  // but spares one in so many
	barren  bool // entries bring no jobs
	size    int  // of payloads
}

func newHistory(seed uint64) *history {
	return &history{rng: rand.New(rand.NewPCG(seed, 5)), endings: 1, spared: 3, size: 300}
}

// grow commits so many entries more in a term. Most jobs end soon, some wait.
func (h *history) grow(count int, term uint64) {
	for range count {
		var ended []uint64
		for range h.endings {
			if len(h.live) == 0 || h.rng.IntN(h.spared) == 0 {
				continue
			}
			i := h.rng.IntN(len(h.live))
			if h.rng.IntN(2) == 0 { // many are short-lived
				i = len(h.live) - 1
			}
			ended = append(ended, h.live[i])
			h.live = slices.Delete(h.live, i, i+1)
		}
		payload := make([]byte, h.rng.IntN(2*h.size))
		for i := range payload {
			payload[i] = byte(h.rng.Uint32())
		}
		h.add(term, h.rng.IntN(10) > 0 && !h.barren, ended, payload)
	}
}

// add commits an entry, which may bring a job and end others.
func (h *history) add(term uint64, live bool, ended []uint64, payload []byte) {
	index := h.last() + 1
	if live {
		h.live = append(h.live, index)
	}
	h.entries = append(h.entries, wal.Entry{Index: index, Term: term, Data: encodeJob(live, ended, payload)})
}

func (h *history) last() uint64 { return uint64(len(h.entries)) }

// at is the machine after an index.
func (h *history) at(index uint64) *machine {
	m := newMachine()
	for i := range h.entries[:index] {
		m.apply(&h.entries[i])
	}
	return m
}

// node is one replica of the shard on a disk of its own: log, snapshots and machine, without Raft.
type node struct {
	h      *history
	disk   *vfs.Sim
	log    *wal.Log
	m      *machine
	recv   *transfer.Receiver
	newest uint64 // snapshot
	wrong  bool   // the state is, and this is known
}

const (
	logDir      = "node/log"
	snapshotDir = "node/snapshots/00003"
)

func receiverConfig(disk *vfs.Sim, log *wal.Log) transfer.ReceiverConfig {
	return transfer.ReceiverConfig{
		FS: disk, Shard: testShard, Dir: transfer.Dir("node", testShard), SnapshotDir: snapshotDir, Log: log,
		SegmentBytes: 6 << 10, SyncBytes: 2 << 10, Verify: verify,
	}
}

func verify(_ snapshot.Meta, content io.Reader) (transfer.State, error) {
	m, err := restore(content)
	if err != nil {
		return transfer.State{}, err
	}
	return transfer.State{Fingerprint: m.sum, Live: m.live}, nil
}

func logOptions(disk *vfs.Sim) wal.Options {
	return wal.Options{FS: disk, Dir: logDir, FileBytes: 16 << 10, ReserveBytes: 1 << 10, CompactBelow: 70, KeepHoles: true, Peers: true}
}

// open starts a node, as a host does: log, unfinished installation, snapshot, replay, retention.
func open(disk *vfs.Sim, h *history) (*node, error) {
	n := &node{h: h, disk: disk, m: newMachine()}
	var err error
	n.log, _, err = wal.Open(logOptions(disk))
	if err != nil {
		return nil, err
	}
	if _, err = transfer.Recover(receiverConfig(disk, n.log)); err != nil {
		return nil, err
	}
	if err = n.restore(); err != nil {
		return nil, err
	}
	n.recv, err = transfer.NewReceiver(receiverConfig(disk, n.log))
	if err == nil && n.wrong {
		n.recv.Renew(n.newest)
	}
	return n, err
}

// restore makes the machine from the newest snapshot and the committed part of the log.
func (n *node) restore() error {
	n.m = newMachine()
	_ = n.disk.SyncDir(snapshotDir) // it may not exist
	loaded, damages, err := snapshot.Load(n.disk, snapshotDir)
	state := n.log.State(testShard)
	switch {
	case errors.Is(err, snapshot.ErrNone):
	case err != nil || len(damages) > 0:
		return fmt.Errorf("load snapshot: %w, %v", err, damages)
	default:
		if n.m, err = restore(loaded.Content); err != nil {
			return err
		}
		if err = loaded.Close(); err != nil {
			return err
		}
		n.newest = n.m.applied
		if state.First > n.newest+1 || state.Last < n.newest {
			return fmt.Errorf("the log has %d to %d, the snapshot is of %d", state.First, state.Last, n.newest)
		}
		mark, marked, err := snapshot.Condemned(n.disk, snapshotDir)
		if err != nil {
			return err
		}
		if n.wrong = marked && n.newest <= mark.UpTo; n.wrong {
			break
		}
		if marked {
			if err := snapshot.Acquit(n.disk, snapshotDir, mark); err != nil {
				return err
			}
		}
		n.log.Retain(testShard, wal.Retention{Snapshot: n.newest, KeepFrom: min(state.First, n.newest+1), Live: n.m.live.Clone()})
	}
	for n.m.applied < state.HardState.Commit {
		entries, err := n.log.ReadRange(testShard, n.m.applied+1, state.HardState.Commit+1, 1<<20)
		if err != nil {
			return fmt.Errorf("replay from %d: %w", n.m.applied+1, err)
		}
		for i := range entries {
			n.m.apply(&entries[i])
		}
	}
	return nil
}

// follow appends and applies what the group committed, up to an index.
func (n *node) follow(upTo uint64) error {
	state := n.log.State(testShard)
	var entries []wal.Entry
	for i := n.m.applied + 1; i <= upTo; i++ {
		entries = append(entries, n.h.entries[i-1])
	}
	if len(entries) == 0 {
		return nil
	}
	hs := wal.HardState{Term: max(state.HardState.Term, entries[len(entries)-1].Term), Commit: upTo}
	if _, err := n.log.Append(testShard, &hs, entries); err != nil {
		return err
	}
	if _, err := n.log.Flush(); err != nil {
		return err
	}
	for i := range entries {
		n.m.apply(&entries[i])
	}
	return nil
}

// diverge appends entries that will never be committed.
func (n *node) diverge(count int, term uint64) error {
	last := n.log.State(testShard).Last
	var entries []wal.Entry
	for i := range count {
		entries = append(entries, wal.Entry{
			Index: last + 1 + uint64(i), Term: term, Data: encodeJob(true, nil, []byte("never committed")),
		})
	}
	if _, err := n.log.Append(testShard, nil, entries); err != nil {
		return err
	}
	_, err := n.log.Flush()
	return err
}

// snapshot takes a snapshot and lets the log forget all that it can; keep is how many entries before it stay in the tail.
func (n *node) snapshot(keep uint64) error {
	meta := snapshot.Meta{
		Shard: uint16(testShard), Index: n.m.applied, Term: n.m.term, ConfState: []byte("voters"), Fingerprint: n.m.sum,
	}
	if _, err := snapshot.Write(n.disk, snapshotDir, meta, n.m.writeTo); err != nil {
		return err
	}
	n.newest = n.m.applied
	n.log.Retain(testShard, wal.Retention{Snapshot: n.newest, KeepFrom: n.newest + 1 - min(keep, n.newest), Live: n.m.live.Clone()})
	if _, err := n.log.Flush(); err != nil {
		return err
	}
	if err := snapshot.Prune(n.disk, snapshotDir, 0); err != nil {
		return err
	}
	return n.maintain()
}

// goWrong makes the node's state another than the group's, takes snapshots of that, which lets the log forget what is live, and
// finds out.
func (n *node) goWrong() error {
	for it := n.m.live.Clone().Iterator(); it.HasNext(); {
		if index := it.Next(); index%3 != 0 {
			n.m.live.Remove(index)
		}
	}
	n.m.sum++
	if err := n.snapshot(0); err != nil {
		return err
	}
	n.wrong = true
	if err := snapshot.Condemn(n.disk, snapshotDir, snapshot.Mark{Shard: uint16(testShard), UpTo: n.newest, Index: n.newest}); err != nil {
		return err
	}
	n.log.Distrust(testShard)
	n.recv.Renew(n.newest)
	return nil
}

func (n *node) maintain() error {
	for {
		more, err := n.log.Maintain()
		if _, damaged := errors.AsType[*wal.CorruptError](err); damaged {
			continue
		}
		if err != nil || !more {
			return err
		}
	}
}

// check compares the node with what the group committed: its state is that of a replay from the start, and all that is live
// reads back, but for lost entries.
func (n *node) check(lost ...uint64) error {
	if n.wrong {
		return nil // Nobody believes it.
	}
	want := n.h.at(n.m.applied)
	if n.m.sum != want.sum || !n.m.live.Equals(want.live) {
		return fmt.Errorf("at %d the state is %016x, not that of a replay, %016x", n.m.applied, n.m.sum, want.sum)
	}
	for it := want.live.Iterator(); it.HasNext(); {
		index := it.Next()
		e, err := n.log.Read(testShard, index)
		if slices.Contains(lost, index) {
			if _, damaged := errors.AsType[*wal.CorruptError](err); !damaged {
				return fmt.Errorf("entry %d is damaged, and is read as if not: %w", index, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("entry %d is live at %d: %w", index, n.m.applied, err)
		}
		if w := n.h.entries[index-1]; !bytes.Equal(e.Data, w.Data) || e.Term != w.Term {
			return fmt.Errorf("entry %d reads back as another", index)
		}
	}
	state := n.log.State(testShard)
	for i := max(state.First, 1); i <= min(state.Last, n.m.applied); i++ {
		if term, err := n.log.Term(testShard, i); err != nil || term != n.h.entries[i-1].Term {
			return fmt.Errorf("entry %d of the tail has term %d, %w", i, term, err)
		}
	}
	return nil
}

// reopen closes nothing: it starts the node anew from its disk, as after a crash.
func (n *node) reopen(outcome vfs.Outcome) (*node, error) {
	return open(n.disk.CrashClone(outcome), n.h)
}

// sender makes a Sender of the newest snapshot.
func (n *node) sender(term, number uint64) (*transfer.Sender, error) {
	loaded, err := snapshot.OpenAt(n.disk, snapshotDir, n.newest)
	if err != nil {
		return nil, err
	}
	index, live := n.log.Retained(testShard)
	if index != n.newest {
		return nil, fmt.Errorf("the log knows of snapshot %d, the newest is %d", index, n.newest)
	}
	return transfer.NewSender(transfer.SenderConfig{Term: term, Transfer: number, Snapshot: loaded, Live: live, Log: n.log})
}

// take hands a chunk to the node, installs what is ready, and returns the acknowledgement.
func (n *node) take(chunk []byte) ([]byte, error) {
	a, err := n.recv.Accept(chunk)
	if err != nil {
		return nil, err
	}
	if !n.recv.Ready() {
		return a.Append(nil), nil
	}
	m, position, err := n.recv.Install()
	if err != nil {
		return nil, err
	}
	if end, err := n.log.Flush(); err != nil || end < position {
		return nil, fmt.Errorf("flushed to %d, the installation ends at %d: %w", end, position, err)
	}
	if a, err = n.recv.Installed(); err != nil {
		return nil, err
	}
	if err := n.restore(); err != nil {
		return nil, err
	}
	if n.m.applied < m.Index {
		return nil, fmt.Errorf("restored %d, installed %d", n.m.applied, m.Index)
	}
	return a.Append(nil), nil
}

// pump sends chunks of about maxBytes until the transfer ends or so many chunks were sent.
func pump(s *transfer.Sender, to *node, maxBytes, chunks int) (transfer.Progress, error) {
	state := transfer.Sending
	for range chunks {
		b, err := s.Next(maxBytes)
		if err != nil {
			return state, err
		}
		if b == nil {
			return state, errors.New("the sender waits although everything was answered")
		}
		ack, err := to.take(b)
		if err != nil {
			return state, err
		}
		if state = s.Acked(ack); state != transfer.Sending {
			return state, nil
		}
	}
	return state, nil
}

const (
	noLimit    = 1 << 20
	chunkBytes = 4 << 10
)

// catchUp brings a follower up from a leader, in one go.
func catchUp(from, to *node, term, number uint64) (transfer.Stats, error) {
	s, err := from.sender(term, number)
	if err != nil {
		return transfer.Stats{}, err
	}
	state, err := pump(s, to, chunkBytes, noLimit)
	if err == nil && state != transfer.Installed && state != transfer.NotNeeded {
		err = fmt.Errorf("the transfer ended as %d: %s", state, s.Reason())
	}
	return s.Stats(), errors.Join(err, s.Close())
}

// must is for what cannot fail in a test.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t *testing.T, h *history, seed uint64) *node {
	t.Helper()
	n, err := open(vfs.NewSim(seed, vfs.SimOptions{}), h)
	must(t, err)
	return n
}

// seeds is how many random runs to try; BEAVER_SEEDS overrides the short default.
func seeds(short uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv("BEAVER_SEEDS"), 10, 64); err == nil {
		return n
	}
	if testing.Short() {
		return 1
	}
	return short
}
