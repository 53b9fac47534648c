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
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	crashDir       = "node/log"
	crashFileBytes = 8 << 10
)

// crashOptions are those of a log in which some files are copied when they retire, and some are kept.
func crashOptions(fsys vfs.FS) wal.Options {
	return wal.Options{FS: fsys, Dir: crashDir, FileBytes: crashFileBytes, ReserveBytes: 1 << 10, CompactBelow: 80, KeepAbove: 20}
}

// seeds is how many random workloads or outcomes to try; BEAVER_SEEDS overrides the short default.
func seeds(short uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv("BEAVER_SEEDS"), 10, 64); err == nil {
		return n
	}
	if testing.Short() {
		return 1
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
		case n < 8:
			err = s.append(shard)
		case n < 12:
			err = s.flush()
		case n < 16:
			err = s.retain(shard)
		case n < 17:
			err = s.install(shard)
		default:
			err = s.maintain(1 + s.rng.IntN(20))
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
	term := m.hard.Term + 1
	if e := m.entries[m.last]; e != nil {
		term = max(term, e.Term)
		if next <= m.last {
			term++ // one index and one term name one entry
		}
	}
	entries := make([]wal.Entry, s.rng.IntN(4))
	for i := range entries {
		data := make([]byte, s.rng.IntN([...]int{40, 400, 3000}[s.rng.IntN(3)]))
		for j := range data {
			data[j] = byte(int(next)+i+j*(j>>3)) ^ s.salt
		}
		entries[i] = wal.Entry{Index: next + uint64(i), Term: term, Type: uint8(s.rng.IntN(3)), Data: data}
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
		stays := 60 // percent; many jobs are short-lived, the others wait long
		if index <= before.Snapshot {
			stays = 85
			if s.h.live[shard][index] == nil {
				stays = 0 // dead is forever
			}
		}
		if index <= snapshot && s.rng.IntN(100) < stays {
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
	if s.rng.IntN(8) > 0 || m.last == 0 {
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

// maintain goes on when there is nothing to do: segments that were left alone are merged in the end.
func (s *script) maintain(steps int) error {
	for idle := 0; steps > 0 && idle <= idleCalls; steps-- {
		more, err := s.log.Maintain()
		if errors.Is(err, wal.ErrDiskFull) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("maintain: %w", err)
		}
		if !more {
			idle++
		}
	}
	return nil
}

// idleCalls is more than the calls that find nothing to do before a segment counts as settled.
const idleCalls = 10

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
