package wal

import (
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// passingFaults make one call in twelve fail, while they are on, with what may pass.
type passingFaults struct {
	rng *rand.Rand
	on  bool
}

func (f *passingFaults) hook(op vfs.Op) error {
	if !f.on || f.rng.IntN(12) > 0 {
		return nil
	}
	switch op.Kind {
	case vfs.OpCreate:
		return []error{syscall.EMFILE, syscall.ENOSPC}[f.rng.IntN(2)]
	case vfs.OpOpen:
		return syscall.EMFILE
	case vfs.OpWrite:
		return syscall.ENOSPC
	default:
		return nil
	}
}

func (f *passingFaults) strike(sim *vfs.Sim) {
	sim.SetHook(f.hook)
	sim.SetReadHook(f.hook)
}

// Whatever passing fault meets Maintain, nothing live is lost, and when it has passed no file is left that nobody knows.
func TestKeepingUnderPassingFaults(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 5))
		f := &passingFaults{rng: rng}
		opts := Options{FileBytes: 4096, ReserveBytes: 1, KeepAbove: 1 + rng.IntN(60), CompactBelow: 1 + rng.IntN(90)}
		k := newKeptLog(t)
		k.log, k.sim = openSim(t, opts)
		f.strike(k.sim)
		for range 30 {
			k.putSome(rng)
			f.on = true
			k.maintainSome(rng)
			f.on = false
			k.checkReads(k.log, "with faults")
			if rng.IntN(5) == 0 {
				k.crash(rng, f, opts)
			}
		}
		k.roll()
		k.tell(k.log)
		mustFlush(t, k.log)
		for range 12 {
			maintained(t, k.log)
		}
		k.check(k.log, "healed")
		st := k.log.Stats()
		if n := k.spareFiles(); n != st.SpareFiles || st.KeptFiles != len(keptNames(t, k.sim)) || st.KeptBytes != 4096*int64(st.KeptFiles) {
			t.Fatalf("seed %d: %d spares, kept %v, and stats are %+v", seed, n, keptNames(t, k.sim), st)
		}
		if err := k.log.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// putSome appends to both shards, and kills some of what there was.
func (k *keptLog) putSome(rng *rand.Rand) {
	k.t.Helper()
	for _, shard := range []ShardID{1, 2} {
		last := k.log.State(shard).Last
		k.put(shard, 1, last+1, last+1+uint64(rng.IntN(25)))
		for index := range last {
			if rng.IntN(8) == 0 {
				k.kill(shard, index+1)
			}
		}
	}
	if rng.IntN(2) == 0 {
		k.roll()
	}
	k.tell(k.log)
	mustFlush(k.t, k.log)
}

// maintainSome takes some steps, which may meet what passes.
func (k *keptLog) maintainSome(rng *rand.Rand) {
	k.t.Helper()
	for range rng.IntN(40) {
		if rng.IntN(25) == 0 {
			k.log.Distrust(1)
			k.tell(k.log)
		}
		if _, err := k.log.Maintain(); err != nil && !errors.Is(err, ErrRetry) && !errors.Is(err, ErrDiskFull) {
			k.t.Fatal(err)
		}
	}
}

// crash opens what a crash leaves, and goes on there or here.
func (k *keptLog) crash(rng *rand.Rand, f *passingFaults, opts Options) {
	k.t.Helper()
	sim := k.sim.CrashClone([]vfs.Outcome{vfs.AllLost(), vfs.Killed(), vfs.Mixed(rng.Uint64())}[rng.IntN(3)])
	l, found := reopenSim(k.t, sim, opts)
	if found.Damage != nil {
		k.t.Fatalf("%+v", found)
	}
	k.tell(l)
	mustFlush(k.t, l)
	old := l
	if rng.IntN(2) == 0 {
		old, k.log, k.sim = k.log, l, sim
		f.strike(sim)
	} else {
		maintained(k.t, l)
		k.check(l, "after a crash")
	}
	if err := old.Close(); err != nil {
		k.t.Fatal(err)
	}
}

// spareFiles counts the spares on the disk.
func (k *keptLog) spareFiles() (n int) {
	k.t.Helper()
	names, err := k.sim.List("log/tail")
	if err != nil {
		k.t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, sparePrefix) {
			n++
		}
	}
	return n
}
