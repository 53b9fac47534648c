package chaos

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// frameBytes is the size of a frame without data, such as the mark at the end of a log that was closed on purpose.
const frameBytes = 48

// tailFile reads the newest file of a node's log, and where it ends.
func (f *fleet) tailFile(node int) (name string, b []byte, end int) {
	f.t.Helper()
	names, err := filepath.Glob(filepath.Join(f.nodes[node].dataDir, "log", "tail", "*.wal"))
	if err != nil || len(names) == 0 {
		f.t.Fatal(names, err)
	}
	name = slices.Max(names)
	if b, err = os.ReadFile(name); err != nil {
		f.t.Fatal(err)
	}
	end = len(bytes.TrimRight(b, "\x00"))
	return name, b, (end + 7) &^ 7
}

// harm damages a file of which so many bytes are used, and tells what it did; nil removes it.
type harm func(rng *rand.Rand, b []byte, end int) string

func flipBit(rng *rand.Rand, b []byte, end int) string {
	at := rng.IntN(end)
	b[at] ^= 1 << rng.IntN(8)
	return fmt.Sprintf("a bit of byte %d of %d", at, end)
}

func scramble(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}

func harmSector(rng *rand.Rand, b []byte, end int) string {
	at := rng.IntN(end-frameBytes) &^ 511
	scramble(rng, b[at:min(at+512, end-frameBytes)])
	return fmt.Sprintf("512 bytes from %d of %d", at, end)
}

// harmAll leaves the mark at the end alone, which proves that there was something.
func harmAll(rng *rand.Rand, b []byte, end int) string {
	scramble(rng, b[:end-frameBytes])
	return "everything"
}

// TestDamagedLogs: a node whose log was damaged while it was down starts, heals from the others, and has the state that they have.
// When nothing is left of what it promised, as when the file is gone, it comes back under other ids by itself.
func TestDamagedLogs(t *testing.T) {
	seed := numberFromEnv(t, "BEAVER_CHAOS_SEED", uint64(time.Now().UnixNano()))
	t.Logf("BEAVER_CHAOS_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	f := newFleet(t)
	flags := f.bootstrap()
	stored := uint64(0)
	harms := []harm{flipBit, flipBit, flipBit, harmSector, harmAll, nil}
	for round, harm := range harms {
		victim, other := round%3+1, (round+1)%3+1
		f.enqueue(victim, 40)
		f.signal(victim, syscall.SIGTERM)
		f.enqueue(other, 20)
		stored += 60
		name, b, end := f.tailFile(victim)
		var err error
		if harm == nil {
			t.Logf("node %d: %s is removed", victim, filepath.Base(name))
			err = os.Remove(name)
		} else {
			t.Logf("node %d: %s of %s is damaged", victim, harm(rng, b, end), filepath.Base(name))
			err = os.WriteFile(name, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.start(victim, flags(victim)...)
		f.ready(victim)
		info := f.until(victim, "the cluster is whole", func(info *beaver.ClusterInfo) bool { return whole(info, 3) })
		f.agree(1, 2, 3)
		f.wants(stored, 1, 2, 3)
		for _, s := range info.Shards {
			for _, m := range s.Members {
				if int(m.NodeID) == victim && round >= len(harms)-2 && !strings.Contains(m.Replica, "@") {
					t.Errorf("shard %d: node %d is still %s, who may have voted", s.ID, victim, m.Replica)
				}
			}
		}
	}
}
