package founding

import (
	"errors"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func TestRunAfter(t *testing.T) {
	begun := Run{Node: 2, Address: "b:1", Count: 5, Nonce: cluster.Nonce{5}, Begun: true}
	for _, c := range []struct {
		name    string
		run     Run
		refused bool
	}{
		{"the next one", Run{Node: 2, Count: 6, Nonce: cluster.Nonce{6}}, false},
		{"one whose predecessors told nobody", Run{Node: 2, Count: 9, Nonce: cluster.Nonce{9}}, false},
		{"the same", Run{Node: 2, Count: 5, Nonce: cluster.Nonce{5}, Begun: true}, false},
		{"of the directory as it was before", Run{Node: 2, Count: 5, Nonce: cluster.Nonce{50}}, true},
		{"of an older one", Run{Node: 2, Count: 1, Nonce: cluster.Nonce{1}}, true},
	} {
		if why := c.run.After(&begun); (why != "") != c.refused {
			t.Errorf("%s: %q", c.name, why)
		}
	}
}

// TestRuns: the count survives a crash at every call of its writing, as it was or as it is to be, and damage is told.
func TestRuns(t *testing.T) {
	for at := uint64(1); ; at++ {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		if err := disk.MkdirAll("data"); err != nil {
			t.Fatal(err)
		}
		if n, err := ReadRuns(disk, "data"); n != 0 || err != nil {
			t.Fatalf("a new directory: %d, %v", n, err)
		}
		if err := WriteRuns(disk, "data", 1); err != nil {
			t.Fatal(err)
		}
		disk.FailFrom(disk.Ops()+at, errors.New("no more"))
		failed := WriteRuns(disk, "data", 2)
		n, err := ReadRuns(disk.Crash(at), "data")
		if err != nil || n != 2 && (n != 1 || failed == nil) {
			t.Fatalf("fails at %d: %v, then %d, %v", at, failed, n, err)
		}
		if failed == nil {
			break
		}
	}
	b := encodeRuns(7)
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if n, reason := decodeRuns(b); reason == "" {
			t.Fatalf("bit %d is wrong, and it is read as %d", i, n)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}
