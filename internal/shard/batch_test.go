package shard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func itemsOf(bodies ...string) *Items {
	it := new(Items)
	for _, b := range bodies {
		it.Commit(append(it.Buf(), b...))
	}
	return it
}

func TestBatchRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		commands := rapid.SliceOfN(rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 3000), 1, 20), 1, 10).Draw(t, "commands")
		h := Header{
			Stamp:    rapid.Int64().Draw(t, "stamp"),
			Proposer: rapid.Uint64().Draw(t, "proposer"),
			Sequence: rapid.Uint64().Draw(t, "sequence"),
		}
		var (
			b    BatchBuilder
			it   Items
			want [][]byte
		)
		for _, c := range commands {
			it.Reset()
			for _, body := range c {
				it.Add(func(dst []byte) []byte { return append(dst, body...) })
			}
			if !b.Fits(&it) {
				break
			}
			if first := b.Add(&it); first != len(want) {
				t.Fatalf("first item %d, want %d", first, len(want))
			}
			want = append(want, c...)
		}
		data := b.Seal(h)
		if shared := b.SealInPlace(h); !bytes.Equal(shared, data) {
			t.Fatal("SealInPlace and Seal differ")
		}
		got, items, err := DecodeBatch(data, nil)
		if err != nil || got != h || len(items) != len(want) {
			t.Fatalf("decoded %+v, %d items, %v; want %+v, %d items", got, len(items), err, h, len(want))
		}
		for i := range want {
			if !bytes.Equal(items[i], want[i]) {
				t.Fatalf("item %d differs", i)
			}
			hi, item, err := ReadItem(bytes.NewReader(data), i)
			if err != nil || hi != h || !bytes.Equal(item, want[i]) {
				t.Fatalf("ReadItem(%d): %+v, %v", i, hi, err)
			}
		}
		if _, _, err := ReadItem(bytes.NewReader(data), len(want)); !errors.Is(err, ErrNoItem) {
			t.Fatalf("an ordinal past the end gives %v", err)
		}
	})
}

func TestBatchLimits(t *testing.T) {
	t.Parallel()
	sized := func(n int) *Items { return itemsOf(strings.Repeat("x", n)) }
	counted := func(n int) *Items {
		it := new(Items)
		for range n {
			it.Commit(append(it.Buf(), 'x'))
		}
		return it
	}
	for _, tc := range []struct {
		name  string
		first *Items
		next  *Items
		fits  bool
	}{
		{"largest command alone", nil, sized(CommandBytesMax), true},
		{"one byte over the largest command", nil, sized(CommandBytesMax + 1), false},
		{"up to the target", sized(1), sized(EntryTargetBytes - 1), true},
		{"one byte over the target", sized(1), sized(EntryTargetBytes), false},
		{"most items alone", nil, counted(BatchItemsMax), true},
		{"one item too many alone", nil, counted(BatchItemsMax + 1), false},
		{"most items together", counted(1), counted(BatchItemsMax - 1), true},
		{"one item too many together", counted(1), counted(BatchItemsMax), false},
	} {
		var b BatchBuilder
		if tc.first != nil {
			b.Add(tc.first)
		}
		if got := b.Fits(tc.next); got != tc.fits {
			t.Errorf("%s: fits %v", tc.name, got)
		}
		if !tc.fits {
			continue
		}
		b.Add(tc.next)
		data := b.Seal(Header{Sequence: 1})
		if len(data) > BatchBytesMax {
			t.Errorf("%s: %d bytes are over BatchBytesMax", tc.name, len(data))
		}
		if _, items, err := DecodeBatch(data, nil); err != nil || len(items) != b.Items() {
			t.Errorf("%s: %d items, %v", tc.name, len(items), err)
		}
	}
}

// Every flipped bit is noticed: in header and table by DecodeBatch and ReadItem, in an item by ReadItem of that item.
func TestBatchFlippedBits(t *testing.T) {
	t.Parallel()
	var b BatchBuilder
	b.Add(itemsOf("first", "", "third item"))
	data := b.Seal(Header{Stamp: 1, Proposer: 2, Sequence: 3})
	headSize, err := headBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(data) * 8 {
		data[bit/8] ^= 1 << (bit % 8)
		if bit/8 < headSize {
			if _, _, err := DecodeBatch(data, nil); err == nil {
				t.Errorf("bit %d of the head: not noticed", bit)
			}
		}
		var damaged int
		for i := range 3 {
			var de *DamagedItemError
			if _, _, err := ReadItem(bytes.NewReader(data), i); errors.As(err, &de) && de.Header == (bit/8 < headSize) {
				damaged++
			}
		}
		if want := map[bool]int{true: 3, false: 1}[bit/8 < headSize]; damaged != want {
			t.Errorf("bit %d: %d of 3 items reported damaged, want %d", bit, damaged, want)
		}
		data[bit/8] ^= 1 << (bit % 8)
	}
	for n := range len(data) {
		if _, _, err := DecodeBatch(data[:n], nil); err == nil {
			t.Errorf("cut to %d bytes: not noticed", n)
		}
	}
}

// TestBatchVersion: a batch is of the first version, which all machines read, unless an item needs another one.
func TestBatchVersion(t *testing.T) {
	t.Parallel()
	var b BatchBuilder
	newer := itemsOf("newer")
	newer.Version = BatchVersion
	for _, c := range []struct {
		commands []*Items
		want     uint8
	}{
		{[]*Items{itemsOf("a"), itemsOf("b")}, BatchVersionFirst},
		{[]*Items{itemsOf("a"), newer, itemsOf("b")}, BatchVersion},
		{[]*Items{itemsOf("a")}, BatchVersionFirst},
	} {
		b.Reset()
		for _, it := range c.commands {
			b.Add(it)
		}
		data := b.Seal(Header{Stamp: 1, Proposer: 2, Sequence: 3})
		if _, items, err := DecodeBatch(data, nil); data[0] != c.want || err != nil || len(items) != len(c.commands) {
			t.Errorf("%d commands: version %d, want %d; %d items, %v", len(c.commands), data[0], c.want, len(items), err)
		}
	}
	newer.Reset()
	if newer.Version != 0 {
		t.Error("a command that was reset needs the version of the one before")
	}
}

// TestNewerBatch: a batch of a newer version is refused as such by every reader, and never called damaged.
func TestNewerBatch(t *testing.T) {
	t.Parallel()
	var b BatchBuilder
	b.Add(itemsOf("first", "second"))
	data := b.Seal(Header{Stamp: 1, Proposer: 2, Sequence: 3})
	headSize, err := headBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	data[0] = BatchVersion + 1
	clear(data[4:8])
	binary.LittleEndian.PutUint32(data[4:], crc32.Checksum(data[:headSize], castagnoli))
	_, _, decode := DecodeBatch(data, nil)
	_, open := OpenBatch(data)
	_, _, at := ItemAt(data, 1)
	_, _, read := ReadItem(bytes.NewReader(data), 1)
	for name, err := range map[string]error{"DecodeBatch": decode, "OpenBatch": open, "ItemAt": at, "ReadItem": read} {
		if newer, ok := errors.AsType[*NewerBatchError](err); !ok || newer.Version != BatchVersion+1 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReadItemPassesErrorsThrough(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken disk")
	if _, _, err := ReadItem(failingReader{broken}, 0); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func FuzzDecodeBatch(f *testing.F) {
	var b BatchBuilder
	b.Add(itemsOf("a", "bc", ""))
	f.Add(b.Seal(Header{Stamp: 5, Proposer: 1, Sequence: 9}), 1)
	f.Add([]byte{}, 0)
	f.Add(bytes.Repeat([]byte{1}, 60), -1)
	f.Fuzz(func(t *testing.T, data []byte, ordinal int) {
		h, items, err := DecodeBatch(data, nil)
		hr, item, errRead := ReadItem(bytes.NewReader(data), ordinal)
		ha, itemAt, errAt := ItemAt(data, ordinal)
		if (errRead == nil) != (errAt == nil) || hr != ha || !bytes.Equal(item, itemAt) {
			t.Fatalf("ReadItem and ItemAt disagree: %v, %v", errRead, errAt)
		}
		if err != nil {
			if _, ok := errors.AsType[*BatchError](err); !ok {
				t.Fatalf("an error of another type: %v", err)
			}
			return
		}
		if ordinal >= 0 && ordinal < len(items) && errRead == nil && (hr != h || !bytes.Equal(item, items[ordinal])) {
			t.Fatal("ReadItem and DecodeBatch disagree")
		}
		// A batch that decodes is what its items encode to.
		var (
			again BatchBuilder
			it    Items
		)
		for _, body := range items {
			it.Commit(append(it.Buf(), body...))
		}
		if again.Fits(&it) && errRead == nil && len(again.rows) == 0 {
			again.Add(&it)
			_, back, err := DecodeBatch(again.Seal(h), nil)
			if err != nil || fmt.Sprint(back) != fmt.Sprint(items) {
				t.Fatalf("does not survive a round trip: %v", err)
			}
		}
	})
}

func BenchmarkBatch(b *testing.B) {
	it := itemsOf(strings.Repeat("x", 1024), strings.Repeat("y", 64))
	var (
		builder BatchBuilder
		items   [][]byte
		err     error
	)
	commands := 0
	b.ReportAllocs()
	for b.Loop() {
		builder.Reset()
		for builder.Fits(it) {
			builder.Add(it)
			commands++
		}
		if _, items, err = DecodeBatch(builder.SealInPlace(Header{Sequence: 1}), items[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(commands), "ns/command")
}

var _ io.ReaderAt = bytesAt(nil)

func TestBatchItems(t *testing.T) {
	var b BatchBuilder
	var it Items
	for _, body := range []string{"one", "", "three"} {
		it.Commit(append(it.Buf(), body...))
	}
	b.Add(&it)
	data := b.Seal(Header{Stamp: 7, Proposer: 8, Sequence: 9})
	batch, err := OpenBatch(data)
	if err != nil || batch.Header != (Header{Stamp: 7, Proposer: 8, Sequence: 9}) {
		t.Fatalf("opened %+v: %v", batch.Header, err)
	}
	for i, want := range []string{"one", "", "three"} {
		if got, err := batch.Item(i); err != nil || string(got) != want {
			t.Errorf("item %d is %q: %v; want %q", i, got, err, want)
		}
	}
	for _, ordinal := range []int{-1, 3, 4096} {
		if _, err := batch.Item(ordinal); !errors.Is(err, ErrNoItem) {
			t.Errorf("item %d: %v; want ErrNoItem", ordinal, err)
		}
	}
	data[len(data)-1] ^= 1
	if _, err := batch.Item(2); err == nil || errors.Is(err, ErrNoItem) {
		t.Errorf("a damaged item is handed out: %v", err)
	}
	if _, err := batch.Item(0); err != nil {
		t.Errorf("damage of another item: %v", err)
	}
	for cut := range len(data) {
		if short, err := OpenBatch(data[:cut]); err == nil {
			if _, err := short.Item(2); err == nil {
				t.Errorf("cut at %d, the last item is handed out", cut)
			}
		}
	}
}
