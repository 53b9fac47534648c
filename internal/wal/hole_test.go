package wal_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// openHoles opens a log that may have holes.
func openHoles(fsys vfs.FS) (*wal.Log, wal.Recovery, error) {
	o := crashOptions(fsys)
	o.KeepHoles, o.Peers = true, true
	return wal.Open(o)
}

// fill gives a log what its holes held, and writes it. It reports how many there were, other than dead ones.
func fill(log *wal.Log, h *history) (filled int, err error) {
	for _, shard := range crashShards {
		m := model(h.seen(), shard)
		for _, n := range log.Wanted(shard, 0, 1000) {
			e := m.entries[n.Index]
			if e == nil {
				continue // nobody needs it any more
			}
			if _, err := log.Read(shard, n.Index); !wal.IsDamage(err) {
				return filled, fmt.Errorf("a hole reads %w", err)
			}
			if first, last := log.Holes(shard, n.Index); first != n.Index || last < first || log.Held(shard) >= first && n.Index >= log.State(shard).First {
				return filled, fmt.Errorf("hole %d: holes from %d to %d, %d is held", n.Index, first, last, log.Held(shard))
			}
			other := *e
			other.Term++
			if err := log.Mend(shard, &other); !errors.Is(err, wal.ErrNotNamed) {
				return filled, fmt.Errorf("another term fills hole %d: %w", n.Index, err)
			}
			if err := log.Mend(shard, e); err != nil {
				return filled, err
			}
			filled++
		}
	}
	for more := true; more && err == nil; {
		more, err = log.Maintain()
	}
	return filled, err
}

// TestHoles flips bits of the tail. Where the log opens with a hole, it shows the same bounds, terms and hard states as before, and
// is whole when the hole is filled; a crash at any call of that leaves it whole, or with the very hole.
func TestHoles(t *testing.T) {
	t.Parallel()
	for seed := range seeds(2) {
		for _, closed := range []bool{true, false} {
			t.Run(fmt.Sprintf("seed%d closed %v", seed, closed), func(t *testing.T) {
				t.Parallel()
				sim := vfs.NewSim(seed, vfs.SimOptions{})
				s := start(t, sim, seed)
				if err := errors.Join(s.run(150), s.flush()); err != nil {
					t.Fatal(err)
				}
				if closed {
					if err := s.log.Close(); err != nil {
						t.Fatal(err)
					}
				}
				base := sim.CrashClone(vfs.AllLost())
				holes := 0
				for name, size := range filesBelow(t, base, crashDir+"/tail") {
					if !strings.HasSuffix(name, ".wal") {
						continue
					}
					for offset := int64(seed % 5); offset < size; offset += 61 {
						harmed := base.CrashClone(vfs.AllLost())
						if err := harmed.FlipBit(name, offset, uint(offset)%8); err != nil {
							t.Fatal(err)
						}
						log, found, err := openHoles(harmed.CrashClone(vfs.AllLost()))
						if err != nil {
							t.Fatalf("bit of %s at %d: %v", name, offset, err)
						}
						named := found.Holes > 0 && found.LostShards == 0 && !gapped(log)
						if err := log.Close(); err != nil {
							t.Fatal(err)
						}
						if !named {
							continue // see TestDamagedFrames
						}
						holes++
						if err := fillWithCrashes(harmed, s.h); err != nil {
							t.Fatalf("bit of %s at %d: %v", name, offset, err)
						}
					}
				}
				if holes == 0 {
					t.Error("the flips hit no entry's data")
				}
			})
		}
	}
}

// fillWithCrashes fills the hole of a log, with a crash at each call in turn.
func fillWithCrashes(harmed *vfs.Sim, h *history) error {
	for n := uint64(1); ; n++ {
		sim := harmed.CrashClone(vfs.AllLost())
		log, _, err := openHoles(sim)
		if err != nil {
			return err
		}
		if _, err := bounds(log, h); err != nil {
			return fmt.Errorf("with a hole: %w", err)
		}
		first := sim.Ops()
		sim.SetHook(func(op vfs.Op) error {
			if op.Number >= first+n {
				return vfs.ErrPowerCut
			}
			return nil
		})
		filled, err := fill(log, h)
		sim.SetHook(nil)
		if err == nil {
			if err := log.Close(); err != nil {
				return err
			}
		} else if !errors.Is(err, vfs.ErrPowerCut) {
			return err
		}
		after, found, openErr := openHoles(sim.CrashClone(vfs.Mixed(n)))
		if openErr != nil {
			return fmt.Errorf("crash at call %d: %w", n, openErr)
		}
		if found.Holes > 1 || err == nil && filled > 0 && found.Holes > 0 {
			return fmt.Errorf("crash at call %d: %d holes are left", n, found.Holes)
		}
		if _, err := fill(after, h); err != nil {
			return fmt.Errorf("crash at call %d, filled again: %w", n, err)
		}
		now, wrong := bounds(after, h)
		if wrong != nil {
			return fmt.Errorf("crash at call %d: %w", n, wrong)
		}
		s := &script{log: after, h: now}
		for _, shard := range crashShards {
			s.tell(shard)
		}
		if wrong := checkReads(after, now); wrong != nil {
			return fmt.Errorf("crash at call %d: %w", n, wrong)
		}
		if wrong := after.Close(); wrong != nil {
			return wrong
		}
		if err == nil {
			return nil
		}
	}
}

// bounds compares all but the data of the tail with what was appended: see match.
func bounds(log *wal.Log, h *history) (*history, error) {
	for _, shard := range crashShards {
		m := model(h.seen(), shard)
		got := log.State(shard)
		if got.HardState != m.hard || got.First != m.first || got.Last != m.last {
			return nil, fmt.Errorf("shard %d: %+v, want %+v", shard, got, m)
		}
		for index := m.first; index <= m.last; index++ {
			if term, err := log.Term(shard, index); err != nil || term != m.entries[index].Term {
				return nil, fmt.Errorf("shard %d: entry %d has term %d, %w", shard, index, term, err)
			}
		}
	}
	after := h.clone()
	after.durable, after.stream = h.seen(), nil
	return after, nil
}
