package wal_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// These tests know the log from outside only. They drive a scripted workload of two shards over the
// simulated disk (appends, conflicts, hard states, flushes, retentions, rotations, compactions, reopening) beside a naive
// model: the stream of everything appended. After any crash the log must equal the model after some beginning of
// that stream which contains all that was flushed; live entries must be there bit for bit; and the log must go on.

func outcomes(mixed uint64) []vfs.Outcome {
	all := []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed()}
	for seed := range mixed {
		all = append(all, vfs.Mixed(seed*7+1))
	}
	return all
}

// survive reopens a crashed disk, lets the log go on, crashes it a second time, and reopens it again.
func survive(sim *vfs.Sim, h *history, seed uint64) error {
	log, after, err := reopen(sim, h)
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	// What was just recovered counts: a follower acknowledges entries that it has already.
	if _, _, err := reopen(sim.CrashClone(vfs.AllLost()), after); err != nil {
		return fmt.Errorf("recovered is not durable: %w", err)
	}
	s := &script{rng: rand.New(rand.NewPCG(seed, 2)), log: log, h: after, salt: byte(seed + 1)}
	if err := s.run(8); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := s.maintain(40); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := checkReads(log, s.h); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	again, _, err := reopen(sim.Crash(seed), s.h)
	if err != nil {
		return fmt.Errorf("second crash: %w", err)
	}
	return errors.Join(again.Close(), log.Close())
}

func start(t *testing.T, sim *vfs.Sim, seed uint64) *script {
	t.Helper()
	log, _, err := wal.Open(crashOptions(sim))
	if err != nil {
		t.Fatal(err)
	}
	return &script{rng: rand.New(rand.NewPCG(seed, 1)), log: log, h: newHistory()}
}

// TestCrashAtEveryCall crashes before every call that changes the disk, in several outcomes each.
func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	var copied, kept, merged atomic.Uint64 // by all seeds
	t.Cleanup(func() {
		t.Logf("%d entries copied, %d kept, %d bytes merged", copied.Load(), kept.Load(), merged.Load())
		if !t.Failed() && (copied.Load() == 0 || kept.Load() == 0 || merged.Load() == 0) {
			t.Error("the workload does too little")
		}
	})
	for seed := range seeds(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			sim := vfs.NewSim(seed, vfs.SimOptions{})
			var s *script
			crashes := uint64(0)
			sim.SetHook(func(op vfs.Op) error {
				h := newHistory()
				if s != nil {
					h = s.h
				}
				for i, o := range outcomes(2) {
					if i > 0 && (op.Number+uint64(i))%3 != 0 {
						continue // all lost at every call, each of the others at every third
					}
					crashes++
					if err := survive(sim.CrashClone(o), h, crashes); err != nil {
						t.Errorf("seed %d, before call %v, %v: %v", seed, op, o, err)
						return vfs.ErrPowerCut
					}
				}
				return nil
			})
			s = start(t, sim, seed)
			for range 3 {
				if err := s.run(70); err != nil {
					t.Fatal(err)
				}
				if err := checkReads(s.log, s.h); err != nil {
					t.Fatal(err)
				}
				done := s.log.Stats()
				copied.Add(done.SealedEntriesCopied)
				kept.Add(done.SealedEntriesKept)
				merged.Add(done.CompactedBytes)
				if err := s.log.Close(); err != nil {
					t.Fatal(err)
				}
				// Closing loses what was not flushed, as a crash does.
				log, h, err := reopen(sim, s.h)
				if err != nil {
					t.Fatal(err)
				}
				s.log, s.h = log, h
			}
			if crashes < 200 {
				t.Errorf("%d crashes: the workload does too little", crashes)
			}
		})
	}
}

// TestCrashDuringOpen crashes Open itself at every call, after a crash that left it work to do.
func TestCrashDuringOpen(t *testing.T) {
	t.Parallel()
	for seed := range seeds(2) {
		sim := vfs.NewSim(seed, vfs.SimOptions{})
		s := start(t, sim, seed)
		if err := s.run(60); err != nil {
			t.Fatal(err)
		}
		for _, o := range outcomes(2) {
			crashed := sim.CrashClone(o)
			crashed.SetHook(func(op vfs.Op) error {
				for _, again := range outcomes(2) {
					if err := survive(crashed.CrashClone(again), s.h, op.Number); err != nil {
						t.Errorf("seed %d, %v, in Open before %v, %v: %v", seed, o, op, again, err)
						return vfs.ErrPowerCut
					}
				}
				return nil
			})
			log, _, err := reopen(crashed, s.h)
			if err != nil {
				t.Fatalf("seed %d, %v: %v", seed, o, err)
			}
			_ = log.Close()
		}
	}
}

// TestEveryCallFailing makes each call fail in turn. The error comes out, and nothing flushed is lost.
func TestEveryCallFailing(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		for seed := range seeds(2) {
			t.Run(fmt.Sprint(fault, " seed", seed), func(t *testing.T) {
				t.Parallel()
				for n := uint64(1); ; n++ {
					sim := vfs.NewSim(seed, vfs.SimOptions{})
					sim.FailAt(n, fault)
					var failed vfs.Op
					sim.SetHook(func(op vfs.Op) error {
						if op.Number == n {
							failed = op
						}
						return nil
					})
					h, err := workUntilError(sim, seed)
					sim.SetHook(nil)
					if failed.Number == 0 {
						if err != nil {
							t.Fatalf("without a fault: %v", err)
						}
						return
					}
					// A full disk may be waited out, and a leftover that is not removed is removed later.
					if err == nil && errors.Is(fault, syscall.EIO) && failed.Kind != vfs.OpRemove {
						t.Errorf("seed %d: %v failed and nobody heard of it", seed, failed)
					}
					if err != nil && !errors.Is(err, fault) {
						t.Errorf("seed %d: %v failed with %v", seed, failed, err)
					}
					for _, o := range outcomes(2) {
						if err := survive(sim.CrashClone(o), h, n); err != nil {
							t.Fatalf("seed %d: %v failed with %v, then %v: %v", seed, failed, fault, o, err)
						}
					}
				}
			})
		}
	}
}

// workUntilError opens a log and works until an error, after which it checks that the log takes no more.
func workUntilError(sim *vfs.Sim, seed uint64) (*history, error) {
	log, _, err := wal.Open(crashOptions(sim))
	if err != nil {
		return newHistory(), err
	}
	s := &script{rng: rand.New(rand.NewPCG(seed, 1)), log: log, h: newHistory()}
	if err := s.run(90); err != nil {
		if _, again := log.Append(0, &wal.HardState{}, nil); !errors.Is(again, wal.ErrClosed) {
			return s.h, fmt.Errorf("the log failed with %w, then took an append: %w", err, again)
		}
		if _, again := log.Flush(); again == nil {
			return s.h, fmt.Errorf("the log failed with %w, then flushed", err)
		}
		_ = log.Close()
		return s.h, err
	}
	return s.h, log.Close()
}

// TestDiskFills lets the disk fill up under the log: appends to prepared files go on, Maintain tells, nothing flushed is
// lost, and with room again everything goes on.
func TestDiskFills(t *testing.T) {
	t.Parallel()
	for seed := range seeds(8) {
		sim := vfs.NewSim(seed, vfs.SimOptions{CapacityBytes: int64(40+8*(seed%8)) << 10})
		s := start(t, sim, seed)
		err := s.run(300)
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, o := range outcomes(3) {
			crashed := sim.CrashClone(o)
			// A start on the full disk goes well, or says so; it harms nothing, as survive shows.
			log, _, err := reopen(crashed, s.h)
			if err == nil {
				err = log.Close()
			}
			if err != nil && !errors.Is(err, wal.ErrDiskFull) {
				t.Fatalf("seed %d, %v, start on a full disk: %v", seed, o, err)
			}
			crashed.SetCapacity(0)
			if err := survive(crashed, s.h, seed); err != nil {
				t.Fatalf("seed %d, %v: %v", seed, o, err)
			}
		}
	}
}

// TestFlippedBits flips bits all over all files of a closed log, and of a crashed one. Whatever was hit, the damage is
// reported with a file that exists, or the log serves exactly what was appended. Only the last flush of a crashed log may be
// cut instead: nothing behind it proves that it was durable.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	total := struct {
		sync.Mutex
		detected map[string]int
	}{detected: make(map[string]int)}
	t.Cleanup(func() {
		for _, what := range []string{"open", "read", "cut", "harmless"} {
			if total.detected[what] == 0 {
				t.Errorf("the flips did not hit all kinds of places: %v", total.detected)
			}
		}
	})
	for seed := range seeds(2) {
		for _, closed := range []bool{true, false} {
			t.Run(fmt.Sprintf("seed%d closed %v", seed, closed), func(t *testing.T) {
				t.Parallel()
				sim := vfs.NewSim(seed, vfs.SimOptions{})
				s := start(t, sim, seed)
				if err := s.run(150); err != nil {
					t.Fatal(err)
				}
				if err := s.flush(); err != nil {
					t.Fatal(err)
				}
				if closed {
					if err := s.log.Close(); err != nil {
						t.Fatal(err)
					}
				}
				base := sim.CrashClone(vfs.AllLost())
				detected := make(map[string]int)
				for name, size := range filesBelow(t, base, crashDir) {
					for offset := int64(seed % 5); offset < size; offset += stride(offset) {
						harmed := base.CrashClone(vfs.AllLost())
						if err := harmed.FlipBit(name, offset, uint(offset+int64(seed))%8); err != nil {
							t.Fatal(err)
						}
						what, err := serveDamaged(harmed, s.h, !closed)
						if err != nil {
							t.Fatalf("bit of %s at %d: %v", name, offset, err)
						}
						detected[what]++
					}
				}
				t.Log(detected)
				total.Lock()
				defer total.Unlock()
				for what, n := range detected {
					total.detected[what] += n
				}
			})
		}
	}
}

// TestMisdirectedWrites lets each write in turn be lost, or land over older bytes, while the disk reports success.
// It is found out at the latest by the next start, or the write was in the last flush, or not needed.
func TestMisdirectedWrites(t *testing.T) {
	t.Parallel()
	detected := make(map[string]int)
	for seed := range seeds(2) {
		for n := uint64(1); ; n++ {
			sim := vfs.NewSim(seed, vfs.SimOptions{})
			name := []string{"", crashDir + "/tail/0000000001.wal", crashDir + "/tail/0000000002.wal"}[n%3]
			sim.Misdirect(n, name, int64(n%128)*56)
			s := start(t, sim, seed)
			err := s.run(120)
			if err != nil {
				if err := wantDamage("run", err); err != nil {
					t.Fatalf("seed %d, write %d lost to %q: %v", seed, n, name, err)
				}
				detected["running"]++
			}
			where, err := serveDamaged(sim.CrashClone(vfs.AllLost()), s.h, true)
			if err != nil {
				t.Fatalf("seed %d, write %d lost to %q: %v", seed, n, name, err)
			}
			detected[where]++
			if sim.Ops() < n {
				break
			}
		}
	}
	t.Log(detected)
	if detected["open"] == 0 || detected["harmless"] == 0 {
		t.Errorf("the writes did not hit all kinds of places: %v", detected)
	}
}

// stride is dense in what looks like headers and sparse in payloads.
func stride(offset int64) int64 {
	if offset < 300 {
		return 3
	}
	return 61
}

// serveDamaged opens a harmed log and tells where the damage was noticed.
func serveDamaged(sim *vfs.Sim, h *history, crashed bool) (where string, err error) {
	log, _, err := wal.Open(crashOptions(sim))
	if err != nil {
		return "open", wantDamage("open", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	after, err := match(log, h)
	if where = "harmless"; err != nil && crashed {
		after, err = match(log, h.withoutProof())
		where = "cut"
	}
	if err != nil {
		return "", err
	}
	s := &script{log: log, h: after}
	for _, shard := range crashShards {
		s.tell(shard)
	}
	if err := readDamaged(log, after, &where); err != nil {
		return "", err
	}
	if err := s.maintain(60); err != nil {
		if err := wantDamage("maintain", err); err != nil {
			return "", err
		}
		where = "read"
	}
	return where, readDamaged(log, after, &where)
}

func wantDamage(what string, err error) error {
	if damage, ok := errors.AsType[*wal.CorruptError](err); ok && damage.File != "" && damage.Reason != "" {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// readDamaged reads all that is needed: right, or damage that is told.
func readDamaged(log *wal.Log, h *history, where *string) error {
	seen := h.seen()
	for _, shard := range crashShards {
		m := model(seen, shard)
		for index := uint64(1); index <= m.last; index++ {
			want := h.live[shard][index]
			if want == nil && index >= m.first {
				want = m.entries[index]
			}
			e, err := log.Read(shard, index)
			switch {
			case err == nil && want == nil:
				want = m.entries[index]
				fallthrough
			case err == nil:
				if err := sameEntry(e, want); err != nil {
					return fmt.Errorf("shard %d: %w", shard, err)
				}
			case want != nil:
				*where = "read"
				if err := wantDamage("read", err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// filesBelow lists the files of a directory tree with their sizes.
func filesBelow(t *testing.T, fsys vfs.FS, dir string) map[string]int64 {
	t.Helper()
	files := make(map[string]int64)
	names, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(dir, "/") + "/" + name
		info, err := fsys.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Dir {
			maps.Copy(files, filesBelow(t, fsys, name))
		} else {
			files[name] = info.Size
		}
	}
	return files
}
