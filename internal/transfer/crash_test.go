package transfer_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// A crash test is a follower with a past, and a leader that sends it a snapshot. The follower's machine is crashed before every
// call that changes its disk, in several outcomes each; the recovery is crashed a second time, at every call in turn over the
// test; and then the follower must be what it was or have the snapshot, whole, and catch up. Names of the cases are of what
// the follower is.
type crashCase struct {
	name    string
	prepare func(*testing.T, *pair)
	short   bool // is run where runs are to be short
}

func crashCases() []crashCase {
	return []crashCase{
		{"away for a while", func(*testing.T, *pair) {}, true},
		{"with a divergent tail", func(t *testing.T, p *pair) { must(t, p.follower.diverge(30, 2)) }, false},
		{"new", func(t *testing.T, p *pair) { p.follower = mustOpen(t, p.h, 3) }, false},
		{"brought up before", func(t *testing.T, p *pair) {
			_, err := catchUp(p.leader, p.follower, 2, 1)
			must(t, err)
			must(t, p.follower.snapshot(5))
			p.goOn(t, 60, 1, 1)
		}, false},
		{"up to date but for an end", func(t *testing.T, p *pair) {
			must(t, p.follower.follow(p.h.last()))
			p.h.barren = true
			p.goOn(t, 30, 1, 1)
			p.h.barren = false
		}, true},
		{"lacking segments", loseSegments, false},
		{"whose state is wrong", func(t *testing.T, p *pair) { must(t, p.follower.goWrong()) }, true},
		{"brought up before, and lacking segments", func(t *testing.T, p *pair) {
			p.follower = mustOpen(t, p.h, 3)
			_, err := catchUp(p.leader, p.follower, 2, 1)
			must(t, err)
			p.goOn(t, 30, 1, 1)
			loseSegments(t, p)
		}, true},
	}
}

// loseSegments removes the follower's first segment and every other behind it, behind the back of its log.
func loseSegments(t *testing.T, p *pair) {
	t.Helper()
	dir := logDir + "/live/00003"
	names, err := p.follower.disk.List(dir)
	must(t, err)
	for i := 0; i < len(names); i += 2 {
		must(t, p.follower.disk.Remove(dir+"/"+names[i]))
	}
	must(t, p.follower.disk.SyncDir(dir))
	p.follower, err = p.follower.reopen(vfs.AllLost())
	must(t, err)
}

func outcomes(mixed, seed uint64) []vfs.Outcome {
	all := []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed()}
	for i := range mixed {
		all = append(all, vfs.Mixed(seed*100+i))
	}
	return all
}

// stride is how many calls lie between two that are crashed: one, but under the race detector, which is after other things.
func stride() uint64 {
	if invariant.Expensive && seeds(2) <= 2 {
		return 4
	}
	return 1
}

// smallPair is a pair with little in it, so that it can be crashed often.
func smallPair(t *testing.T) *pair {
	t.Helper()
	h := newHistory(3)
	h.grow(200, 1)
	p := &pair{h, mustOpen(t, h, 1), mustOpen(t, h, 2)}
	must(t, p.leader.follow(200))
	must(t, p.leader.snapshot(20))
	for _, upTo := range []uint64{80, 150} {
		must(t, p.follower.follow(upTo))
		must(t, p.follower.snapshot(10))
	}
	must(t, p.follower.follow(180))
	p.goOn(t, 120, 1, 1)
	return p
}

func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	for _, tc := range crashCases() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := smallPair(t)
			tc.prepare(t, p)
			before := p.follower.m.applied
			crashes := uint64(0)
			p.follower.disk.SetHook(func(op vfs.Op) error {
				if op.Number%stride() != 0 {
					return nil
				}
				mixed := seeds(2)
				if op.Kind == vfs.OpSyncDir {
					mixed += 4 // names are what it is about
				}
				for i, o := range outcomes(mixed, op.Number) {
					if i > 0 && op.Kind != vfs.OpSyncDir && (op.Number+uint64(i))%3 != 0 {
						continue // all lost at every call, each of the others at every third
					}
					crashes++
					if err := p.survive(p.follower.disk.CrashClone(o), before, crashes); err != nil {
						t.Errorf("before %v, %v: %v", op, o, err)
						return vfs.ErrPowerCut
					}
				}
				return nil
			})
			stats, err := catchUp(p.leader, p.follower, 5, 1)
			must(t, err)
			p.follower.disk.SetHook(nil)
			report(t, stats)
			must(t, p.follower.check())
			t.Logf("%d crashes", crashes)
			if crashes < 50/stride() {
				t.Error("too few")
			}
		})
	}
}

// TestCrashInEveryRecovery kills the process before every call of the installation, crashes the start that follows before
// every call of its own, and starts again. What a killed process leaves is seen and not durable: what the second start
// relies on must have been made so by the first.
func TestCrashInEveryRecovery(t *testing.T) {
	t.Parallel()
	cases := crashCases()
	if seeds(2) <= 2 { // the others differ before the installation
		cases = slices.DeleteFunc(cases, func(tc crashCase) bool { return !tc.short })
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := smallPair(t)
			tc.prepare(t, p)
			before, whole, crashes := p.follower.m.applied, p.follower.check() == nil, uint64(0)
			disk, installing := p.follower.disk, false
			disk.SetHook(func(op vfs.Op) error {
				if installing = installing || strings.HasSuffix(op.Name, "/install.tmp"); !installing {
					return nil
				}
				for call := 1 + op.Number%stride(); ; call += stride() {
					again := crashStart(disk.CrashClone(vfs.Killed()), p.h, call, seeds(1))
					for i, clone := range again {
						crashes++
						n, err := open(clone, p.h)
						if err == nil && (whole || n.m.applied == p.leader.newest) {
							err = n.check()
						}
						if err == nil && n.m.applied != before && n.m.applied != p.leader.newest {
							err = fmt.Errorf("it is at %d", n.m.applied)
						}
						if err != nil {
							t.Errorf("killed before %v, and then the start crashed before call %d, outcome %d: %v", op, call, i, err)
							return vfs.ErrPowerCut
						}
					}
					if again == nil {
						return nil
					}
				}
			})
			_, err := catchUp(p.leader, p.follower, 5, 1)
			must(t, err)
			t.Logf("%d crashes", crashes)
		})
	}
}

// crashStart starts a node from a disk, and returns what a crash before one call of that may leave; nothing when there are
// fewer calls.
func crashStart(disk *vfs.Sim, h *history, call, mixed uint64) (left []*vfs.Sim) {
	calls := uint64(0)
	disk.SetHook(func(op vfs.Op) error {
		if calls++; calls == call {
			for _, o := range outcomes(mixed, op.Number) {
				left = append(left, disk.CrashClone(o))
			}
		}
		if calls >= call {
			return vfs.ErrPowerCut
		}
		return nil
	})
	_, err := open(disk, h)
	if left == nil && err != nil {
		panic(err)
	}
	return left
}

// survive starts the follower from a crashed disk. The start itself crashes at a call that depends on the seed, and is done
// again.
func (p *pair) survive(disk *vfs.Sim, before, seed uint64) error {
	first := disk.CrashClone(vfs.Killed())
	stop, calls := seed%30, uint64(0)
	var again *vfs.Sim
	first.SetHook(func(vfs.Op) error {
		if calls++; calls == stop {
			again = first.CrashClone(vfs.Mixed(seed))
			return vfs.ErrPowerCut
		}
		return nil
	})
	if _, err := open(first, p.h); again != nil {
		disk = again
	} else if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	n, err := open(disk, p.h)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if n.m.applied != before && n.m.applied != p.leader.newest {
		return fmt.Errorf("started at %d, which is neither %d nor %d", n.m.applied, before, p.leader.newest)
	}
	if _, err := catchUp(p.leader, n, 6, seed); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if n.m.applied != p.leader.newest {
		return fmt.Errorf("caught up to %d, not %d", n.m.applied, p.leader.newest)
	}
	if err := n.check(); err != nil {
		return err
	}
	return n.live(seed)
}

// live lets a follower go on as a healthy one, through snapshots that make its log forget and merge, and another crash.
func (n *node) live(seed uint64) error {
	h := newHistory(seed)
	h.entries, h.live = append(h.entries, n.h.entries...), n.m.live.ToArray()
	n.h = h
	for range 2 {
		h.grow(40, 7)
		if err := n.follow(h.last()); err != nil {
			return err
		}
		if err := n.snapshot(5); err != nil {
			return err
		}
		if err := n.check(); err != nil {
			return err
		}
	}
	again, err := n.reopen(vfs.Mixed(seed))
	if err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := again.maintain(); err != nil {
		return err
	}
	return again.check()
}

// TestEveryCallFailing fails each call that changes the follower's disk in turn. A full disk is waited for; any other failure
// comes out, and whatever crash follows, nothing is half done.
func TestEveryCallFailing(t *testing.T) {
	t.Parallel()
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		for call := uint64(1); ; call += stride() {
			p := smallPair(t)
			before := p.follower.m.applied
			start := p.follower.disk.Ops()
			p.follower.disk.FailAt(start+call, fault)
			failed, err := p.insist()
			if err == nil && !failed && p.follower.disk.Ops() < start+call {
				t.Logf("%v: %d calls", fault, call-1)
				break
			}
			if err == nil {
				if err := p.follower.check(); err != nil {
					t.Errorf("%v at call %d was survived, and: %v", fault, call, err)
				}
				continue
			}
			if !errors.Is(err, fault) {
				t.Errorf("call %d fails with %v and what comes out is: %v", call, fault, err)
			}
			for i, o := range outcomes(1, call) {
				if err := p.survive(p.follower.disk.CrashClone(o), before, call+uint64(i)); err != nil {
					t.Errorf("%v at call %d, %v: %v", fault, call, o, err)
				}
			}
		}
	}
}

// insist sends until the follower has it, also when its disk is full for a moment.
func (p *pair) insist() (waited bool, err error) {
	s, err := p.leader.sender(5, 1)
	if err != nil {
		return false, err
	}
	for range 5 {
		state, err := pump(s, p.follower, chunkBytes, noLimit)
		if err != nil || state != transfer.Waiting {
			if err == nil && state != transfer.Installed {
				err = fmt.Errorf("it ended as %d: %s", state, s.Reason())
			}
			return waited, errors.Join(err, s.Close())
		}
		waited = true
		s.Resend()
	}
	return waited, errors.New("it waits for ever")
}
