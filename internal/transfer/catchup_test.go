package transfer_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// pair is a leader with a long history, and a follower that is cut off at some point of it.
type pair struct {
	h                *history
	leader, follower *node
}

// newPair gives both a common past, with snapshots at different times.
func newPair(t *testing.T) *pair {
	t.Helper()
	h := newHistory(1)
	h.grow(1000, 1)
	p := &pair{h, mustOpen(t, h, 1), mustOpen(t, h, 2)}
	for _, upTo := range []uint64{330, 660, 1000} {
		must(t, p.leader.follow(upTo))
		must(t, p.leader.snapshot(20))
	}
	for _, upTo := range []uint64{200, 700, 930} {
		must(t, p.follower.follow(upTo))
		must(t, p.follower.snapshot(20))
	}
	must(t, p.follower.follow(1000))
	return p
}

// goOn lets the group commit more, which only the leader hears, in several snapshots.
func (p *pair) goOn(t *testing.T, count, snapshots int, term uint64) {
	t.Helper()
	for range snapshots {
		p.h.grow(count/snapshots, term)
		must(t, p.leader.follow(p.h.last()))
		must(t, p.leader.snapshot(0))
	}
}

// finish checks the follower, now and after a crash, and lets it go on as a replica does.
func (p *pair) finish(t *testing.T, lost ...uint64) {
	t.Helper()
	if p.follower.m.applied < p.leader.newest {
		t.Fatalf("the follower is at %d, the snapshot at %d", p.follower.m.applied, p.leader.newest)
	}
	must(t, p.follower.check(lost...))
	for round := range uint64(3) {
		again, err := p.follower.reopen(vfs.Mixed(round))
		must(t, err)
		p.follower = again
		must(t, again.check(lost...))
		p.h.grow(60, 9)
		must(t, again.follow(p.h.last()))
		must(t, again.snapshot(10))
		must(t, again.check(lost...))
	}
}

// report prints what the transfer cost, beside what a full snapshot would have.
func report(t *testing.T, s transfer.Stats) {
	t.Helper()
	t.Logf("%d bytes sent, %d would be full: %.1f%%; %d chunks, %d entries, %d bytes hot, begun again %d times",
		s.Bytes, s.FullBytes, 100*float64(s.Bytes)/float64(s.FullBytes), s.Chunks, s.Entries, s.HotBytes, s.Resends)
}

func (p *pair) catchUp(t *testing.T) transfer.Stats {
	t.Helper()
	s, err := catchUp(p.leader, p.follower, 2, 1)
	must(t, err)
	report(t, s)
	return s
}

// A follower that was away for a while gets what survived of that while, not the backlog.
func TestCatchUpAfterAWhile(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.goOn(t, 100, 1, 1)
	s := p.catchUp(t)
	if s.Bytes*100 > s.FullBytes*30 {
		t.Errorf("%d bytes were sent, %d would be all", s.Bytes, s.FullBytes)
	}
	p.finish(t)
}

// A new replica has nothing: it gets everything that is live.
func TestCatchUpOfANewReplica(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.goOn(t, 100, 1, 1)
	p.follower = mustOpen(t, p.h, 3)
	s := p.catchUp(t)
	if s.EntryBytes+s.HotBytes != s.FullBytes {
		t.Errorf("%d bytes of entries and %d of the hot state were sent, all are %d", s.EntryBytes, s.HotBytes, s.FullBytes)
	}
	p.finish(t)
}

// A follower whose state went wrong has all of the log, and its log has dropped what is live: it is brought a snapshot that its log
// is well past, with all live entries, and what it acknowledged behind that stays.
func TestRenewWrongState(t *testing.T) {
	t.Parallel()
	for _, twice := range []bool{false, true} {
		p := newPair(t)
		must(t, p.follower.goWrong())
		if twice { // a crash in the middle of the first transfer
			p.goOn(t, 40, 1, 1)
			s, err := p.leader.sender(2, 1)
			must(t, err)
			_, err = pump(s, p.follower, 1<<10, 20)
			must(t, errors.Join(err, s.Close()))
			p.follower, err = p.follower.reopen(vfs.AllLost())
			must(t, err)
		}
		if s, err := catchUp(p.leader, p.follower, 2, 2); !twice && (err != nil || s.Entries > 0) {
			t.Errorf("an older snapshot is no help, and %d entries of it were sent: %v", s.Entries, err)
		}
		p.goOn(t, 60, 1, 1)
		must(t, p.follower.follow(p.h.last()))
		p.h.grow(60, 1)
		must(t, p.follower.follow(p.h.last()))
		last := p.follower.log.State(testShard).Last
		s, err := catchUp(p.leader, p.follower, 2, 3)
		must(t, err)
		report(t, s)
		if got := p.follower.log.State(testShard).Last; got != last || p.follower.wrong {
			t.Errorf("the log ended at %d and ends at %d; wrong %v", last, got, p.follower.wrong)
		}
		must(t, p.leader.follow(p.h.last()))
		must(t, p.leader.snapshot(0))
		must(t, p.follower.follow(p.h.last()))
		p.finish(t)
	}
}

// The follower led for a moment: the end of its log was never committed, and other entries are there now.
func TestCatchUpWithDivergentTail(t *testing.T) {
	t.Parallel()
	for _, entries := range []int{3, 80, 300} { // short of the snapshot, and beyond it
		p := newPair(t)
		must(t, p.follower.diverge(entries, 2))
		p.goOn(t, 200, 2, 3)
		p.catchUp(t)
		if s := p.follower.log.State(testShard); s.Last != p.leader.newest {
			t.Errorf("with %d entries of its own the log ends at %d, the snapshot is of %d", entries, s.Last, p.leader.newest)
		}
		p.finish(t)
	}
}

// The follower was away while the leader took many snapshots: what came and went in between is never sent.
func TestCatchUpThroughSeveralSnapshots(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.h.spared = 12 // about as many end as begin
	p.goOn(t, 600, 8, 1)
	p.catchUp(t)
	p.finish(t)
}

// Two catch-ups in a row, with a time as a healthy follower in between: received segments meet others.
func TestCatchUpAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	for range 3 {
		p.goOn(t, 150, 2, 1)
		p.catchUp(t)
		must(t, p.follower.check())
		p.h.grow(70, 1)
		must(t, p.leader.follow(p.h.last()))
		must(t, p.leader.snapshot(0))
		must(t, p.follower.follow(p.h.last()))
		must(t, p.follower.snapshot(10))
		must(t, p.follower.check())
	}
	p.finish(t)
}

// The follower compacts at other times than the leader: before, at, and after the same indexes, and keeps more or less.
func TestCatchUpCompactedAtOtherTimes(t *testing.T) {
	t.Parallel()
	for _, at := range []uint64{1, 329, 330, 331, 661, 999} {
		for _, keep := range []uint64{0, 50} {
			p := newPair(t)
			p.follower = mustOpen(t, p.h, at)
			must(t, p.follower.follow(at))
			must(t, p.follower.snapshot(keep))
			must(t, p.follower.follow(1000))
			p.goOn(t, 100, 1, 1)
			p.catchUp(t)
			p.finish(t)
		}
	}
}

// A follower that has caught up by itself refuses the snapshot.
func TestCatchUpNotNeeded(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.goOn(t, 100, 1, 1)
	must(t, p.follower.follow(p.h.last()))
	if s := p.catchUp(t); s.Chunks != 1 {
		t.Errorf("%d chunks were sent", s.Chunks)
	}
	p.finish(t)
}

// Half way the follower crashes. What it had synced is not sent again.
func TestCatchUpFollowerCrashes(t *testing.T) {
	t.Parallel()
	for _, outcome := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed(), vfs.Mixed(1), vfs.Mixed(2)} {
		p := newPair(t)
		p.follower = mustOpen(t, p.h, 3)
		p.goOn(t, 400, 1, 1)
		s, err := p.leader.sender(2, 1)
		must(t, err)
		_, err = pump(s, p.follower, chunkBytes, 30)
		must(t, err)
		before := s.Stats()
		again, err := p.follower.reopen(outcome)
		must(t, err)
		p.follower = again
		state, err := pump(s, p.follower, chunkBytes, noLimit)
		must(t, err)
		report(t, s.Stats())
		if state != transfer.Installed {
			t.Errorf("%v: it ended as %d, %s", outcome, state, s.Reason())
		}
		if got := s.Stats(); got.Bytes > got.FullBytes+before.Bytes/2 {
			t.Errorf("%v: %d bytes were sent, %d of them before the crash; all is %d", outcome, got.Bytes, before.Bytes, got.FullBytes)
		}
		p.finish(t)
	}
}

// Half way another node takes the lead, with a snapshot of its own. The follower goes on with its entries.
func TestCatchUpLeaderChanges(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		at   uint64 // index of the new leader's snapshot
		kept bool   // what was staged is of use
	}{{"newer snapshot", 1160, true}, {"the same index", 1100, true}, {"older snapshot", 1030, false}} {
		p := newPair(t)
		p.follower = mustOpen(t, p.h, 3)
		p.goOn(t, 100, 1, 1) // snapshot at 1100
		other := mustOpen(t, p.h, 4)
		p.h.grow(100, 1)
		must(t, other.follow(tc.at))
		must(t, other.snapshot(0))

		s, err := p.leader.sender(2, 7)
		must(t, err)
		_, err = pump(s, p.follower, chunkBytes, 20)
		must(t, err)
		late, err := s.Next(chunkBytes)
		must(t, err)
		next, err := other.sender(3, 1)
		must(t, err)
		_, err = pump(next, p.follower, chunkBytes, 2)
		must(t, err)
		// The old leader does not know yet. Neither its chunks nor its offer disturb the new one's work.
		ack, err := p.follower.take(late)
		must(t, err)
		if state := s.Acked(ack); state != transfer.Sending {
			t.Errorf("%s: the old leader hears %d", tc.name, state)
		}
		if state, err := pump(s, p.follower, chunkBytes, 1); err != nil || state != transfer.Failed {
			t.Errorf("%s: the old leader's new offer ended as %d, %v", tc.name, state, err)
		}
		state, err := pump(next, p.follower, chunkBytes, noLimit)
		must(t, err)
		got := next.Stats()
		report(t, got)
		if state != transfer.Installed || (got.EntryBytes+got.HotBytes < got.FullBytes) != tc.kept {
			t.Errorf("%s: it ended as %d with %d of %d bytes sent", tc.name, state, got.EntryBytes+got.HotBytes, got.FullBytes)
		}
		if p.follower.m.applied != tc.at {
			t.Errorf("%s: the follower is at %d, want %d", tc.name, p.follower.m.applied, tc.at)
		}
		p.leader = other
		p.finish(t)
	}
}

// While entries are sent the leader takes more snapshots, and forgets what died. The transfer goes on with the newest.
func TestCatchUpLeaderForgets(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.follower = mustOpen(t, p.h, 3)
	var total transfer.Stats
	outdated := 0
	for number := uint64(1); ; number++ {
		s, err := p.leader.sender(2, number)
		must(t, err)
		state, err := pump(s, p.follower, chunkBytes, 5)
		for err == nil && state == transfer.Sending {
			p.h.endings = 3 // the backlog shrinks
			p.goOn(t, 40, 1, 1)
			state, err = pump(s, p.follower, chunkBytes, 2)
		}
		total.Bytes += s.Stats().Bytes
		total.Chunks += s.Stats().Chunks
		total.FullBytes = max(total.FullBytes, s.Stats().FullBytes)
		if errors.Is(err, transfer.ErrOutdated) {
			outdated++
			continue
		}
		must(t, err)
		if state != transfer.Installed {
			t.Fatalf("it ended as %d: %s", state, s.Reason())
		}
		break
	}
	report(t, total)
	if outdated == 0 {
		t.Error("the leader forgot nothing")
	}
	must(t, p.follower.check())
}

// The follower's disk has lost segments: it notices that it lacks what it should hold, and asks for everything.
func TestCatchUpWithLostSegments(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	loseSegments(t, p)
	p.goOn(t, 100, 1, 1)
	s := p.catchUp(t)
	if got := p.follower.recv.Stats().Restarts; got != 1 {
		t.Errorf("it began %d times with everything", got)
	}
	if s.EntryBytes < s.FullBytes/2 {
		t.Errorf("%d bytes of entries, all are %d", s.EntryBytes, s.FullBytes)
	}
	p.finish(t)
	// Catching up again replaces nothing that is needed.
	p.leader = p.follower
	p.follower = mustOpen(t, p.h, 9)
	p.catchUp(t)
	p.finish(t)
}

// An entry that the leader's disk has damaged is sent by its name, and is refused on the follower as it is on the leader.
func TestCatchUpWithADamagedEntry(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.goOn(t, 100, 1, 1)
	p.follower = mustOpen(t, p.h, 3)
	dir := logDir + "/live/00003"
	names, err := p.leader.disk.List(dir)
	must(t, err)
	must(t, p.leader.disk.FlipBit(dir+"/"+names[0], 64+48+20, 3)) // in the data of its first entry
	var lost []uint64
	for it := p.leader.m.live.Iterator(); it.HasNext(); {
		index := it.Next()
		_, err := p.leader.log.Read(testShard, index)
		if _, damaged := errors.AsType[*wal.CorruptError](err); damaged {
			lost = append(lost, index)
		}
	}
	if len(lost) != 1 {
		t.Fatalf("entries %v are damaged", lost)
	}
	p.catchUp(t)
	must(t, p.follower.check(lost...))
	if _, err := p.follower.log.Read(testShard, lost[0]); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("entry %d: %v", lost[0], err)
	}
}
