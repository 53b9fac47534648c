package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// modelShard is what a shard's log should hold.
type modelShard struct {
	hard        HardState
	first, last uint64
	entries     map[uint64]Entry // also below first
}

func newModelShard() *modelShard { return &modelShard{first: 1, entries: make(map[uint64]Entry)} }

func (m *modelShard) clone() *modelShard {
	c := *m
	c.entries = maps.Clone(m.entries)
	return &c
}

// void deletes what is above last.
func (m *modelShard) void(last uint64) {
	for i := last + 1; i <= m.last; i++ {
		delete(m.entries, i)
	}
}

// modelFrame is one step of the stream.
type modelFrame struct {
	shard ShardID
	apply func(*modelShard)
}

// model is the naive log: durable states, and the steps that a crash may keep a prefix of.
type model struct {
	sim       *vfs.Sim
	log       *Log
	rng       *rand.Rand
	opts      Options
	durable   map[ShardID]*modelShard
	now       map[ShardID]*modelShard
	pending   []modelFrame
	snapshot  map[ShardID]uint64 // durable outside the log
	live      map[ShardID]*roaring64.Bitmap
	installed map[ShardID]uint64 // term of the snapshot installed last
	replaced  map[ShardID]bool   // entries were replaced since the last flush
	crashed   *vfs.Sim
	crashes   int
}

const modelShards = 3

func newModel(seed uint64) *model {
	m := &model{
		sim:       vfs.NewSim(seed, vfs.SimOptions{}),
		rng:       rand.New(rand.NewPCG(seed, 7)),
		durable:   make(map[ShardID]*modelShard),
		now:       make(map[ShardID]*modelShard),
		snapshot:  make(map[ShardID]uint64),
		live:      make(map[ShardID]*roaring64.Bitmap),
		replaced:  make(map[ShardID]bool),
		installed: make(map[ShardID]uint64),
	}
	for id := range ShardID(modelShards) {
		m.durable[id], m.now[id] = newModelShard(), newModelShard()
		m.live[id] = roaring64.New()
	}
	m.opts = Options{Dir: "node/log", FileBytes: 8 << 10, BufferBytes: 64 << 10, ReserveBytes: 1, KeepAbove: [...]int{1, 20, 60, 100}[seed%4]}
	return m
}

func (m *model) step(f modelFrame) {
	f.apply(m.now[f.shard])
	m.pending = append(m.pending, f)
}

// armed runs an operation with a power cut before its nth change of the disk, and reports whether it came to that.
func (m *model) armed(run func() error) (cut bool, err error) {
	n := -1
	if m.rng.IntN(4) == 0 {
		n = m.rng.IntN(12)
	}
	outcome := []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed(), vfs.Mixed(m.rng.Uint64())}[m.rng.IntN(4)]
	m.crashed = nil
	m.sim.SetHook(func(vfs.Op) error {
		if n == 0 {
			m.crashed = m.sim.CrashClone(outcome)
		}
		if n--; m.crashed != nil {
			return vfs.ErrPowerCut
		}
		return nil
	})
	err = run()
	m.sim.SetHook(nil)
	return m.crashed != nil, err
}

func (m *model) open() error {
	for {
		m.opts.FS = m.sim
		cut, err := m.armed(func() (err error) {
			m.log, _, err = Open(m.opts)
			return err
		})
		if cut {
			m.sim = m.crashed
			m.crashes++
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if err := m.matchPrefix(); err != nil {
		return err
	}
	for id := range ShardID(modelShards) {
		if m.snapshot[id] > 0 {
			m.log.Retain(id, Retention{Snapshot: m.snapshot[id], KeepFrom: m.now[id].first, Live: m.live[id].Clone()})
		}
		if at := m.snapshot[id]; at > m.now[id].last {
			// The crash lost the installation of a snapshot that is durable: the host does it again.
			if err := m.install(id, at, m.installed[id]); err != nil {
				return err
			}
		}
	}
	if len(m.pending) > 0 {
		return m.flush()
	}
	return m.verify()
}

// matchPrefix finds how many of the pending steps the crash kept, and makes that the durable state.
func (m *model) matchPrefix() error {
	var all []error
	for k := 0; ; k++ {
		why := m.same(m.durable)
		if why == nil {
			break
		}
		all = append(all, why)
		if k == len(m.pending) {
			return fmt.Errorf("the recovered log is no prefix of the %d frames appended:\n%w", k, errors.Join(all...))
		}
		f := m.pending[k]
		f.apply(m.durable[f.shard])
	}
	m.pending = nil
	clear(m.replaced)
	for id, s := range m.durable {
		m.now[id] = s.clone()
	}
	return nil
}

func (m *model) same(want map[ShardID]*modelShard) error {
	for id, s := range want {
		got := m.log.State(id)
		if w := (ShardState{HardState: s.hard, First: s.first, Last: s.last}); got != w {
			return fmt.Errorf("shard %d is %+v, not %+v", id, got, w)
		}
		if all, err := m.log.ReadRange(id, s.first, s.last+1, 1<<30); err != nil || uint64(len(all)) != s.last+1-s.first {
			return fmt.Errorf("range of shard %d: %d entries, %w", id, len(all), err)
		}
		for i := s.first; i <= s.last; i++ {
			if err := m.sameEntry(id, s.entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *model) sameEntry(id ShardID, want Entry) error {
	got, err := m.log.Read(id, want.Index)
	if err != nil {
		return fmt.Errorf("read %d of shard %d: %w", want.Index, id, err)
	}
	var part [16]byte
	off := len(want.Data) / 3
	n, err := m.log.ReadPart(id, want.Index, part[:], int64(off))
	if rest := want.Data[off:]; !bytes.HasPrefix(rest, part[:n]) || n < min(len(rest), len(part)) || (err != nil) != (n < len(part)) {
		return fmt.Errorf("part of %d of shard %d: %d bytes, %w", want.Index, id, n, err)
	}
	if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
		return fmt.Errorf("entry %d of shard %d differs: term %d, not %d", want.Index, id, got.Term, want.Term)
	}
	return nil
}

// verify compares everything, live entries below the tail too.
func (m *model) verify() error {
	if err := m.same(m.now); err != nil {
		return err
	}
	for id, s := range m.now {
		for it := m.live[id].Iterator(); it.HasNext(); {
			if err := m.sameEntry(id, s.entries[it.Next()]); err != nil {
				return fmt.Errorf("live: %w", err)
			}
		}
		for i := uint64(1); i < s.first; i++ {
			if _, err := m.log.Read(id, i); err != nil && !errors.Is(err, ErrCompacted) {
				return fmt.Errorf("read %d of shard %d: %w", i, id, err)
			} else if err == nil && !m.live[id].Contains(i) && m.snapshot[id] >= i {
				return fmt.Errorf("entry %d of shard %d is dead but was read", i, id)
			}
		}
		if _, err := m.log.Read(id, s.last+1); !errors.Is(err, ErrUnavailable) {
			return fmt.Errorf("read past the end of shard %d: %w", id, err)
		}
		if s.first > 1 {
			want := s.entries[s.first-1].Term
			if got, err := m.log.Term(id, s.first-1); err != nil || got != want {
				return fmt.Errorf("term before first of shard %d is %d (%w), not %d", id, got, err, want)
			}
		}
	}
	return nil
}

func (m *model) appendSome() error {
	id := ShardID(m.rng.IntN(modelShards))
	s := m.now[id]
	from := s.last + 1
	if low := max(s.first, m.snapshot[id]+1); m.rng.IntN(8) == 0 && low <= s.last {
		from = low + m.rng.Uint64N(s.last-low+1)
	}
	var entries []Entry
	for i := range m.rng.IntN(5) {
		size := m.rng.IntN(300)
		if m.rng.IntN(20) == 0 {
			size = m.rng.IntN(12 << 10) // larger than a file, now and then
		}
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(m.rng.Uint32())
		}
		entries = append(entries, Entry{Index: from + uint64(i), Term: s.hard.Term + 1, Type: uint8(i % 3), Data: data})
	}
	var hs *HardState
	if m.rng.IntN(2) == 0 {
		hs = &HardState{Term: s.hard.Term + 1, Vote: m.rng.Uint64N(5), Commit: s.last}
	}
	if _, err := m.log.Append(id, hs, entries); err != nil {
		if errors.Is(err, ErrBacklogged) {
			return nil
		}
		return err
	}
	m.replaced[id] = m.replaced[id] || len(entries) > 0 && from <= s.last
	for _, e := range entries {
		m.step(modelFrame{id, func(s *modelShard) {
			s.void(e.Index - 1)
			s.entries[e.Index], s.last = e, e.Index
		}})
	}
	if hs != nil {
		m.step(modelFrame{id, func(s *modelShard) { s.hard = *hs }})
	}
	return nil
}

func (m *model) retain() {
	id := ShardID(m.rng.IntN(modelShards))
	durable, low := m.durable[id].last, m.snapshot[id]
	if durable <= low || m.replaced[id] {
		return // a snapshot covers only what cannot change any more
	}
	old := low
	snap := low + 1 + m.rng.Uint64N(durable-low)
	for i := low + 1; i <= snap; i++ {
		m.live[id].Add(i)
	}
	m.snapshot[id] = snap
	for _, i := range m.live[id].ToArray() {
		if m.rng.IntN(3) == 0 {
			m.live[id].Remove(i) // dead for ever
		}
	}
	m.log.Retain(id, Retention{Snapshot: snap, KeepFrom: old + 1, Live: m.live[id].Clone()})
	if old+1 > m.now[id].first {
		m.step(modelFrame{id, func(s *modelShard) { s.first = old + 1 }})
	}
}

// install makes a snapshot of a peer the base of a shard.
func (m *model) install(id ShardID, index, term uint64) error {
	now := m.now[id]
	committed := max(now.hard.Commit, m.snapshot[id])
	err := m.log.InstallSnapshot(id, index, term)
	if has := index <= now.last && index+1 >= now.first; has && now.entries[index].Term == term {
		m.snapshot[id], m.installed[id] = index, term
		m.step(modelFrame{id, func(s *modelShard) { s.first = index + 1 }})
		return err
	} else if has && index <= committed {
		if !errors.Is(err, ErrConflict) {
			return fmt.Errorf("a snapshot of shard %d at %d contradicts what is committed: %w", id, index, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	m.snapshot[id], m.installed[id] = index, term
	m.replaced[id] = true
	keep := min(now.last, max(committed, now.first-1))
	m.step(modelFrame{id, func(s *modelShard) { s.void(keep); s.last = keep }})
	m.step(modelFrame{id, func(s *modelShard) {
		s.void(index)
		s.entries[index] = Entry{Index: index, Term: term}
		s.first, s.last = index+1, index
	}})
	return nil
}

func (m *model) installSome() error {
	id := ShardID(m.rng.IntN(modelShards))
	index := m.snapshot[id] + 1 + m.rng.Uint64N(30)
	term := m.now[id].hard.Term + 1
	if e, ok := m.now[id].entries[index]; ok && index <= m.durable[id].last && !m.replaced[id] && m.rng.IntN(2) == 0 {
		term = e.Term // a snapshot that comes late: the entry is here already
	}
	if err := m.install(id, index, term); err != nil || m.snapshot[id] != index {
		return err
	}
	m.log.Retain(id, Retention{Snapshot: index, KeepFrom: index + 1, Live: m.live[id].Clone()})
	return nil
}

func (m *model) flush() error {
	cut, err := m.armed(func() error { _, err := m.log.Flush(); return err })
	if cut {
		return m.recover()
	}
	if err != nil {
		return err
	}
	m.pending = nil
	clear(m.replaced)
	for id, s := range m.now {
		m.durable[id] = s.clone()
	}
	return nil
}

func (m *model) maintain() error {
	cut, err := m.armed(func() error {
		for range 20 { // also when there is nothing to do: segments that were left alone are merged in the end
			if _, err := m.log.Maintain(); err != nil {
				return err
			}
		}
		return nil
	})
	if cut {
		return m.recover()
	}
	return err
}

// recover goes on with the disk as the power cut left it.
func (m *model) recover() error {
	_ = m.log.Close() // its disk is gone
	m.sim = m.crashed
	m.crashes++
	return m.open()
}

// restart closes the log, and now and then kills the process instead.
func (m *model) restart() error {
	if m.rng.IntN(2) == 0 {
		if err := m.log.Close(); err != nil {
			return err
		}
	} else if m.rng.IntN(2) == 0 {
		m.sim = m.sim.CrashClone(vfs.Killed())
	}
	return m.open()
}

func runModel(seed uint64, steps int) (m *model, err error) {
	m = newModel(seed)
	if err := m.open(); err != nil {
		return m, err
	}
	for range steps {
		switch m.rng.IntN(10) {
		case 0, 1, 2, 3:
			err = m.appendSome()
		case 4, 5:
			err = m.flush()
		case 6:
			if m.retain(); m.rng.IntN(16) == 0 {
				err = m.installSome()
			}
		case 7, 8:
			err = m.maintain()
		case 9:
			if err = m.verify(); err == nil && m.rng.IntN(4) == 0 {
				err = m.restart()
			}
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		steps := rapid.IntRange(10, 400).Draw(t, "steps")
		m, err := runModel(seed, steps)
		if err != nil {
			names, _ := m.sim.List("node/log/tail")
			t.Fatalf("seed %d after %d crashes: %v\ntail: %v", seed, m.crashes, err, slices.Sorted(slices.Values(names)))
		}
	})
}
