package vfs_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestSimScripts runs testdata/sim_*: what a crash leaves, told as a story. Commands:
//
//	new [capacity=N] [atomic]       an empty disk
//	create|open FILE                handles are named like the file
//	write FILE OFFSET TEXT          TEXT may be xN for N times x
//	truncate FILE SIZE · preallocate FILE SIZE · sync FILE · syncdir DIR
//	rename OLD NEW · remove FILE · mkdir DIR
//	flip FILE OFFSET BIT · fail N eio|enospc|cut · misdirect N FILE OFFSET
//	crash lost|kept|killed          the disk is replaced by what the crash leaves; handles are gone
//	dump                            every file: size and run-length content
//	usage · ops
func TestSimScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		r := &simScript{}
		r.reset(vfs.SimOptions{})
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "do" {
				d.Fatalf(t, "unknown command %q: scripts are blocks of do", d.Cmd)
			}
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				if err := r.line(strings.Fields(line), &out); err != nil {
					fmt.Fprintf(&out, "%s: %v\n", strings.TrimSpace(line), err)
				}
			}
			if out.Len() == 0 {
				return "ok\n"
			}
			return out.String()
		})
	})
}

type simScript struct {
	sim   *vfs.Sim
	files map[string]vfs.File
}

func (r *simScript) reset(opts vfs.SimOptions) { r.use(vfs.NewSim(1, opts)) }

func (r *simScript) use(s *vfs.Sim) { r.sim, r.files = s, make(map[string]vfs.File) }

func (r *simScript) line(args []string, out *strings.Builder) error {
	number := func(i int) int64 {
		n, err := strconv.ParseInt(args[i], 10, 64)
		if err != nil {
			panic(err) // a script with a typo cannot go on
		}
		return n
	}
	switch args[0] {
	case "new":
		var opts vfs.SimOptions
		for _, a := range args[1:] {
			if c, ok := strings.CutPrefix(a, "capacity="); ok {
				opts.CapacityBytes, _ = strconv.ParseInt(c, 10, 64)
			}
		}
		r.reset(opts)
		return nil
	case "create", "open":
		open := r.sim.Create
		if args[0] == "open" {
			open = r.sim.OpenReadWrite
		}
		f, err := open(args[1])
		if err == nil {
			r.files[args[1]] = f
		}
		return err
	case "write":
		text := args[3]
		if n, err := strconv.Atoi(text[1:]); err == nil {
			text = strings.Repeat(text[:1], n)
		}
		n, err := r.files[args[1]].WriteAt([]byte(text), number(2))
		if err != nil {
			err = fmt.Errorf("%w after %d bytes", err, n)
		}
		return err
	case "truncate":
		return r.files[args[1]].Truncate(number(2))
	case "preallocate":
		return r.files[args[1]].Preallocate(number(2))
	case "sync":
		return r.files[args[1]].SyncData()
	case "syncdir":
		return r.sim.SyncDir(args[1])
	case "rename":
		return r.sim.Rename(args[1], args[2])
	case "remove":
		return r.sim.Remove(args[1])
	case "mkdir":
		return r.sim.MkdirAll(args[1])
	case "flip":
		return r.sim.FlipBit(args[1], number(2), uint(number(3)))
	case "fail":
		r.sim.FailAt(uint64(number(1)), map[string]error{
			"eio": syscall.EIO, "enospc": syscall.ENOSPC, "cut": vfs.ErrPowerCut,
		}[args[2]])
		return nil
	case "misdirect":
		r.sim.Misdirect(uint64(number(1)), args[2], number(3))
		return nil
	case "crash":
		r.use(r.sim.CrashClone(map[string]vfs.Outcome{
			"lost": vfs.AllLost(), "kept": vfs.AllKept(), "killed": vfs.Killed(),
		}[args[1]]))
		return nil
	case "dump":
		out.WriteString(dump(r.sim, "/"))
		return nil
	case "usage":
		u, err := r.sim.Usage("/")
		fmt.Fprintf(out, "free %d of %d\n", u.Free, u.Total)
		return err
	case "ops":
		fmt.Fprintf(out, "%d calls\n", r.sim.Ops())
		return nil
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// dump lists a whole disk, contents run-length coded, in the order of names.
func dump(fsys vfs.FS, dir string) string {
	var out strings.Builder
	names, err := fsys.List(dir)
	if err != nil {
		return err.Error()
	}
	for _, name := range names {
		name = strings.TrimPrefix(dir+"/"+name, "//")
		info, err := fsys.Stat(name)
		if err != nil {
			return err.Error()
		}
		if info.Dir {
			out.WriteString(name + "/\n" + dump(fsys, name))
			continue
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err.Error()
		}
		data := make([]byte, info.Size)
		if _, err := f.ReadAt(data, 0); err != nil {
			return err.Error()
		}
		_ = f.Close()
		fmt.Fprintf(&out, "%s %d: %s\n", name, info.Size, runLength(data))
	}
	return out.String()
}

func runLength(data []byte) string {
	if len(data) > 0 && len(bytes.Trim(data[:min(len(data), 64)], string(data[:1]))) > 32 {
		return fmt.Sprintf("%x", sha256.Sum256(data)) // it looks random
	}
	var out []string
	for i := 0; i < len(data); {
		j := i
		for j < len(data) && data[j] == data[i] {
			j++
		}
		c := strconv.QuoteRuneToASCII(rune(data[i]))
		if data[i] == 0 {
			c = "0"
		}
		out = append(out, fmt.Sprintf("%s*%d", strings.Trim(c, "'"), j-i))
		i = j
	}
	return strings.Join(out, " ")
}

// workload does random but seeded things to a few files, ignoring errors that faults cause.
func workload(s *vfs.Sim, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 7))
	_ = s.MkdirAll("d/e")
	name := func() string { return [...]string{"d", "d/e"}[rng.IntN(2)] + "/" + string(rune('a'+rng.IntN(5))) }
	for range steps {
		n := name()
		switch rng.IntN(8) {
		case 0:
			if f, err := s.Create(n); err == nil {
				_ = f.Close()
			}
		case 1:
			_ = s.Remove(n)
		case 2:
			_ = s.Rename(n, name())
		case 3:
			_ = s.SyncDir([...]string{"d", "d/e"}[rng.IntN(2)])
		default:
			f, err := s.OpenReadWrite(n)
			if err != nil {
				continue
			}
			p := make([]byte, rng.IntN(9000))
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			_, _ = f.WriteAt(p, rng.Int64N(20000))
			if rng.IntN(3) == 0 {
				_ = f.Truncate(rng.Int64N(20000))
			}
			if rng.IntN(3) == 0 {
				_ = f.Sync()
			}
			_ = f.Close()
		}
	}
}

// TestSimReproduces: same seed and same calls, same bytes; and another seed makes a difference.
func TestSimReproduces(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) string {
		s := vfs.NewSim(seed, vfs.SimOptions{})
		s.FailAt(40, syscall.EIO)
		s.FailAt(55, syscall.EIO)
		s.Misdirect(60, "d/a", 77)
		workload(s, 3, 200)
		s = s.Crash(seed)
		workload(s, 4, 100)
		return dump(s.Crash(seed+1), "/")
	}
	differ := 0
	for seed := range uint64(8) {
		first := run(seed)
		if first != run(seed) {
			t.Fatalf("seed %d: two runs differ", seed)
		}
		if first != run(seed+1) {
			differ++
		}
	}
	if differ == 0 {
		t.Fatal("the seed makes no difference")
	}
}

// TestSimCloneIsApart: what happens on a disk after a clone does not show in the clone, nor the other way.
func TestSimCloneIsApart(t *testing.T) {
	t.Parallel()
	for _, o := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed(), vfs.Mixed(5)} {
		s := vfs.NewSim(1, vfs.SimOptions{})
		workload(s, 1, 100)
		c := s.CrashClone(o)
		seen, cloned := dump(s, "/"), dump(c, "/")
		workload(c, 2, 100)
		if dump(s, "/") != seen {
			t.Fatalf("%v: writing the clone changed the disk", o)
		}
		again := s.CrashClone(o)
		workload(s, 3, 100)
		if dump(again, "/") != cloned {
			t.Fatalf("%v: writing the disk changed the clone", o)
		}
	}
}

// TestSimKeepsWhatWasSynced: in any outcome, bytes not written since the last sync are as they were.
func TestSimKeepsWhatWasSynced(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := vfs.NewSim(rapid.Uint64().Draw(t, "seed"), vfs.SimOptions{})
		f, err := s.Create("a")
		if err != nil || s.SyncDir("/") != nil {
			t.Fatal(err)
		}
		var synced, seen, uncertain []byte // uncertain marks bytes written, or cut, since the last sync
		grow := func(p *[]byte, n int) {
			if n > len(*p) {
				*p = append(*p, make([]byte, n-len(*p))...)
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1:
				if err := f.Sync(); err != nil {
					t.Fatal(err)
				}
				synced, uncertain = append([]byte(nil), seen...), make([]byte, len(seen))
			case 2:
				size := rapid.IntRange(0, 12000).Draw(t, "size")
				if err := f.Truncate(int64(size)); err != nil {
					t.Fatal(err)
				}
				grow(&uncertain, len(seen))
				for i := size; i < len(seen); i++ {
					uncertain[i] = 1
				}
				grow(&seen, size)
				seen = seen[:size]
			default:
				at := rapid.IntRange(0, 12000).Draw(t, "at")
				p := make([]byte, rapid.IntRange(1, 3000).Draw(t, "length"))
				for i := range p {
					p[i] = byte(at + i + len(p) | 1)
				}
				if _, err := f.WriteAt(p, int64(at)); err != nil {
					t.Fatal(err)
				}
				grow(&seen, at+len(p))
				grow(&uncertain, at+len(p))
				copy(seen[at:], p)
				for i := range p {
					uncertain[at+i] = 1
				}
			}
		}
		for seed := range uint64(10) {
			got := readAll(t, s.CrashClone(vfs.Mixed(seed)), "a")
			if len(got) < min(len(synced), len(seen)) || len(got) > max(len(synced), len(seen)) {
				t.Fatalf("size %d, synced %d, seen %d", len(got), len(synced), len(seen))
			}
			for i, b := range got {
				if i < len(synced) && uncertain[i] == 0 && b != synced[i] {
					t.Fatalf("synced byte %d is %d, was %d", i, b, synced[i])
				}
			}
		}
		if got := readAll(t, s.CrashClone(vfs.AllLost()), "a"); string(got) != string(synced) {
			t.Fatalf("all lost: %d bytes differ from the %d synced", len(got), len(synced))
		}
		for _, o := range []vfs.Outcome{vfs.AllKept(), vfs.Killed()} {
			if got := readAll(t, s.CrashClone(o), "a"); string(got) != string(seen) {
				t.Fatalf("%v: %d bytes differ from the %d seen", o, len(got), len(seen))
			}
		}
	})
}

func readAll(t *rapid.T, fsys vfs.FS, name string) []byte {
	info, err := fsys.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, info.Size)
	if n, err := f.ReadAt(p, 0); n != len(p) || err != nil {
		t.Fatal(n, err)
	}
	return p
}

// TestSimReplacesAtomically: write a temporary file, sync it, rename it, sync the directory. In every outcome at every
// call the name leads to the old content or to the new, whole; after the last call, to the new.
func TestSimReplacesAtomically(t *testing.T) {
	t.Parallel()
	oldText, newText := strings.Repeat("old", 3000), strings.Repeat("new", 4000)
	s := vfs.NewSim(1, vfs.SimOptions{})
	put := func(text string) {
		f, err := s.Create("tmp")
		must(t, err)
		writeAt(t, f, text, 0)
		must(t, f.Sync())
		must(t, f.Close())
		must(t, s.Rename("tmp", "file"))
		must(t, s.SyncDir("/"))
	}
	put(oldText)
	seen := make(map[string]bool)
	s.SetHook(func(op vfs.Op) error {
		for seed := range uint64(50) {
			got := content(t, s.Crash(seed), "file")
			if got != oldText && got != newText {
				t.Errorf("before %v, seed %d: %d bytes of neither", op, seed, len(got))
			}
			seen[op.Kind.String()+" "+got[:3]] = true
		}
		return nil
	})
	put(newText)
	if !seen["syncdir old"] || !seen["syncdir new"] || seen["rename new"] || seen["write new"] {
		t.Errorf("outcomes seen: %v", seen)
	}
	s.SetHook(nil)
	wantContent(t, s.CrashClone(vfs.AllLost()), "file", newText)
}

// TestSimTears: a sector in flight can come out as neither the old nor the new one, unless sectors are atomic.
func TestSimTears(t *testing.T) {
	t.Parallel()
	for _, atomic := range []bool{false, true} {
		s := vfs.NewSim(1, vfs.SimOptions{AtomicSectors: atomic})
		f := create(t, s, "a")
		must(t, s.SyncDir("/"))
		writeAt(t, f, strings.Repeat("o", 2048), 0)
		must(t, f.Sync())
		writeAt(t, f, strings.Repeat("n", 2000), 24)
		torn, mixes := 0, make(map[string]bool)
		for seed := range uint64(200) {
			got := content(t, s.Crash(seed), "a")
			if got[:24] != strings.Repeat("o", 24) {
				t.Fatal("synced bytes of a torn sector changed")
			}
			var mix string
			for at := 0; at < 2048; at += 512 {
				sector := got[max(at, 24):min(at+512, 2024)]
				if strings.Trim(sector, sector[:1]) != "" || !strings.ContainsAny(sector[:1], "on") {
					torn++
				}
				mix += sector[:1]
			}
			mixes[mix] = true
		}
		if atomic != (torn == 0) {
			t.Errorf("atomic %v: %d torn sectors", atomic, torn)
		}
		for _, mix := range []string{"oooo", "nnnn", "nooo", "onon"} {
			if !mixes[mix] {
				t.Errorf("atomic %v: never saw %s", atomic, mix)
			}
		}
	}
}

// TestSimKeepsSyncedBytesBesideLostOnes: the page of a sync that failed is written again whole, and what the disk had of it is
// as safe as beside any other write.
func TestSimKeepsSyncedBytesBesideLostOnes(t *testing.T) {
	t.Parallel()
	s := vfs.NewSim(1, vfs.SimOptions{})
	f := create(t, s, "a")
	must(t, s.SyncDir("/"))
	synced := strings.Repeat("o", 1000)
	writeAt(t, f, synced, 0)
	must(t, f.Sync())
	writeAt(t, f, strings.Repeat("n", 200), 1000)
	s.FailAt(s.Ops()+1, syscall.EIO)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	writeAt(t, f, "m", 3000)
	for seed := range uint64(300) {
		if got := content(t, s.Crash(seed), "a"); got[:1000] != synced {
			t.Fatalf("seed %d: bytes that were synced before another sync failed have changed", seed)
		}
	}
}

func TestSimHooks(t *testing.T) {
	t.Parallel()
	var ops, reads, delays []string
	s := vfs.NewSim(1, vfs.SimOptions{
		Hook:     func(op vfs.Op) error { ops = append(ops, op.String()); return nil },
		ReadHook: func(op vfs.Op) error { reads = append(reads, op.String()); return nil },
		Latency:  func(op vfs.Op) { delays = append(delays, op.String()) },
	})
	f := create(t, s, "a")
	writeAt(t, f, "abc", 4)
	must(t, f.Truncate(5))
	must(t, f.SyncData())
	must(t, s.Rename("a", "b"))
	must(t, s.SyncDir("/"))
	content(t, s, "b")
	_, err := s.List("/")
	must(t, err)
	want := "1 create a,2 write a 4+3,3 truncate a 5,4 syncdata a,5 rename a b,6 syncdir /"
	if got := strings.Join(ops, ","); got != want {
		t.Errorf("changes: %s", got)
	}
	if got := strings.Join(reads, ","); !strings.HasPrefix(got, "6 open b,6 read b 0+") || !strings.HasSuffix(got, "6 list /") {
		t.Errorf("reads: %s", got)
	}
	if len(delays) != len(ops)+len(reads) {
		t.Errorf("%d delays for %d calls", len(delays), len(ops)+len(reads))
	}
	s.SetReadHook(func(vfs.Op) error { return syscall.EIO })
	_, err = s.Open("b")
	wantIs(t, err, syscall.EIO)
	_, err = f.ReadAt(make([]byte, 1), 0)
	wantIs(t, err, syscall.EIO)
	s.SetReadHook(nil)
	s.FailFrom(s.Ops()+1, syscall.ENOSPC)
	_, err = s.Create("c")
	wantIs(t, err, syscall.ENOSPC)
	wantIs(t, s.Remove("b"), syscall.ENOSPC)
	s.FailFrom(0, nil)
	must(t, s.Remove("b"))
}

// TestSimFaultsChangeNothing: a failed call on names leaves the disk as it was, and so does a power cut on anything.
func TestSimFaultsChangeNothing(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.EIO, vfs.ErrPowerCut} {
		s := vfs.NewSim(1, vfs.SimOptions{})
		must(t, s.MkdirAll("d"))
		f := create(t, s, "d/a")
		writeAt(t, f, "abc", 0)
		before := dump(s, "/")
		s.FailFrom(1, fault)
		calls := map[string]error{
			"remove": s.Remove("d/a"), "rename": s.Rename("d/a", "b"), "mkdir": s.MkdirAll("e"),
			"syncdir": s.SyncDir("d"), "truncate": f.Truncate(1), "sync": f.Sync(), "preallocate": f.Preallocate(3),
		}
		_, calls["create"] = s.Create("d/b")
		_, calls["lock"] = s.Lock("LOCK")
		if errors.Is(fault, vfs.ErrPowerCut) {
			_, calls["write"] = f.WriteAt([]byte("xyz"), 0)
		}
		for call, err := range calls {
			if call == "preallocate" { // nothing to do, so no call is made
				must(t, err)
				continue
			}
			if !errors.Is(err, fault) {
				t.Errorf("%s returned %v", call, err)
			}
			if _, ok := errors.AsType[*fs.PathError](err); !ok {
				t.Errorf("%s: %v does not name the file", call, err)
			}
		}
		if got := dump(s, "/"); got != before {
			t.Errorf("%v changed the disk:\n%s", fault, got)
		}
	}
}

func BenchmarkSimWriteSync(b *testing.B) {
	s := vfs.NewSim(1, vfs.SimOptions{})
	f, err := s.Create("a")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Preallocate(64 << 20); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 100<<10)
	p[0] = 1
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	var offset int64
	for b.Loop() {
		if _, err := f.WriteAt(p, offset); err != nil {
			b.Fatal(err)
		}
		if err := f.SyncData(); err != nil {
			b.Fatal(err)
		}
		if offset += int64(len(p)); offset > 63<<20 {
			offset = 0
		}
	}
}

func BenchmarkSimCrash64MiB(b *testing.B) {
	s := vfs.NewSim(1, vfs.SimOptions{})
	f, err := s.Create("a")
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Preallocate(64 << 20); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Crash(1)
	}
}
