package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/beaver-raft/beaver/internal/vfs"
)

const testDir = "shard/0007"

func testMeta(index uint64) Meta {
	return Meta{
		Shard: 7, Index: index, Term: index / 2, ConfState: []byte("voters 1 2 3"),
		Fingerprint: index * 0x9e3779b97f4a7c15, MachineVersion: 3,
	}
}

// testContent is what snapshot index holds in these tests.
func testContent(index uint64, size int) []byte {
	rng := rand.New(rand.NewPCG(index, 1))
	p := make([]byte, size)
	for i := range min(size, 4001) { // a length that divides no page and no chunk, so pieces in wrong places differ
		p[i] = byte(rng.Uint32())
	}
	for done := 4001; done < size; done *= 2 {
		copy(p[done:], p[:done])
	}
	return p
}

func encodeBytes(p []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(p)
		return err
	}
}

func mustWrite(t testing.TB, fsys vfs.FS, index uint64, size int) {
	t.Helper()
	if _, err := Write(fsys, testDir, testMeta(index), encodeBytes(testContent(index, size))); err != nil {
		t.Fatal(err)
	}
}

// load returns the index and content of what Load finds, having checked that all of it belongs together.
func load(fsys vfs.FS, size int) (index uint64, damages []Damage, err error) {
	l, damages, err := Load(fsys, testDir)
	if err != nil {
		return 0, damages, err
	}
	got, err := io.ReadAll(l.Content)
	if err != nil {
		return 0, damages, err
	}
	if err := l.Close(); err != nil {
		return 0, damages, err
	}
	if !reflect.DeepEqual(l.Meta, testMeta(l.Meta.Index)) || !bytes.Equal(got, testContent(l.Meta.Index, size)) {
		return 0, damages, fmt.Errorf("snapshot %d is not what was written", l.Meta.Index)
	}
	return l.Meta.Index, damages, nil
}

func wantLoad(t *testing.T, fsys vfs.FS, size int, want uint64, wantDamages int) {
	t.Helper()
	index, damages, err := load(fsys, size)
	if err != nil || index != want || len(damages) != wantDamages {
		t.Fatalf("loaded %d with %d damages %v: %v; want %d with %d", index, len(damages), damages, err, want, wantDamages)
	}
}

func names(t *testing.T, fsys vfs.FS) []string {
	t.Helper()
	list, err := fsys.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestWriteAndLoad(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, chunkBytesMax - 1, chunkBytesMax, chunkBytesMax + 1, 3*chunkBytesMax + 77}
	for _, size := range sizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			for _, fsys := range []vfs.FS{vfs.NewSim(1, vfs.SimOptions{}), rooted{vfs.OS(), filepath.ToSlash(t.TempDir())}} {
				_, _, err := Load(fsys, testDir)
				if !errors.Is(err, ErrNone) {
					t.Fatalf("no directory: %v", err)
				}
				content := testContent(5, size)
				n, err := Write(fsys, testDir, testMeta(5), func(w io.Writer) error {
					_, err := io.Copy(w, iotest.HalfReader(bytes.NewReader(content)))
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				wantLoad(t, fsys, size, 5, 0)
				l, _, err := Load(fsys, testDir)
				if err != nil || l.Bytes != n {
					t.Fatalf("%d bytes loaded, %d written, %v", l.Bytes, n, err)
				}
				if err := iotest.TestReader(l.Content, content); err != nil {
					t.Error(err)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// rooted puts all names below a directory.
type rooted struct {
	vfs.FS
	root string
}

func (r rooted) Create(name string) (vfs.File, error) { return r.FS.Create(r.root + "/" + name) }
func (r rooted) Open(name string) (vfs.File, error)   { return r.FS.Open(r.root + "/" + name) }
func (r rooted) Remove(name string) error             { return r.FS.Remove(r.root + "/" + name) }
func (r rooted) Rename(a, b string) error             { return r.FS.Rename(r.root+"/"+a, r.root+"/"+b) }
func (r rooted) MkdirAll(dir string) error            { return r.FS.MkdirAll(r.root + "/" + dir) }
func (r rooted) List(dir string) ([]string, error)    { return r.FS.List(r.root + "/" + dir) }
func (r rooted) Stat(name string) (vfs.Info, error)   { return r.FS.Stat(r.root + "/" + name) }
func (r rooted) SyncDir(dir string) error             { return r.FS.SyncDir(r.root + "/" + dir) }

func TestWriteIsFewLargeWrites(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, sim, 1, 0)
	var writes []int64
	var ops []string
	sim.SetHook(func(op vfs.Op) error {
		ops = append(ops, op.Kind.String())
		if op.Kind == vfs.OpWrite {
			writes = append(writes, op.Length)
		}
		return nil
	})
	mustWrite(t, sim, 2, 3*chunkBytesMax+1)
	for _, n := range writes[:len(writes)-1] {
		if n < 256<<10 {
			t.Errorf("writes of %v bytes", writes)
		}
	}
	if got := strings.Join(ops, " "); got != "create write write write write sync rename syncdir" {
		t.Errorf("calls: %s", got)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	m := testMeta(1)
	m.ConfState = make([]byte, ConfStateBytesMax)
	if _, err := Write(sim, testDir, m, encodeBytes(nil)); err != nil {
		t.Fatal(err)
	}
	l, _, err := Load(sim, testDir)
	if err != nil || len(l.Meta.ConfState) != ConfStateBytesMax {
		t.Fatal(err)
	}
	m.ConfState = make([]byte, ConfStateBytesMax+1)
	if _, err := Write(sim, testDir, m, encodeBytes(nil)); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one byte too many: %v", err)
	}

	var sink discardAt
	w := newChunkWriter(&sink, 1, nil)
	w.number = chunksMax - 2
	if _, err := w.Write(make([]byte, chunkBytesMax)); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(); err != nil {
		t.Fatalf("as many chunks as there may be: %v", err)
	}
	w = newChunkWriter(&sink, 1, nil)
	w.number = chunksMax - 1
	if _, err := w.Write(make([]byte, chunkBytesMax)); err != nil {
		t.Fatal(err)
	}
	if err := w.finish(); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("one chunk too many: %v", err)
	}
}

type discardAt struct{}

func (*discardAt) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestEncoderErrorLeavesNothing(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, sim, 1, 100)
	boom := errors.New("boom")
	_, err := Write(sim, testDir, testMeta(2), func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 2*chunkBytesMax))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if got := names(t, sim); len(got) != 1 {
		t.Fatalf("left %v", got)
	}
	wantLoad(t, sim, 100, 1, 0)
}

// TestEveryFlippedBitAndTruncation: whatever single bit of a file flips, and wherever it is cut or lengthened, the
// file is not loaded, the one before it is, and pruning leaves it for inspection.
func TestEveryFlippedBitAndTruncation(t *testing.T) {
	t.Parallel()
	const size = 300
	base := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, base, 4, size)
	mustWrite(t, base, 9, size)
	path := testDir + "/" + fileName(9)
	info, err := base.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, sim *vfs.Sim) {
		t.Helper()
		index, damages, err := load(sim, size)
		if err != nil || index != 4 || len(damages) != 1 || damages[0].Path != path || damages[0].Reason == "" {
			t.Fatalf("%s: loaded %d, damages %v, %v", what, index, damages, err)
		}
	}
	for offset := range info.Size {
		for bit := range uint(8) {
			sim := base.CrashClone(vfs.AllLost())
			if err := sim.FlipBit(path, offset, bit); err != nil {
				t.Fatal(err)
			}
			check(fmt.Sprintf("bit %d of byte %d", bit, offset), sim)
		}
		sim := base.CrashClone(vfs.AllLost())
		resize(t, sim, path, offset)
		check(fmt.Sprintf("cut at %d", offset), sim)
		resize(t, sim, path, info.Size)
		if _, _, err := load(sim, size); err != nil { // 9 again if only zeros were cut
			t.Fatalf("cut at %d and grown again: %v", offset, err)
		}
	}
	for _, more := range []int64{1, 7, 4096} {
		sim := base.CrashClone(vfs.AllLost())
		resize(t, sim, path, info.Size+more)
		check(fmt.Sprintf("%d bytes longer", more), sim)
	}
}

func resize(t *testing.T, fsys vfs.FS, path string, size int64) {
	t.Helper()
	f, err := fsys.OpenReadWrite(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	const size = 2*chunkBytesMax + 500
	path := func(index uint64) string { return testDir + "/" + fileName(index) }
	copyFile := func(t *testing.T, sim *vfs.Sim, from, to uint64, at, length, toAt int64) {
		t.Helper()
		src, err := sim.Open(path(from))
		if err != nil {
			t.Fatal(err)
		}
		dst, err := sim.OpenReadWrite(path(to))
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, length)
		if _, err := src.ReadAt(p, at); err != nil {
			t.Fatal(err)
		}
		if _, err := dst.WriteAt(p, toAt); err != nil {
			t.Fatal(err)
		}
	}
	start := int64(prefixBytes + fixedHeaderBytes + len(testMeta(1).ConfState) + crcBytes)
	const chunk = chunkHeaderBytes + chunkBytesMax
	for _, tc := range []struct {
		name string
		harm func(t *testing.T, sim *vfs.Sim)
		want string
	}{
		{"a file under another's name", func(t *testing.T, sim *vfs.Sim) {
			if err := sim.Rename(path(1), path(3)); err != nil {
				t.Fatal(err)
			}
		}, "named for index 3 and holds index 1"},
		{"an empty file", func(t *testing.T, sim *vfs.Sim) { resize(t, sim, path(3), 0) }, "cut short"},
		{"a chunk of another snapshot", func(t *testing.T, sim *vfs.Sim) {
			copyFile(t, sim, 2, 3, start, chunk, start)
		}, "a chunk of snapshot 2"},
		{"a chunk in another's place", func(t *testing.T, sim *vfs.Sim) {
			copyFile(t, sim, 3, 3, start, chunk, start+chunk)
		}, "chunk 0 where chunk 1 is due"},
		{"a payload of another chunk", func(t *testing.T, sim *vfs.Sim) {
			copyFile(t, sim, 3, 3, start+chunkHeaderBytes, 4096, start+chunk+chunkHeaderBytes)
		}, "wrong checksum of a chunk"},
		{"an unreadable sector", func(_ *testing.T, sim *vfs.Sim) {
			sim.SetReadHook(func(op vfs.Op) error {
				if op.Kind == vfs.OpRead && op.Name == path(3) && op.Offset > start+chunk {
					return syscall.EIO
				}
				return nil
			})
		}, "the disk cannot read it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			sim := vfs.NewSim(1, vfs.SimOptions{})
			for index := range uint64(3) {
				mustWrite(t, sim, index+1, size)
			}
			tc.harm(t, sim)
			index, damages, err := load(sim, size)
			if err != nil || index != 2 || len(damages) != 1 || !strings.Contains(damages[0].Reason, tc.want) {
				t.Fatalf("loaded %d, %v, damages %v", index, err, damages)
			}
			before := names(t, sim)
			if err := Prune(sim, testDir, 2); err != nil || !slices.Equal(names(t, sim), before) {
				t.Fatalf("pruning left %v, %v", names(t, sim), err)
			}
		})
	}
}

func TestAllDamaged(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	for index := range uint64(2) {
		mustWrite(t, sim, index+1, 10)
		resize(t, sim, testDir+"/"+fileName(index+1), 60)
	}
	l, damages, err := Load(sim, testDir)
	if l != nil || !errors.Is(err, ErrAllDamaged) || errors.Is(err, ErrNone) || len(damages) != 2 {
		t.Fatalf("%v %v %v", l, damages, err)
	}
	if len(names(t, sim)) != 2 {
		t.Fatal("a damaged file is gone")
	}
}

// TestReadErrorIsNotDamage: trouble that is not about the file must not make Load go back in time.
func TestReadErrorIsNotDamage(t *testing.T) {
	t.Parallel()
	for _, kind := range []vfs.OpKind{vfs.OpOpen, vfs.OpRead, vfs.OpList} {
		sim := vfs.NewSim(1, vfs.SimOptions{})
		mustWrite(t, sim, 1, 10)
		mustWrite(t, sim, 2, 10)
		sim.SetReadHook(func(op vfs.Op) error {
			if op.Kind == kind {
				return syscall.EMFILE
			}
			return nil
		})
		_, damages, err := Load(sim, testDir)
		if !errors.Is(err, syscall.EMFILE) || len(damages) != 0 {
			t.Errorf("%v: %v %v", kind, damages, err)
		}
	}
}

func TestNewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, sim, 1, 10)
	mustWrite(t, sim, 2, 10)
	path := testDir + "/" + fileName(2)
	f, err := sim.OpenReadWrite(path)
	if err != nil {
		t.Fatal(err)
	}
	prefix := binary.LittleEndian.AppendUint32([]byte(magic), formatVersion+1)
	prefix = binary.LittleEndian.AppendUint32(prefix, crc(prefix))
	if _, err := f.WriteAt(append(prefix, "a layout not known yet"...), 0); err != nil {
		t.Fatal(err)
	}
	_, _, err = Load(sim, testDir)
	newer, ok := errors.AsType[*VersionError](err)
	if !ok || newer.Path != path || newer.Version != formatVersion+1 || newer.Known != formatVersion {
		t.Fatalf("Load: %v", err)
	}
	mustWrite(t, sim, 3, 10)
	if err := Prune(sim, testDir, 1); err != nil {
		t.Fatal(err)
	}
	files, err := List(sim, testDir)
	if err != nil || len(files) != 2 || files[0].Err != nil || !errors.As(files[1].Err, &newer) {
		t.Fatalf("List: %+v %v", files, err)
	}
}

func TestPruneAndList(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	if err := Prune(sim, testDir, 2); err != nil {
		t.Fatal(err)
	}
	for index := range uint64(6) {
		mustWrite(t, sim, index+1, 10)
	}
	for _, name := range []string{"notes.txt", fileName(3)[1:], "x" + fileName(3)[1:], "99999999999999999999" + fileSuffix} {
		f, err := sim.Create(testDir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	resize(t, sim, testDir+"/"+fileName(5), 50)
	if err := Prune(sim, testDir, 0); err != nil {
		t.Fatal(err)
	}
	files, err := List(sim, testDir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		state := "good"
		if f.Err != nil {
			state = "damaged"
		} else if !reflect.DeepEqual(f.Meta, testMeta(f.Index)) || f.Bytes == 0 {
			t.Errorf("%+v", f)
		}
		got = append(got, fmt.Sprintf("%d %s", f.Index, state))
	}
	if want := []string{"6 good", "5 damaged", "4 good"}; !slices.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	sim = sim.CrashClone(vfs.AllLost())
	wantLoad(t, sim, 10, 6, 0)
	if n := len(names(t, sim)); n != 7 { // with the four foreign ones
		t.Fatalf("%v", names(t, sim))
	}
}

// TestDamageAfterTheCheck: the disk may change its mind between the check and the reading.
func TestDamageAfterTheCheck(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, sim, 1, 3*chunkBytesMax)
	l, _, err := Load(sim, testDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.FlipBit(l.Path, 2*chunkBytesMax, 3); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(l.Content)
	if damage, ok := errors.AsType[*Damage](err); !ok || damage.Path != l.Path || len(got) != chunkBytesMax {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
