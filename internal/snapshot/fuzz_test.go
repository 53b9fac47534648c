package snapshot

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// fileBytes is the file of a snapshot.
func fileBytes(tb testing.TB, m Meta, content []byte) []byte {
	tb.Helper()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	n, err := Write(sim, testDir, m, encodeBytes(content))
	if err != nil {
		tb.Fatal(err)
	}
	f, err := sim.Open(testDir + "/" + fileName(m.Index))
	if err != nil {
		tb.Fatal(err)
	}
	p := make([]byte, n)
	if _, err := f.ReadAt(p, 0); err != nil {
		tb.Fatal(err)
	}
	return p
}

// FuzzFile: any bytes under a snapshot's name are damage, a newer version, or exactly what Write would have written.
func FuzzFile(f *testing.F) {
	const index = 77
	f.Add(fileBytes(f, testMeta(index), []byte("hot state")))
	f.Add(fileBytes(f, testMeta(index), nil))
	f.Add(fileBytes(f, Meta{Index: index}, bytes.Repeat([]byte("ab"), 3000)))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		sim := vfs.NewSim(1, vfs.SimOptions{})
		if err := sim.MkdirAll(testDir); err != nil {
			t.Fatal(err)
		}
		file, err := sim.Create(testDir + "/" + fileName(index))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
		l, damages, err := Load(sim, testDir)
		if err != nil {
			_, newer := errors.AsType[*VersionError](err)
			if !newer && (!errors.Is(err, ErrAllDamaged) || len(damages) != 1) {
				t.Fatalf("damages %v, %v", damages, err)
			}
			return
		}
		content, err := io.ReadAll(l.Content)
		if err != nil {
			t.Fatalf("checked, then: %v", err)
		}
		if want := fileBytes(t, l.Meta, content); !bytes.Equal(want, data) {
			t.Fatalf("accepted %d bytes that Write does not write", len(data))
		}
	})
}

// FuzzChunks cuts a file's content into other pieces and orders: the checksums are right, the places are not.
func FuzzChunks(f *testing.F) {
	f.Add([]byte{0, 1, 2}, uint8(3))
	f.Add([]byte{2, 1, 0}, uint8(1))
	f.Add([]byte{0, 0}, uint8(200))
	f.Fuzz(func(t *testing.T, order []byte, length uint8) {
		var data []byte
		header, err := appendHeader(nil, Meta{Index: 1})
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, header...)
		inOrder := true
		for i, number := range order {
			inOrder = inOrder && int(number) == i
			payload := bytes.Repeat([]byte{number}, int(length))
			data = appendChunk(data, chunkHeader{kindData, uint32(number), uint32(len(payload)), 1, crc(payload)}, payload)
		}
		total := []byte{byte(len(order) * int(length)), byte(len(order) * int(length) >> 8), 0, 0, 0, 0, 0, 0}
		data = appendChunk(data, chunkHeader{kindEnd, uint32(len(order)), endBytes, 1, crc(total)}, total)
		r := bytes.NewReader(data)
		got, err := io.ReadAll(newChunkReader(r, "f", int64(len(data)), int64(len(header)), 1))
		good := inOrder && (length > 0 || len(order) == 0) && len(order)*int(length) < 1<<16
		if good != (err == nil) {
			t.Fatalf("order %v, length %d: %d bytes, %v", order, length, len(got), err)
		}
	})
}

func appendChunk(dst []byte, h chunkHeader, payload []byte) []byte {
	var header [chunkHeaderBytes]byte
	putChunkHeader(header[:], h)
	return append(append(dst, header[:]...), payload...)
}

func BenchmarkWrite16MiB(b *testing.B) { benchmarkWrite(b, vfs.OS(), b.TempDir()) }

func benchmarkWrite(b *testing.B, fsys vfs.FS, dir string) {
	content := testContent(1, 16<<20)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	var index uint64
	for b.Loop() {
		index++
		if _, err := Write(fsys, dir, Meta{Index: index}, encodeBytes(content)); err != nil {
			b.Fatal(err)
		}
		if index > KeepDefault {
			if err := fsys.Remove(dir + "/" + fileName(index-KeepDefault)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkLoad16MiB(b *testing.B) {
	fsys, dir := vfs.OS(), b.TempDir()
	content := testContent(1, 16<<20)
	if _, err := Write(fsys, dir, Meta{Index: 1}, encodeBytes(content)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		l, _, err := Load(fsys, dir)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, l.Content); err != nil {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
