package wal_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// harm is one damage of one tail file.
type harm struct {
	name   string
	offset int64
	bit    uint
	sector bool     // it cannot be read
	gone   []string // instead: these files are missing
}

const sectorBytes = 512

func (d harm) String() string {
	if len(d.gone) > 0 {
		return fmt.Sprintf("without %v", d.gone)
	}
	if d.sector {
		return fmt.Sprintf("sector %d of %s", d.offset/sectorBytes, d.name)
	}
	return fmt.Sprintf("bit %d of byte %d of %s", d.bit, d.offset, d.name)
}

// on is the disk with the damage.
func (d harm) on(base *vfs.Sim) (*vfs.Sim, error) {
	sim := base.CrashClone(vfs.AllLost())
	if len(d.gone) > 0 {
		var err error
		for _, name := range d.gone {
			err = errors.Join(err, sim.Remove(name))
		}
		return sim, errors.Join(err, sim.SyncDir(crashDir+"/tail"))
	}
	if !d.sector {
		return sim, sim.FlipBit(d.name, d.offset, d.bit)
	}
	sim.SetReadHook(d.refuse)
	return sim, nil
}

func (d harm) refuse(op vfs.Op) error {
	if op.Kind == vfs.OpRead && op.Name == d.name && op.Offset < d.offset+sectorBytes && d.offset < op.Offset+op.Length {
		return syscall.EIO
	}
	return nil
}

// gapped reports whether not even the name is known of some entry.
func gapped(log *wal.Log) bool {
	for _, shard := range crashShards {
		if log.Gap(shard, 0) > 0 {
			return true
		}
	}
	return false
}

// TestDamagedFrames damages bits everywhere in the tail, and makes sectors unreadable, with replicas elsewhere. Each shard then opens
// with the very hard state and bounds that it had, and the very entries but for holes; or it is lost, and stays lost until it is
// forgotten. Only the last flush of a crashed log may be cut instead. A snapshot closes the gaps.
func TestDamagedFrames(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	total := make(map[string]int)
	t.Cleanup(func() {
		t.Log(total)
		for _, what := range []string{"whole", "hole", "gap", "lost", "cut"} {
			if total[what] == 0 {
				t.Errorf("the damage did not bring about all that it may: %v", total)
			}
		}
	})
	for seed := range seeds(2) {
		for _, closed := range []bool{true, false} {
			t.Run(fmt.Sprintf("seed%d closed %v", seed, closed), func(t *testing.T) {
				t.Parallel()
				sim := vfs.NewSim(seed, vfs.SimOptions{})
				s := start(t, sim, seed)
				if err := errors.Join(s.run(120+20*int(seed%3)), s.flush()); err != nil {
					t.Fatal(err)
				}
				if closed {
					if err := s.log.Close(); err != nil {
						t.Fatal(err)
					}
				}
				base := sim.CrashClone(vfs.AllLost())
				counts := make(map[string]int)
				for name, size := range filesBelow(t, base, crashDir+"/tail") {
					if !strings.HasSuffix(name, ".wal") {
						continue
					}
					for offset := int64(seed % 7); offset < size; offset += 19 {
						d := harm{name: name, offset: offset, bit: uint(offset+int64(seed)) % 8}
						if offset/sectorBytes != (offset+19)/sectorBytes {
							d = harm{name: name, offset: offset / sectorBytes * sectorBytes, sector: true}
						}
						if err := openDamaged(base, d, s.h, closed, counts); err != nil {
							t.Fatalf("%v: %v", d, err)
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for what, n := range counts {
					total[what] += n
				}
			})
		}
	}
}

// TestMissingFiles removes the files of the tail: each one, and each run of several. With replicas elsewhere, each shard then has the hard
// state and bounds that it had, with gaps at most; or it is lost. A log without peers is refused, and not changed, unless what is missing
// cannot be told from what was retired.
func TestMissingFiles(t *testing.T) {
	t.Parallel()
	total := make(map[string]int)
	for seed := range seeds(6) {
		for _, closed := range []bool{true, false} {
			sim := vfs.NewSim(seed, vfs.SimOptions{})
			s := start(t, sim, seed)
			if err := errors.Join(s.run(160+20*int(seed%3)), s.flush()); err != nil {
				t.Fatal(err)
			}
			if closed {
				if err := s.log.Close(); err != nil {
					t.Fatal(err)
				}
			}
			base := sim.CrashClone(vfs.AllLost())
			names := tailFiles(t, base)
			for first := range names {
				for last := first; last < len(names) && last-first < len(names)-1; last++ {
					d := harm{gone: names[first : last+1]}
					counts := make(map[string]int)
					if err := openDamaged(base, d, s.h, closed, counts); err != nil {
						t.Fatalf("seed %d, closed %v, %v of %v: %v", seed, closed, d, names, err)
					}
					for what, n := range counts {
						total[what] += n
					}
					if last == len(names)-1 && counts["lost"] == 0 {
						t.Errorf("seed %d, %v of %v: what the last file held is not lost: %v", seed, d, names, counts)
					}
					refusedAlone(t, base, d, first == 0)
				}
			}
		}
	}
	t.Log(total)
	for _, what := range []string{"whole", "gap", "lost"} {
		if total[what] == 0 {
			t.Errorf("missing files did not bring about all that they may: %v", total)
		}
	}
}

// tailFiles lists the files of a log's tail, the oldest first.
func tailFiles(t *testing.T, sim *vfs.Sim) (names []string) {
	t.Helper()
	for name := range filesBelow(t, sim, crashDir+"/tail") {
		if strings.HasSuffix(name, ".wal") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// refusedAlone opens a log of which files are missing as one that has no peers.
func refusedAlone(t *testing.T, base *vfs.Sim, d harm, oldest bool) {
	t.Helper()
	sim, err := d.on(base)
	if err != nil {
		t.Fatal(err)
	}
	before := filesBelow(t, sim, crashDir)
	o := crashOptions(sim)
	o.KeepHoles = true
	log, _, err := wal.Open(o)
	if err == nil && oldest {
		err = log.Close()
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if damage, ok := errors.AsType[*wal.CorruptError](err); !ok || damage.File == "" || !strings.Contains(damage.Reason, "missing") {
		t.Errorf("%v, without peers: %v", d, err)
	}
	if after := filesBelow(t, sim, crashDir); !maps.Equal(before, after) {
		t.Errorf("%v, without peers: there were %v, and are %v", d, before, after)
	}
}

// TestNoTailFileIsLeft removes them all: every shard is lost, also one of which there are segments only, and stays so until it is forgotten.
func TestNoTailFileIsLeft(t *testing.T) {
	t.Parallel()
	for seed := range seeds(3) {
		sim := vfs.NewSim(seed, vfs.SimOptions{})
		s := start(t, sim, seed)
		if err := errors.Join(s.run(160), s.log.Close()); err != nil {
			t.Fatal(err)
		}
		d := harm{gone: tailFiles(t, sim)}
		sim, err := d.on(sim.CrashClone(vfs.AllLost()))
		if err != nil {
			t.Fatal(err)
		}
		open := func() *wal.Log {
			t.Helper()
			o := crashOptions(sim)
			o.KeepHoles, o.Peers, o.Existing = true, true, true
			log, found, err := wal.Open(o)
			if err != nil || found.LostShards == 0 {
				t.Fatalf("seed %d: %+v, %v", seed, found, err)
			}
			return log
		}
		segments := len(filesBelow(t, sim, crashDir+"/live"))
		for range 3 {
			log := open()
			for _, shard := range crashShards {
				if err := wantDamage("lost", log.Lost(shard)); err != nil {
					t.Fatalf("seed %d: shard %d: %v", seed, shard, err)
				}
				if _, err := log.Append(shard, &wal.HardState{Term: 1}, nil); err == nil {
					t.Fatalf("lost shard %d takes a hard state", shard)
				}
			}
			sim = sim.CrashClone(vfs.Mixed(seed))
		}
		if n := len(filesBelow(t, sim, crashDir+"/live")); n != segments || n == 0 {
			t.Errorf("seed %d: %d of %d segments are left", seed, n, segments)
		}
		log := open()
		for _, shard := range crashShards {
			_, err := log.Forget(shard)
			if err == nil {
				_, err = log.Append(shard, &wal.HardState{Term: 1}, []wal.Entry{{Index: 1, Term: 1}})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := log.Flush(); err != nil {
			t.Fatal(err)
		}
		again, _, err := openHoles(sim.CrashClone(vfs.AllLost()))
		if err != nil {
			t.Fatal(err)
		}
		for _, shard := range crashShards {
			if e, err := again.Read(shard, 1); err != nil || again.Lost(shard) != nil {
				t.Errorf("seed %d: shard %d was forgotten and begun anew: %+v, %v, %v", seed, shard, e, err, again.Lost(shard))
			}
		}
	}
}

// TestDamageBeforeWhatIsWrittenAgain damages the header of the last frame that is proven durable. What follows it is written to a new
// file, and who opens both files must find what was found at first: also when the shard's state comes before the entry that tells
// where the gap ends, and when nothing was known of the shard before.
func TestDamageBeforeWhatIsWrittenAgain(t *testing.T) {
	t.Parallel()
	type write struct {
		shard wal.ShardID
		hard  *wal.HardState
		index uint64 // of one entry; 0: none
	}
	for name, flushes := range map[string][3][]write{
		"the state comes first": {{{7, &wal.HardState{Term: 1, Commit: 1}, 1}}, {{7, nil, 2}}, {{7, &wal.HardState{Term: 1, Commit: 2}, 3}}},
		"the shard is new":      {{{0, &wal.HardState{Term: 1, Commit: 1}, 1}}, {{7, nil, 1}}, {{7, nil, 2}, {7, &wal.HardState{Term: 1}, 0}, {0, &wal.HardState{Term: 2}, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			sim := vfs.NewSim(1, vfs.SimOptions{})
			log, _, err := openHoles(sim)
			if err != nil {
				t.Fatal(err)
			}
			var durable [3]wal.Position
			for i, writes := range flushes {
				for _, w := range writes {
					var entries []wal.Entry
					if w.index > 0 {
						entries = []wal.Entry{{Index: w.index, Term: 1, Data: []byte("0123456789")}}
					}
					if _, err := log.Append(w.shard, w.hard, entries); err != nil {
						t.Fatal(err)
					}
				}
				if durable[i], err = log.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			crashed := sim.CrashClone(vfs.AllKept())
			const firstFrame = 64 // the file began without the state of any shard
			if err := crashed.FlipBit(crashDir+"/tail/0000000001.wal", firstFrame+int64(durable[0])+20, 3); err != nil {
				t.Fatal(err)
			}
			first, _, err := openHoles(crashed)
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := openHoles(crashed.CrashClone(vfs.AllLost()))
			if err != nil {
				t.Fatalf("again: %v", err)
			}
			for _, shard := range crashShards {
				before := fmt.Sprintf("%+v, a gap up to %d, lost: %v", first.State(shard), first.Gap(shard, 0), first.Lost(shard) != nil)
				after := fmt.Sprintf("%+v, a gap up to %d, lost: %v", again.State(shard), again.Gap(shard, 0), again.Lost(shard) != nil)
				if after != before {
					t.Errorf("shard %d was %s; and is %s", shard, before, after)
				}
			}
			if first.Gap(7, 0) == 0 {
				t.Error("the damage left no gap")
			}
		})
	}
}

// openDamaged opens a damaged log twice, closes what gaps there are, and forgets the shards that are lost.
func openDamaged(base *vfs.Sim, d harm, h *history, closed bool, counts map[string]int) error {
	sim, err := d.on(base)
	if err != nil {
		return err
	}
	log, _, err := openHoles(sim)
	if err != nil {
		return err
	}
	after, err := matchDamaged(log, h, closed, counts)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	lost := lostShards(log)
	crashed := sim.CrashClone(vfs.AllLost())
	if d.sector {
		crashed.SetReadHook(d.refuse)
	}
	again, _, err := openHoles(crashed)
	if err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if now := lostShards(again); !maps.Equal(now, lost) {
		return fmt.Errorf("lost were %v, and at the next start %v", lost, now)
	}
	if _, err := matchDamaged(again, after, true, make(map[string]int)); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if err := errors.Join(again.Close(), closeGaps(log, after, lost), log.Close()); err != nil {
		return err
	}
	healed, found, err := openHoles(sim)
	if err != nil {
		return fmt.Errorf("healed: %w", err)
	}
	defer func() { _ = healed.Close() }()
	if found.LostShards > 0 || gapped(healed) {
		return fmt.Errorf("healed: %+v", found)
	}
	_, err = matchDamaged(healed, after, true, make(map[string]int))
	return err
}

func lostShards(log *wal.Log) map[wal.ShardID]bool {
	lost := make(map[wal.ShardID]bool)
	for _, shard := range crashShards {
		if log.Lost(shard) != nil {
			lost[shard] = true
		}
	}
	return lost
}

// closeGaps installs snapshots where there are gaps, and forgets what is lost.
func closeGaps(log *wal.Log, h *history, lost map[wal.ShardID]bool) error {
	for _, shard := range crashShards {
		m := model(h.durable, shard)
		if lost[shard] {
			if _, err := log.Append(shard, &wal.HardState{Term: 1}, nil); err == nil {
				return fmt.Errorf("lost shard %d takes a hard state", shard)
			}
			if _, err := log.Forget(shard); err != nil {
				return err
			}
			h.durable[shard] = &shardModel{first: 1}
			continue
		}
		for gap := log.Gap(shard, 0); gap > 0; gap = log.Gap(shard, 0) {
			if held := log.Held(shard); held >= gap {
				return fmt.Errorf("shard %d holds all up to %d, with a gap at %d", shard, held, gap)
			}
			at := m.first // bring one below the end first, if there is more than one
			if at >= gap || model(h.durable, shard).entries[at] == nil {
				at = gap
			}
			if err := log.InstallSnapshot(shard, at, m.entries[at].Term); err != nil {
				return err
			}
			m.first = at + 1
		}
	}
	_, err := log.Flush()
	return err
}

// matchDamaged compares each shard that is not lost with some state that the log may show: that of everything or, when the log crashed,
// of any beginning of the last flush.
func matchDamaged(log *wal.Log, h *history, whole bool, counts map[string]int) (*history, error) {
	what, err := sameOrHoles(log, h.seen())
	if err == nil || whole {
		counts[what]++
		after := h.clone()
		after.durable, after.stream = h.seen(), nil
		return after, err
	}
	models := cloneModels(h.proven)
	for i := range h.flushed {
		if what, wrong := sameOrHoles(log, models); wrong == nil {
			if counts["cut"]++; what == "lost" {
				counts[what]++
			}
			after := h.clone()
			after.durable, after.stream = models, nil
			return after, nil
		}
		model(models, h.flushed[i].shard).apply(&h.flushed[i])
	}
	return nil, err
}

// sameOrHoles compares a log with what it should be, but for holes and what is lost, and tells what it has of these.
func sameOrHoles(log *wal.Log, models map[wal.ShardID]*shardModel) (what string, err error) {
	what = "whole"
	for _, shard := range crashShards {
		m := model(models, shard)
		if err := log.Lost(shard); err != nil {
			if err := wantDamage("lost", err); err != nil {
				return what, err
			}
			what = "lost"
			continue
		}
		if got, want := log.State(shard), (wal.ShardState{HardState: m.hard, First: m.first, Last: m.last}); got != want {
			return what, fmt.Errorf("shard %d is %+v, want %+v", shard, got, want)
		}
		for index := uint64(1); index <= m.last; index++ {
			e, err := log.Read(shard, index)
			switch first, _ := log.Holes(shard, index); {
			case err == nil:
				if err := sameEntry(e, m.entries[index]); err != nil {
					return what, fmt.Errorf("shard %d: %w", shard, err)
				}
			case index < m.first:
				continue
			case first != index:
				return what, fmt.Errorf("shard %d: entry %d is no hole: %w", shard, index, err)
			case log.Gap(shard, index) >= index && what != "lost":
				what = "gap"
			case what == "whole":
				what = "hole"
			}
			if _, err := log.Term(shard, m.last); index == m.last && err != nil {
				return what, fmt.Errorf("shard %d: the last entry has no term: %w", shard, err)
			}
			if term, err := log.Term(shard, index); index >= m.first && err == nil && term != m.entries[index].Term {
				return what, fmt.Errorf("shard %d: entry %d has term %d", shard, index, term)
			}
		}
	}
	return what, nil
}
