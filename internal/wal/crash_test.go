package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// The tests in this file know the log from outside only. They drive a scripted workload of two shards over the
// simulated disk (appends, conflicts, hard states, flushes, retentions, rotations, compactions, reopening) beside a naive
// model: the stream of everything appended. After any crash the log must equal the model after some beginning of
// that stream which contains all that was flushed; live entries must be there bit for bit; and the log must go on.

const (
	crashDir       = "node/log"
	crashFileBytes = 8 << 10
)

func crashOptions(fsys vfs.FS) wal.Options {
	return wal.Options{FS: fsys, Dir: crashDir, FileBytes: crashFileBytes, ReserveBytes: 1 << 10}
}

// seeds is how many random workloads or outcomes to try; BEAVER_SEEDS overrides the short default.
func seeds(short uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv("BEAVER_SEEDS"), 10, 64); err == nil {
		return n
	}
	return short
}

// step is one change of one shard in the stream of appends.
type step struct {
	shard   wal.ShardID
	entry   *wal.Entry
	hard    *wal.HardState
	first   uint64  // of a retention
	cut     *uint64 // the new last index, before a snapshot that the tail does not agree with
	install uint64  // index of an installed snapshot
}

// shardModel is a shard as it should be.
type shardModel struct {
	hard        wal.HardState
	first, last uint64
	entries     map[uint64]*wal.Entry // those below first too, until superseded
}

func (m *shardModel) clone() *shardModel {
	c := *m
	c.entries = maps.Clone(m.entries)
	return &c
}

func (m *shardModel) apply(s *step) {
	switch {
	case s.entry != nil:
		for i := s.entry.Index; i <= m.last; i++ {
			delete(m.entries, i)
		}
		m.entries[s.entry.Index], m.last = s.entry, s.entry.Index
	case s.hard != nil:
		m.hard = *s.hard
	case s.cut != nil:
		for i := *s.cut + 1; i <= m.last; i++ {
			delete(m.entries, i)
		}
		m.last = *s.cut
	case s.install > 0:
		m.first, m.last = s.install+1, s.install
	default:
		m.first = max(m.first, s.first)
	}
}

// history is all that was done to a log.
type history struct {
	durable map[wal.ShardID]*shardModel // after the last flush that returned
	stream  []step                      // appended since
	proven  map[wal.ShardID]*shardModel // before the last flush that returned,
	flushed []step                      // and what that one brought: nothing later proves that it was durable

	// per shard: the newest retention, whose snapshot is durable elsewhere, and what of it must be readable
	retained map[wal.ShardID]wal.Retention
	live     map[wal.ShardID]map[uint64]*wal.Entry
}

func newHistory() *history {
	return &history{
		durable:  make(map[wal.ShardID]*shardModel),
		proven:   make(map[wal.ShardID]*shardModel),
		retained: make(map[wal.ShardID]wal.Retention), live: make(map[wal.ShardID]map[uint64]*wal.Entry),
	}
}

func model(models map[wal.ShardID]*shardModel, shard wal.ShardID) *shardModel {
	if models[shard] == nil {
		models[shard] = &shardModel{first: 1, entries: make(map[uint64]*wal.Entry)}
	}
	return models[shard]
}

func cloneModels(models map[wal.ShardID]*shardModel) map[wal.ShardID]*shardModel {
	out := make(map[wal.ShardID]*shardModel, len(models))
	for id, m := range models {
		out[id] = m.clone()
	}
	return out
}

func (h *history) clone() *history {
	return &history{
		durable: cloneModels(h.durable), stream: slices.Clone(h.stream),
		proven: cloneModels(h.proven), flushed: slices.Clone(h.flushed),
		retained: maps.Clone(h.retained), live: maps.Clone(h.live),
	}
}

// seen is the state with everything appended.
func (h *history) seen() map[wal.ShardID]*shardModel {
	models := cloneModels(h.durable)
	for i := range h.stream {
		model(models, h.stream[i].shard).apply(&h.stream[i])
	}
	return models
}

func (h *history) didFlush() {
	if len(h.stream) > 0 {
		h.proven, h.durable, h.flushed, h.stream = h.durable, h.seen(), h.stream, nil
	}
}

// withoutProof is the history of a log whose last flush may be taken for a torn write.
func (h *history) withoutProof() *history {
	c := h.clone()
	c.durable, c.stream = c.proven, c.flushed
	return c
}

// script is one run of the workload.
type script struct {
	rng  *rand.Rand
	log  *wal.Log
	h    *history
	salt byte // tells entries of different lives apart
}

var crashShards = []wal.ShardID{0, 7}

// run does so many random steps and stops at the first error. ErrDiskFull of Maintain is not one.
func (s *script) run(steps int) error {
	for range steps {
		shard := crashShards[s.rng.IntN(len(crashShards))]
		var err error
		switch n := s.rng.IntN(20); {
		case n < 9:
			err = s.append(shard)
		case n < 14:
			err = s.flush()
		case n < 16:
			err = s.retain(shard)
		case n < 17:
			err = s.install(shard)
		default:
			err = s.maintain(1 + s.rng.IntN(8))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *script) append(shard wal.ShardID) error {
	m := model(s.h.seen(), shard)
	next := m.last + 1
	if low := max(m.first, s.h.retained[shard].Snapshot+1, m.hard.Commit+1); s.rng.IntN(6) == 0 && low <= m.last {
		next = low + s.rng.Uint64N(m.last-low+1) // a new leader's entries replace the old one's
	}
	entries := make([]wal.Entry, s.rng.IntN(4))
	for i := range entries {
		data := make([]byte, s.rng.IntN([...]int{40, 400, 3000}[s.rng.IntN(3)]))
		for j := range data {
			data[j] = byte(int(next)+i+j*(j>>3)) ^ s.salt
		}
		entries[i] = wal.Entry{Index: next + uint64(i), Term: m.hard.Term + 1, Type: uint8(s.rng.IntN(3)), Data: data}
	}
	var hard *wal.HardState
	if len(entries) == 0 || s.rng.IntN(3) == 0 {
		hard = &wal.HardState{Term: m.hard.Term + 1, Vote: s.rng.Uint64N(4), Commit: m.hard.Commit}
		if d := model(s.h.durable, shard); d.last > hard.Commit && s.rng.IntN(2) == 0 && next > d.last {
			hard.Commit = d.last
		}
	}
	if _, err := s.log.Append(shard, hard, entries); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	for i := range entries {
		entries[i].Data = bytes.Clone(entries[i].Data)
		s.h.stream = append(s.h.stream, step{shard: shard, entry: &entries[i]})
	}
	if hard != nil {
		s.h.stream = append(s.h.stream, step{shard: shard, hard: hard})
	}
	return nil
}

func (s *script) flush() error {
	if _, err := s.log.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	s.h.didFlush()
	return nil
}

// retain makes a snapshot at the durable end of the shard, with some more jobs dead.
func (s *script) retain(shard wal.ShardID) error {
	d, seen := model(s.h.durable, shard), model(s.h.seen(), shard)
	before := s.h.retained[shard]
	snapshot := min(d.last, seen.last)
	for snapshot > before.Snapshot && d.entries[snapshot] != seen.entries[snapshot] {
		snapshot-- // it was replaced, and that is not flushed yet
	}
	if snapshot <= before.Snapshot {
		return nil
	}
	live := roaring64.New()
	must := make(map[uint64]*wal.Entry)
	for _, index := range slices.Sorted(maps.Keys(seen.entries)) {
		e := seen.entries[index]
		dead := index <= before.Snapshot && s.h.live[shard][index] == nil
		if index <= snapshot && !dead && (index*0x9e3779b97f4a7c15>>40+uint64(s.rng.IntN(64)))%64 < 24 {
			must[index] = e
			live.Add(index)
		}
	}
	r := wal.Retention{Snapshot: snapshot, KeepFrom: before.Snapshot + 1, Live: live}
	s.h.retained[shard], s.h.live[shard] = r, must
	s.tell(shard)
	return nil
}

// tell gives the log the newest retention, as a host does after a snapshot and after Open.
func (s *script) tell(shard wal.ShardID) {
	r, ok := s.h.retained[shard]
	if !ok {
		return
	}
	m := model(s.h.seen(), shard)
	if keep := min(r.KeepFrom, m.last+1); keep > m.first {
		s.h.stream = append(s.h.stream, step{shard: shard, first: keep})
	}
	r.Live = r.Live.Clone()
	s.log.Retain(shard, r)
}

// install makes the shard start again behind a snapshot from a peer. The tail does not hold the entry that it ends with, so
// only what is known committed stays.
func (s *script) install(shard wal.ShardID) error {
	m := model(s.h.seen(), shard)
	if s.rng.IntN(3) > 0 || m.last == 0 {
		return nil
	}
	index := m.last + 1 + s.rng.Uint64N(4)
	if err := s.log.InstallSnapshot(shard, index, index); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	committed := min(m.last, max(m.hard.Commit, s.h.retained[shard].Snapshot, m.first-1))
	s.h.stream = append(s.h.stream, step{shard: shard, cut: &committed}, step{shard: shard, install: index})
	return s.flush()
}

func (s *script) maintain(steps int) error {
	for range steps {
		more, err := s.log.Maintain()
		if errors.Is(err, wal.ErrDiskFull) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("maintain: %w", err)
		}
		if !more {
			break
		}
	}
	return nil
}

// reopen opens a log as a crash left it, checks it against the history, and returns the history that it shows.
func reopen(fsys vfs.FS, h *history) (*wal.Log, *history, error) {
	log, _, err := wal.Open(crashOptions(fsys))
	if err != nil {
		return nil, nil, err
	}
	after, err := match(log, h)
	if err != nil {
		_ = log.Close()
		return nil, nil, err
	}
	s := &script{log: log, h: after}
	for _, shard := range crashShards {
		s.tell(shard)
	}
	return log, after, checkReads(log, after)
}

// match finds the beginning of the stream that the log shows, not shorter than what is durable.
func match(log *wal.Log, h *history) (*history, error) {
	models := cloneModels(h.durable)
	var why error
	for i := 0; ; i++ {
		if err := equal(log, models); err == nil {
			after := h.clone()
			after.durable, after.stream = models, nil
			return after, nil
		} else if why == nil {
			why = fmt.Errorf("as flushed: %w", err)
		}
		if i == len(h.stream) {
			return nil, fmt.Errorf("the log shows no beginning of what was appended (%d steps since the flush); %w", i, why)
		}
		model(models, h.stream[i].shard).apply(&h.stream[i])
	}
}

// equal compares the tails of all shards with models.
func equal(log *wal.Log, models map[wal.ShardID]*shardModel) error {
	for _, shard := range crashShards {
		m := model(models, shard)
		want := wal.ShardState{HardState: m.hard, First: m.first, Last: m.last}
		if got := log.State(shard); got != want {
			return fmt.Errorf("shard %d is %+v, want %+v", shard, got, want)
		}
		for index := m.first; index <= m.last; {
			entries, err := log.ReadRange(shard, index, m.last+1, 10_000)
			if err != nil {
				return fmt.Errorf("shard %d from %d: %w", shard, index, err)
			}
			for i := range entries {
				if err := sameEntry(entries[i], m.entries[index]); err != nil {
					return fmt.Errorf("shard %d: %w", shard, err)
				}
				index++
			}
		}
	}
	return nil
}

func sameEntry(got wal.Entry, want *wal.Entry) error {
	if want == nil {
		return fmt.Errorf("entry %d was invented", got.Index)
	}
	if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
		return fmt.Errorf("entry %d (term %d, %d bytes) is not as appended: %d (term %d, %d bytes)",
			got.Index, got.Term, len(got.Data), want.Index, want.Term, len(want.Data))
	}
	return nil
}

// checkReads reads every index one by one: what must be there is, and nothing else is served as data.
func checkReads(log *wal.Log, h *history) error {
	seen := h.seen()
	for _, shard := range crashShards {
		m := model(seen, shard)
		for index := uint64(1); index <= m.last; index++ {
			e, err := log.Read(shard, index)
			want := h.live[shard][index]
			if want == nil && index >= m.first {
				want = m.entries[index]
			}
			switch {
			case want != nil && err != nil:
				return fmt.Errorf("shard %d, entry %d is needed: %w", shard, index, err)
			case want != nil:
				if err := sameEntry(e, want); err != nil {
					return fmt.Errorf("shard %d: %w", shard, err)
				}
			case err == nil:
				if err := sameEntry(e, m.entries[index]); err != nil {
					return fmt.Errorf("shard %d, below first %d: %w", shard, m.first, err)
				}
			case !errors.Is(err, wal.ErrCompacted):
				return fmt.Errorf("shard %d, entry %d is not needed: %w", shard, index, err)
			}
			if index < m.first {
				continue
			}
			if term, err := log.Term(shard, index); err != nil || term != m.entries[index].Term {
				return fmt.Errorf("shard %d, entry %d has term %d, %w", shard, index, term, err)
			}
		}
		for _, index := range []uint64{m.last + 1, ^uint64(0)} {
			if _, err := log.Read(shard, index); !errors.Is(err, wal.ErrUnavailable) {
				return fmt.Errorf("shard %d, entry %d past the end: %w", shard, index, err)
			}
		}
	}
	return nil
}

func outcomes(mixed uint64) []vfs.Outcome {
	all := []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed()}
	for seed := range mixed {
		all = append(all, vfs.Mixed(seed*7+1))
	}
	return all
}

// survive reopens a crashed disk, lets the log go on, crashes it a second time, and reopens it again.
func survive(sim *vfs.Sim, h *history, seed uint64) error {
	log, after, err := reopen(sim, h)
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	// What was just recovered counts: a follower acknowledges entries that it has already.
	if _, _, err := reopen(sim.CrashClone(vfs.AllLost()), after); err != nil {
		return fmt.Errorf("recovered is not durable: %w", err)
	}
	s := &script{rng: rand.New(rand.NewPCG(seed, 2)), log: log, h: after, salt: byte(seed + 1)}
	if err := s.run(8); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := s.maintain(40); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := checkReads(log, s.h); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	again, _, err := reopen(sim.Crash(seed), s.h)
	if err != nil {
		return fmt.Errorf("second crash: %w", err)
	}
	return errors.Join(again.Close(), log.Close())
}

func start(t *testing.T, sim *vfs.Sim, seed uint64) *script {
	t.Helper()
	log, _, err := wal.Open(crashOptions(sim))
	if err != nil {
		t.Fatal(err)
	}
	return &script{rng: rand.New(rand.NewPCG(seed, 1)), log: log, h: newHistory()}
}

// TestCrashAtEveryCall crashes before every call that changes the disk, in several outcomes each.
func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	for seed := range seeds(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			sim := vfs.NewSim(seed, vfs.SimOptions{})
			var s *script
			crashes := uint64(0)
			sim.SetHook(func(op vfs.Op) error {
				h := newHistory()
				if s != nil {
					h = s.h
				}
				for i, o := range outcomes(2) {
					crashes++
					if i > 0 && (crashes+seed)%3 != 0 {
						continue // all lost at every call, each of the others at every third
					}
					if err := survive(sim.CrashClone(o), h, crashes); err != nil {
						t.Errorf("seed %d, before call %v, %v: %v", seed, op, o, err)
						return vfs.ErrPowerCut
					}
				}
				return nil
			})
			s = start(t, sim, seed)
			for range 3 {
				if err := s.run(35); err != nil {
					t.Fatal(err)
				}
				if err := checkReads(s.log, s.h); err != nil {
					t.Fatal(err)
				}
				if err := s.log.Close(); err != nil {
					t.Fatal(err)
				}
				// Closing loses what was not flushed, as a crash does.
				log, h, err := reopen(sim, s.h)
				if err != nil {
					t.Fatal(err)
				}
				s.log, s.h = log, h
			}
			if crashes < 500 {
				t.Errorf("only %d crashes: the workload does too little", crashes)
			}
		})
	}
}

// TestCrashDuringOpen crashes Open itself at every call, after a crash that left it work to do.
func TestCrashDuringOpen(t *testing.T) {
	t.Parallel()
	for seed := range seeds(6) {
		sim := vfs.NewSim(seed, vfs.SimOptions{})
		s := start(t, sim, seed)
		if err := s.run(60); err != nil {
			t.Fatal(err)
		}
		for _, o := range outcomes(4) {
			crashed := sim.CrashClone(o)
			crashed.SetHook(func(op vfs.Op) error {
				for _, again := range outcomes(2) {
					if err := survive(crashed.CrashClone(again), s.h, op.Number); err != nil {
						t.Errorf("seed %d, %v, in Open before %v, %v: %v", seed, o, op, again, err)
						return vfs.ErrPowerCut
					}
				}
				return nil
			})
			log, _, err := reopen(crashed, s.h)
			if err != nil {
				t.Fatalf("seed %d, %v: %v", seed, o, err)
			}
			_ = log.Close()
		}
	}
}

// TestEveryCallFailing makes each call fail in turn. The error comes out, and nothing flushed is lost.
func TestEveryCallFailing(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		for seed := range seeds(2) {
			t.Run(fmt.Sprint(fault, " seed", seed), func(t *testing.T) {
				t.Parallel()
				for n := uint64(1); ; n++ {
					sim := vfs.NewSim(seed, vfs.SimOptions{})
					sim.FailAt(n, fault)
					var failed vfs.Op
					sim.SetHook(func(op vfs.Op) error {
						if op.Number == n {
							failed = op
						}
						return nil
					})
					h, err := workUntilError(sim, seed)
					sim.SetHook(nil)
					if failed.Number == 0 {
						if err != nil {
							t.Fatalf("without a fault: %v", err)
						}
						return
					}
					// A full disk may be waited out, and a leftover that is not removed is removed later.
					if err == nil && errors.Is(fault, syscall.EIO) && failed.Kind != vfs.OpRemove {
						t.Errorf("seed %d: %v failed and nobody heard of it", seed, failed)
					}
					if err != nil && !errors.Is(err, fault) {
						t.Errorf("seed %d: %v failed with %v", seed, failed, err)
					}
					for _, o := range outcomes(2) {
						if err := survive(sim.CrashClone(o), h, n); err != nil {
							t.Fatalf("seed %d: %v failed with %v, then %v: %v", seed, failed, fault, o, err)
						}
					}
				}
			})
		}
	}
}

// workUntilError opens a log and works until an error, after which it checks that the log takes no more.
func workUntilError(sim *vfs.Sim, seed uint64) (*history, error) {
	log, _, err := wal.Open(crashOptions(sim))
	if err != nil {
		return newHistory(), err
	}
	s := &script{rng: rand.New(rand.NewPCG(seed, 1)), log: log, h: newHistory()}
	if err := s.run(90); err != nil {
		if _, again := log.Append(0, &wal.HardState{}, nil); !errors.Is(again, wal.ErrClosed) {
			return s.h, fmt.Errorf("the log failed with %w, then took an append: %w", err, again)
		}
		if _, again := log.Flush(); again == nil {
			return s.h, fmt.Errorf("the log failed with %w, then flushed", err)
		}
		_ = log.Close()
		return s.h, err
	}
	return s.h, log.Close()
}

// TestDiskFills lets the disk fill up under the log: appends to prepared files go on, Maintain tells, nothing flushed is
// lost, and with room again everything goes on.
func TestDiskFills(t *testing.T) {
	t.Parallel()
	for seed := range seeds(8) {
		sim := vfs.NewSim(seed, vfs.SimOptions{CapacityBytes: int64(40+8*(seed%8)) << 10})
		s := start(t, sim, seed)
		err := s.run(300)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, o := range outcomes(3) {
			crashed := sim.CrashClone(o)
			crashed.SetCapacity(0)
			if err := survive(crashed, s.h, seed); err != nil {
				t.Fatalf("seed %d, %v: %v", seed, o, err)
			}
		}
	}
}

// TestFlippedBits flips bits all over all files of a closed log, and of a crashed one. Whatever was hit, the damage is
// reported with a file that exists, or the log serves exactly what was appended. Only the last flush of a crashed log may be
// cut instead: nothing behind it proves that it was durable.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	total := struct {
		sync.Mutex
		detected map[string]int
	}{detected: make(map[string]int)}
	t.Cleanup(func() {
		for _, what := range []string{"open", "read", "cut", "harmless"} {
			if total.detected[what] == 0 {
				t.Errorf("the flips did not hit all kinds of places: %v", total.detected)
			}
		}
	})
	for seed := range seeds(3) {
		for _, closed := range []bool{true, false} {
			t.Run(fmt.Sprintf("seed%d closed %v", seed, closed), func(t *testing.T) {
				t.Parallel()
				sim := vfs.NewSim(seed, vfs.SimOptions{})
				s := start(t, sim, seed)
				if err := s.run(150); err != nil {
					t.Fatal(err)
				}
				if err := s.flush(); err != nil {
					t.Fatal(err)
				}
				if closed {
					if err := s.log.Close(); err != nil {
						t.Fatal(err)
					}
				}
				base := sim.CrashClone(vfs.AllLost())
				detected := make(map[string]int)
				for name, size := range filesBelow(t, base, crashDir) {
					for offset := int64(seed % 5); offset < size; offset += stride(offset) {
						harmed := base.CrashClone(vfs.AllLost())
						if err := harmed.FlipBit(name, offset, uint(offset+int64(seed))%8); err != nil {
							t.Fatal(err)
						}
						what, err := serveDamaged(harmed, s.h, !closed)
						if err != nil {
							t.Fatalf("bit of %s at %d: %v", name, offset, err)
						}
						detected[what]++
					}
				}
				t.Log(detected)
				total.Lock()
				defer total.Unlock()
				for what, n := range detected {
					total.detected[what] += n
				}
			})
		}
	}
}

// stride is dense in what looks like headers and sparse in payloads.
func stride(offset int64) int64 {
	if offset < 300 {
		return 3
	}
	return 37
}

// serveDamaged opens a harmed log and tells where the damage was noticed.
func serveDamaged(sim *vfs.Sim, h *history, crashed bool) (where string, err error) {
	log, _, err := wal.Open(crashOptions(sim))
	if err != nil {
		return "open", wantDamage("open", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	after, err := match(log, h)
	if where = "harmless"; err != nil && crashed {
		after, err = match(log, h.withoutProof())
		where = "cut"
	}
	if err != nil {
		return "", err
	}
	s := &script{log: log, h: after}
	for _, shard := range crashShards {
		s.tell(shard)
	}
	if err := readDamaged(log, after, &where); err != nil {
		return "", err
	}
	if err := s.maintain(60); err != nil {
		if err := wantDamage("maintain", err); err != nil {
			return "", err
		}
		where = "read"
	}
	return where, readDamaged(log, after, &where)
}

func wantDamage(what string, err error) error {
	if damage, ok := errors.AsType[*wal.CorruptError](err); ok && damage.File != "" && damage.Reason != "" {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readDamaged reads all that is needed: right, or damage that is told.
func readDamaged(log *wal.Log, h *history, where *string) error {
	seen := h.seen()
	for _, shard := range crashShards {
		m := model(seen, shard)
		for index := uint64(1); index <= m.last; index++ {
			want := h.live[shard][index]
			if want == nil && index >= m.first {
				want = m.entries[index]
			}
			e, err := log.Read(shard, index)
			switch {
			case err == nil && want == nil:
				want = m.entries[index]
				fallthrough
			case err == nil:
				if err := sameEntry(e, want); err != nil {
					return fmt.Errorf("shard %d: %w", shard, err)
				}
			case want != nil:
				*where = "read"
				if err := wantDamage("read", err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// filesBelow lists the files of a directory tree with their sizes.
func filesBelow(t *testing.T, fsys vfs.FS, dir string) map[string]int64 {
	t.Helper()
	files := make(map[string]int64)
	names, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(dir, "/") + "/" + name
		info, err := fsys.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Dir {
			maps.Copy(files, filesBelow(t, fsys, name))
		} else {
			files[name] = info.Size
		}
	}
	return files
}
