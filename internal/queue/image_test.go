package queue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
)

// TestImageIsFrozen encodes images in other goroutines while the machine goes on: each must be what the machine was.
func TestImageIsFrozen(t *testing.T) {
	t.Parallel()
	h := newHistory(t, 11)
	var wg sync.WaitGroup
	for range 60 {
		for range 40 {
			h.entry()
		}
		img := h.machine.Snapshot()
		before := imageOf(t, h.machine)
		live := img.Live()
		wg.Go(func() {
			var b bytes.Buffer
			if _, err := img.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), before) {
				t.Errorf("image changed: %v", err)
			}
			if !img.Live().Equals(live) {
				t.Error("live set changed")
			}
			m, err := Restore(3, &b)
			if err != nil || m.Fingerprint() != img.Fingerprint() || m.Applied() != img.Applied() || m.Now() != img.Now() {
				t.Errorf("restored another machine: %v", err)
			}
		})
	}
	wg.Wait()
}

// TestImageParts writes lists that are longer than one section.
func TestImageParts(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	var out Results
	s := Settings{KeepEnded: KeepEndedMax, Retry: Retry{Kind: RetryFixed, BaseMillis: 9}}
	m.Apply(2, 2, [][]byte{AppendConfigure(nil, benchQueue, 2, &s)}, &out)
	index := uint64(3)
	for i := range uint64(300) {
		items := [][]byte{AppendEnqueue(nil, SessionID{byte(i), byte(i >> 8), 1}, i%60+1, 100, false, 0)}
		for k := range 100 {
			// Ready ones of two priorities in turn: their runs have no pattern that collapses.
			spec := Spec{Queue: benchQueue, Priority: uint8((uint64(k)*i + uint64(k)) % 3)}
			if k%10 == 0 {
				spec.ExpiresAt = 1 << 40
			}
			items = append(items, AppendJob(nil, &spec))
		}
		m.Apply(index, Millis(index), items, &out)
		m.Apply(index+1, Millis(index), [][]byte{AppendFetch(nil, 1, []QueueID{benchQueue}, 60, 0, 0)}, &out)
		var ends [][]byte
		for j, l := range out.Leases {
			if j%2 == 0 {
				ends = append(ends, AppendAck(nil, l.Pos, l.Token, "", nil))
			} else {
				ends = append(ends, AppendFail(nil, l.Pos, l.Token, &Failure{Final: j%3 == 0}))
			}
		}
		m.Apply(index+2, Millis(index), ends, &out)
		index += 3
	}
	image := imageOf(t, m)
	if len(image) < 4*sectionTargetBytes {
		t.Fatalf("image of %d bytes does not test parts", len(image))
	}
	restored, err := Restore(1, bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if err := restored.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(imageOf(t, restored), image) {
		t.Fatal("the restored machine writes another image")
	}
}

// TestImageDamage flips bits of an image, and cuts it: it must be refused, or be harmless. With -queue.commands=1000000 it
// flips every bit.
func TestImageDamage(t *testing.T) {
	t.Parallel()
	m := busyMachine(t)
	image := imageOf(t, m)
	step := 211
	if *flagCommands >= 1_000_000 {
		step = 1
	}
	for i := 0; i < len(image)*8; i += step {
		bad := slices.Clone(image)
		bad[i/8] ^= 1 << (i % 8)
		got, err := restore(3, bytes.NewReader(bad), 1<<16)
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Fatalf("bit %d: untyped error: %v", i, err)
			}
			continue
		}
		if got.Fingerprint() != m.Fingerprint() || got.CheckInvariants() != nil {
			t.Fatalf("bit %d: another machine", i)
		}
	}
	for n := 0; n < len(image); n += step {
		if _, err := restore(3, bytes.NewReader(image[:n]), 1<<16); !errors.Is(err, ErrImage) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := Restore(4, bytes.NewReader(image)); !errors.Is(err, ErrImage) {
		t.Fatalf("another shard's image: %v", err)
	}
}

func TestImageUnknownSection(t *testing.T) {
	t.Parallel()
	image := imageOf(t, New(1))
	end := len(image) - sectionHeadBytes
	image = slices.Concat(image[:end], []byte{200, 1, 0, 0, 0, 7}, image[end:])
	_, err := Restore(1, bytes.NewReader(image))
	want := "damaged image: section 200 is not known to this version; use the version that wrote it"
	if err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// TestImageSize holds the promise that waiting jobs cost nearly nothing.
func TestImageSize(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	fill(m, 1_000_000, 100)
	if n := len(imageOf(t, m)); n > 1000 {
		t.Fatalf("image of a million waiting jobs has %d bytes", n)
	}
	if live := m.Snapshot().Live(); live.GetCardinality() != 10_000 {
		t.Fatalf("%d live entries, want 10000", live.GetCardinality())
	}
}

type failingWriter struct{ left int }

var errFull = errors.New("full")

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestImageWriteError(t *testing.T) {
	t.Parallel()
	img := busyMachine(t).Snapshot()
	n, err := img.WriteTo(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []int64{0, 10, n / 2, n - 1} {
		if _, err := img.WriteTo(&failingWriter{int(left)}); !errors.Is(err, errFull) {
			t.Fatalf("%d bytes of %d fit: %v", left, n, err)
		}
	}
	if _, err := img.WriteTo(&failingWriter{int(n)}); err != nil {
		t.Fatal(fmt.Errorf("all %d bytes fit: %w", n, err))
	}
}
