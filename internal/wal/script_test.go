package wal

import (
	"fmt"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/cockroachdb/datadriven"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// script drives one log on a simulated disk. Commands:
//
//	open [file=BYTES] [capacity=BYTES] [keep=PERCENT]   a new disk; then as reopen. Without keep, files are copied
//	append shard=S index=I [count=N] [term=T] [bytes=B] [hard=(TERM,VOTE,COMMIT)]
//	flush | close | state | sealed | needs | full
//	maintain                              until there is no more to do
//	retain shard=S snapshot=I keep=I [live=(I,I,…)]
//	install shard=S index=I term=T
//	read shard=S index=I | term shard=S index=I
//	crash (lost|kept|killed)              and reopen
//	fail number=N                         the Nth change of the disk from here fails
//	flip file=NAME offset=O               damage one bit; remove file=NAME
//	ls | dump                             files | records
type script struct {
	sim  *vfs.Sim
	log  *Log
	opts Options
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, file string) {
		var s script
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	var shard, index, count, term, bytes, offset uint64
	count, term, bytes = 1, 1, 10
	var name string
	d.MaybeScanArgs(t, "shard", &shard)
	d.MaybeScanArgs(t, "index", &index)
	d.MaybeScanArgs(t, "count", &count)
	d.MaybeScanArgs(t, "term", &term)
	d.MaybeScanArgs(t, "bytes", &bytes)
	d.MaybeScanArgs(t, "offset", &offset)
	d.MaybeScanArgs(t, "file", &name)
	id := ShardID(shard)
	switch d.Cmd {
	case "open":
		return s.open(t, d)
	case "append":
		return s.append(t, d, id, Entry{Index: index, Term: term}, count, bytes)
	case "flush":
		pos, err := s.log.Flush()
		return orError(fmt.Sprintf("durable to %d", pos), err)
	case "close":
		return orError("ok", s.log.Close())
	case "crash":
		outcome := map[string]vfs.Outcome{"lost": vfs.AllLost(), "kept": vfs.AllKept(), "killed": vfs.Killed()}[d.CmdArgs[0].Key]
		s.sim = s.sim.CrashClone(outcome)
		return s.reopen()
	case "reopen":
		return s.reopen()
	case "state":
		return s.state()
	case "maintain":
		times := 1
		if d.HasArg("times") {
			d.ScanArgs(t, "times", &times)
		}
		for range times - 1 {
			s.maintain()
		}
		return s.maintain()
	case "retain":
		return s.retain(t, d, id)
	case "install":
		return orError("ok", s.log.InstallSnapshot(id, index, term))
	case "read":
		e, err := s.log.Read(id, index)
		return orError(fmt.Sprintf("term=%d type=%d bytes=%d", e.Term, e.Type, len(e.Data)), err)
	case "term":
		got, err := s.log.Term(id, index)
		return orError(fmt.Sprint(got), err)
	case "sealed":
		files, n := s.log.Sealed()
		return fmt.Sprintf("%d files, %d bytes\n", files, n)
	case "needs":
		return fmt.Sprintln(s.log.NeedsSnapshot())
	case "full":
		return fmt.Sprintln(s.log.Full())
	case "fail":
		var n uint64
		d.ScanArgs(t, "number", &n)
		s.sim.FailAt(s.sim.Ops()+n, io.ErrClosedPipe)
		return ""
	case "flip":
		return orError("ok", s.sim.FlipBit(path.Join("log", name), int64(offset), 3))
	case "remove":
		return orError("ok", s.sim.Remove(path.Join("log", name)))
	case "ls":
		return s.ls(t)
	case "dump":
		return s.dump()
	}
	t.Fatalf("unknown command %s", d.Cmd)
	return ""
}

func orError(ok string, err error) string {
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	return ok + "\n"
}

func (s *script) open(t *testing.T, d *datadriven.TestData) string {
	s.opts = Options{Dir: "log", FileBytes: 4096, ReserveBytes: 1, KeepAbove: 100}
	var size, capacity, reserve int64
	d.MaybeScanArgs(t, "keep", &s.opts.KeepAbove)
	if d.HasArg("file") {
		d.ScanArgs(t, "file", &size)
		s.opts.FileBytes = size
	}
	d.MaybeScanArgs(t, "capacity", &capacity)
	if d.MaybeScanArgs(t, "reserve", &reserve); reserve > 0 {
		s.opts.ReserveBytes = reserve
	}
	s.sim = vfs.NewSim(1, vfs.SimOptions{CapacityBytes: capacity})
	return s.reopen()
}

func (s *script) reopen() string {
	s.opts.FS = s.sim
	l, found, err := Open(s.opts)
	if err != nil {
		return orError("", err)
	}
	s.log = l
	out := fmt.Sprintf("%d tail files, %d segments, %d entries", found.TailFiles, found.Segments, found.EntriesReplayed)
	if found.TornFile != "" {
		out += fmt.Sprintf(", torn %s at %d", found.TornFile, found.TornOffset)
	}
	if found.RewrittenBytes > 0 {
		out += fmt.Sprintf(", %d bytes written again", found.RewrittenBytes)
	}
	if found.RemovedTemporaryFiles > 0 {
		out += fmt.Sprintf(", %d leftovers removed", found.RemovedTemporaryFiles)
	}
	for _, b := range found.Rebuilt {
		out += fmt.Sprintf("\nrebuilt %s: %s; %d entries, %d damaged, %d bytes lost, whole %v", b.File, b.Reason, b.Entries, b.Damaged, b.Lost, b.Whole)
	}
	return out + "\n"
}

func (s *script) append(t *testing.T, d *datadriven.TestData, id ShardID, e Entry, count, bytes uint64) string {
	var hs *HardState
	if d.HasArg("hard") {
		hs = new(HardState)
		d.ScanArgs(t, "hard", &hs.Term, &hs.Vote, &hs.Commit)
	}
	var entries []Entry
	if e.Index > 0 {
		for i := range count {
			e := e
			e.Index += i
			e.Data = []byte(strings.Repeat(string(rune('a'+e.Index%26)), int(bytes)))
			entries = append(entries, e)
		}
	}
	pos, err := s.log.Append(id, hs, entries)
	return orError(fmt.Sprintf("at %d", pos), err)
}

func (s *script) state() string {
	var b strings.Builder
	for _, id := range s.log.Shards() {
		st := s.log.State(id)
		fmt.Fprintf(&b, "shard %d: %d to %d, term=%d vote=%d commit=%d\n",
			id, st.First, st.Last, st.HardState.Term, st.HardState.Vote, st.HardState.Commit)
	}
	return b.String()
}

func (s *script) maintain() string {
	for {
		more, err := s.log.Maintain()
		if err != nil {
			return orError("", err)
		}
		if !more {
			break
		}
	}
	st := s.log.Stats()
	kept := ""
	if st.SealedEntriesKept > 0 {
		kept = fmt.Sprintf("kept %d, ", st.SealedEntriesKept)
	}
	return fmt.Sprintf("%d tail files, %d spares, %d segments (%d of %d bytes live), %scopied %d, dropped %d, merges %d\n",
		st.TailFiles, st.SpareFiles, st.Segments, st.SegmentLiveBytes, st.SegmentBytes,
		kept, st.SealedEntriesCopied, st.SealedEntriesDropped, st.Compactions)
}

func (s *script) retain(t *testing.T, d *datadriven.TestData, id ShardID) string {
	r := Retention{Live: roaring64.New()}
	d.ScanArgs(t, "snapshot", &r.Snapshot)
	d.ScanArgs(t, "keep", &r.KeepFrom)
	for _, arg := range d.CmdArgs {
		if arg.Key == "live" {
			for i := range arg.Vals {
				var index uint64
				arg.Scan(t, i, &index)
				r.Live.Add(index)
			}
		}
	}
	s.log.Retain(id, r)
	return "ok\n"
}

func (s *script) ls(t *testing.T) string {
	var b strings.Builder
	var walk func(dir string)
	walk = func(dir string) {
		names, err := s.sim.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			full := path.Join(dir, name)
			info, err := s.sim.Stat(full)
			if err != nil {
				t.Fatal(err)
			}
			if info.Dir {
				walk(full)
				continue
			}
			fmt.Fprintf(&b, "%s %d\n", full, info.Size)
		}
	}
	walk("log")
	return b.String()
}

func (s *script) dump() string {
	var b strings.Builder
	err := Inspect(s.sim, "log", func(r Record) error {
		fmt.Fprintf(&b, "%s @%d %s", strings.TrimPrefix(r.File, "log/"), r.Offset, r.Kind)
		switch r.Kind {
		case RecordEntry:
			fmt.Fprintf(&b, " shard=%d index=%d term=%d bytes=%d", r.Shard, r.Index, r.Term, r.Bytes)
		case RecordState:
			fmt.Fprintf(&b, " shard=%d term=%d vote=%d commit=%d, %d to %d",
				r.Shard, r.State.Term, r.State.Vote, r.State.Commit, r.First, r.Last)
		case RecordSegment:
			fmt.Fprintf(&b, " shard=%d %d entries, %d to %d", r.Shard, r.Count, r.First, r.Last)
		case RecordTailFile, RecordOther, RecordMark, RecordSeal, RecordEnd, RecordDamage:
		}
		if r.Reason != "" {
			fmt.Fprintf(&b, ": %s", r.Reason)
		}
		b.WriteString("\n")
		return nil
	})
	return orError(strings.TrimSuffix(b.String(), "\n"), err)
}
