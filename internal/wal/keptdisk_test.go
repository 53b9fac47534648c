package wal

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// keptOptions are those of a log in which every file with anything live is kept, until nothing is.
var keptOptions = Options{FileBytes: 4096, ReserveBytes: 1, KeepAbove: 1, CompactBelow: 1}

// keptLog is a log under keptOptions, with what of it is live. Shard 9 fills files, and nothing of it is.
type keptLog struct {
	t   *testing.T
	log *Log
	sim *vfs.Sim

	snapshots map[ShardID]uint64
	live      map[ShardID]map[uint64]string // data by index
}

const fillShard = 9

func newKeptLog(t *testing.T) *keptLog {
	t.Helper()
	k := &keptLog{
		t: t, snapshots: make(map[ShardID]uint64),
		live: map[ShardID]map[uint64]string{1: make(map[uint64]string), 2: make(map[uint64]string), fillShard: nil},
	}
	k.log, k.sim = openSim(t, keptOptions)
	return k
}

// put appends entries that are live, until others replace them.
func (k *keptLog) put(shard ShardID, term, from, to uint64) {
	k.t.Helper()
	for index := range k.live[shard] {
		if index >= from {
			delete(k.live[shard], index)
		}
	}
	for index := from; index <= to; index++ {
		data := fmt.Sprintf("entry %d of shard %d, term %d", index, shard, term)
		k.live[shard][index] = data
		if _, err := k.log.Append(shard, nil, []Entry{{Index: index, Term: term, Data: []byte(data)}}); err != nil {
			k.t.Fatal(err)
		}
	}
	mustFlush(k.t, k.log)
}

// kill says that entries are dead.
func (k *keptLog) kill(shard ShardID, indexes ...uint64) {
	for _, index := range indexes {
		delete(k.live[shard], index)
	}
}

// commit flushes a hard state.
func (k *keptLog) commit(shard ShardID, index uint64) {
	k.t.Helper()
	if _, err := k.log.Append(shard, &HardState{Term: 1, Commit: index}, nil); err != nil {
		k.t.Fatal(err)
	}
	mustFlush(k.t, k.log)
}

// roll fills the current file.
func (k *keptLog) roll() {
	k.t.Helper()
	for id := k.log.current().id; k.log.current().id == id; {
		last := k.log.State(fillShard).Last
		appendFlushed(k.t, k.log, fillShard, 1, last+1, last+1, 150)
	}
}

// tell gives a log what is live.
func (k *keptLog) tell(l *Log) {
	for _, shard := range []ShardID{1, 2, fillShard} {
		k.snapshots[shard] = max(k.snapshots[shard], k.log.State(shard).Last)
		live := roaring64.New()
		for index := range k.live[shard] {
			live.Add(index)
		}
		l.Retain(shard, Retention{Snapshot: k.snapshots[shard], KeepFrom: k.snapshots[shard] + 1, Live: live})
	}
}

// retire lets all files but the last retire, and checks that so many are kept.
func (k *keptLog) retire(kept int) {
	k.t.Helper()
	k.roll()
	k.tell(k.log)
	mustFlush(k.t, k.log)
	maintained(k.t, k.log)
	if names := keptNames(k.t, k.sim); len(names) != kept {
		k.t.Fatalf("kept are %v", names)
	}
	k.check(k.log, "retired")
}

// disk closes the log, and returns what a crash leaves.
func (k *keptLog) disk() *vfs.Sim {
	k.t.Helper()
	if err := k.log.Close(); err != nil {
		k.t.Fatal(err)
	}
	return k.sim.CrashClone(vfs.AllLost())
}

// check reads everything: what is live is there, and nothing else.
func (k *keptLog) check(l *Log, when string) {
	k.t.Helper()
	k.checkReads(l, when)
	checkKept(k.t, l)
}

func (k *keptLog) checkReads(l *Log, when string) {
	k.t.Helper()
	for shard, live := range k.live {
		for index := uint64(1); index <= k.snapshots[shard]; index++ {
			e, err := l.Read(shard, index)
			switch data, lives := live[index]; {
			case lives && (err != nil || string(e.Data) != data):
				k.t.Fatalf("%s: entry %d of shard %d reads %q, %v", when, index, shard, e.Data, err)
			case !lives && !errors.Is(err, ErrCompacted):
				k.t.Fatalf("%s: entry %d of shard %d is dead, and reads %q, %v", when, index, shard, e.Data, err)
			}
		}
	}
}

// keptNames lists the kept files.
func keptNames(t *testing.T, fsys vfs.FS) []string {
	t.Helper()
	names, err := fsys.List("log/tail")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasSuffix(name, keptSuffix) })
}

// checkKept checks that the kept files on the disk are those that segments refer to, and that those know it.
func checkKept(t *testing.T, l *Log) {
	t.Helper()
	var referred []string
	for shard, s := range l.shards {
		for _, g := range slices.Concat(s.segments, s.barren) {
			if g.kept == nil || g.kept.absent {
				continue
			}
			if l.kept[g.kept.id] != g.kept || !slices.Contains(g.kept.parts, g) {
				t.Fatalf("%s of shard %d refers to a file that does not know it", g.name, shard)
			}
			referred = append(referred, path.Base(g.kept.name))
		}
	}
	slices.Sort(referred)
	referred = slices.Compact(referred)
	if names := keptNames(t, l.fs); !slices.Equal(names, referred) {
		t.Fatalf("kept are %v, and segments refer to %v", names, referred)
	}
}

// inPlace lists the segments of a disk that refer to kept files.
func inPlace(t *testing.T, fsys vfs.FS) (names []string) {
	t.Helper()
	for shard := range ShardID(fillShard) {
		dir := fmt.Sprintf("log/live/%05d", shard)
		all, err := fsys.List(dir)
		if err != nil {
			continue // there are none
		}
		for _, base := range all {
			id, _ := parseSegmentName(base)
			if g, _, err := openSegment(fsys, path.Join(dir, base), shard, id); err == nil && g.kept != nil {
				names = append(names, g.name)
			}
		}
	}
	return names
}
