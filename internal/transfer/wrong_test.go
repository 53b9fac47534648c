package transfer_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// What arrives whole and is wrong all the same is refused, with the reason, and leaves nothing behind. The right one is
// taken after that.
func TestWrongSnapshotsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		live   func(live *roaring64.Bitmap)
		verify func(*transfer.State) error
		want   string
	}{
		"an entry was not sent": {live: func(live *roaring64.Bitmap) { live.Remove(live.Maximum()) }, want: "are live and were not sent"},
		"another state":         {verify: func(s *transfer.State) error { s.Fingerprint++; return nil }, want: "has fingerprint"},
		"no state": {
			verify: func(*transfer.State) error { return errors.New("unknown section") },
			want:   "cannot be restored: unknown section",
		},
		"a state of the future": {verify: func(s *transfer.State) error { s.Live.Add(10_000); return nil }, want: "refers to entry 10000 behind it"},
	} {
		p := smallPair(t)
		before := files(t, p.follower.disk, "node")
		cfg := receiverConfig(p.follower.disk, p.follower.log)
		wrong := tc.verify
		cfg.Verify = func(m snapshot.Meta, content io.Reader) (transfer.State, error) {
			s, err := verify(m, content)
			if err == nil && wrong != nil {
				err = wrong(&s)
			}
			return s, err
		}
		var err error
		p.follower.recv, err = transfer.NewReceiver(cfg)
		must(t, err)
		loaded, err := snapshot.OpenAt(p.leader.disk, snapshotDir, p.leader.newest)
		must(t, err)
		live := p.leader.m.live.Clone()
		if tc.live != nil {
			tc.live(live)
		}
		s, err := transfer.NewSender(transfer.SenderConfig{Term: 3, Transfer: 1, Snapshot: loaded, Live: live, Log: p.leader.log})
		must(t, err)
		state, err := pump(s, p.follower, chunkBytes, noLimit)
		must(t, err)
		if state != transfer.Failed || !strings.Contains(s.Reason(), tc.want) {
			t.Errorf("%s: it ended as %d: %s", name, state, s.Reason())
		}
		after := files(t, p.follower.disk, "node")
		if len(after) != len(before) {
			t.Errorf("%s: there were %d files, and are %d", name, len(before), len(after))
		}
		must(t, p.follower.check())
		wrong = nil
		_, err = catchUp(p.leader, p.follower, 3, 2)
		must(t, err)
		must(t, p.follower.check())
	}
}

// A snapshot file that the leader's disk has damaged is refused too: it is checked once more where it arrives.
func TestDamagedHotStateIsRefused(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	s, err := p.leader.sender(3, 1)
	must(t, err)
	must(t, p.leader.disk.FlipBit(fmt.Sprintf("%s/%s", snapshotDir, snapshot.FileName(p.leader.newest)), 120, 2))
	state, err := pump(s, p.follower, chunkBytes, noLimit)
	must(t, err)
	if state != transfer.Failed || !strings.Contains(s.Reason(), "damaged") {
		t.Errorf("it ended as %d: %s", state, s.Reason())
	}
	must(t, p.follower.check())
}

// What cannot be sent is refused where it is made.
func TestSenderRefuses(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	for name, tc := range map[string]struct {
		number uint64
		live   *roaring64.Bitmap
		want   string
	}{
		"no number":               {0, p.leader.m.live, "needs a name"},
		"live set of another one": {1, roaring64.BitmapOf(p.leader.newest + 1), "not of snapshot"},
	} {
		loaded, err := snapshot.OpenAt(p.leader.disk, snapshotDir, p.leader.newest)
		must(t, err)
		_, err = transfer.NewSender(transfer.SenderConfig{Term: 1, Transfer: tc.number, Snapshot: loaded, Live: tc.live, Log: p.leader.log})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Entries are staged as of two snapshots, and the follower crashes. A leader whose snapshot lies between them must not build
// on what was staged as of the later: entries are not there that were alive yet.
func TestStageRemembersTheNewestSnapshot(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	p.follower = mustOpen(t, p.h, 3)
	other := mustOpen(t, p.h, 4)
	cfg := receiverConfig(p.follower.disk, p.follower.log)
	cfg.SyncBytes = 1 // so that the crash loses little
	var err error
	p.follower.recv, err = transfer.NewReceiver(cfg)
	must(t, err)
	s, err := p.leader.sender(2, 1)
	must(t, err)
	_, err = pump(s, p.follower, chunkBytes, 2)
	must(t, err)
	p.h.grow(5, 2)
	must(t, other.follow(p.h.last()))
	must(t, other.snapshot(0))
	p.h.endings = 2
	p.goOn(t, 20, 1, 2) // much of the backlog ends
	s, err = p.leader.sender(2, 2)
	must(t, err)
	_, err = pump(s, p.follower, chunkBytes, 5)
	must(t, err)
	p.follower, err = p.follower.reopen(vfs.Killed())
	must(t, err)
	_, err = catchUp(other, p.follower, 3, 1)
	must(t, err)
	must(t, p.follower.check())
}

// Between the last chunk and the installation the log caught up: nothing is installed, and nothing is left.
func TestInstallNotNeeded(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	s := readyToInstall(t, p)
	must(t, p.follower.follow(p.h.last()))
	if _, _, err := p.follower.recv.Install(); !errors.Is(err, transfer.ErrNotNeeded) {
		t.Errorf("it installs: %v", err)
	}
	if left := files(t, p.follower.disk, transfer.Dir("node", testShard)); len(left) > 0 {
		t.Errorf("%d files are left", len(left))
	}
	s.Resend()
	if state, err := pump(s, p.follower, chunkBytes, 1); err != nil || state != transfer.NotNeeded {
		t.Errorf("offered again it ends as %d, %v", state, err)
	}
	must(t, p.follower.check())
}

// readyToInstall sends everything, and stops before the follower installs it.
func readyToInstall(t *testing.T, p *pair) *transfer.Sender {
	t.Helper()
	s, err := p.leader.sender(2, 1)
	must(t, err)
	for !p.follower.recv.Ready() {
		b, err := s.Next(chunkBytes)
		must(t, err)
		a, err := p.follower.recv.Accept(b)
		must(t, err)
		s.Acked(a.Append(nil))
	}
	return s
}

// A snapshot that contradicts what the follower knows as committed is not installed, and not decided either.
func TestInstallConflict(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	readyToInstall(t, p)
	var entries []wal.Entry
	for i := p.follower.m.applied + 1; i <= p.leader.newest; i++ {
		entries = append(entries, wal.Entry{Index: i, Term: 99})
	}
	// The commit index is not durable yet, so that the log does not count as caught up.
	_, err := p.follower.log.Append(testShard, &wal.HardState{Term: 99, Commit: p.leader.newest}, entries)
	must(t, err)
	if _, _, err := p.follower.recv.Install(); !errors.Is(err, wal.ErrConflict) {
		t.Errorf("it installs: %v", err)
	}
	again, err := p.follower.reopen(vfs.AllLost())
	must(t, err)
	must(t, again.check())
}

// What is ready is not touched by what comes; before the decision it can be thrown away.
func TestDiscard(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	s := readyToInstall(t, p)
	other, err := p.leader.sender(9, 1)
	must(t, err)
	b, err := other.Next(chunkBytes)
	must(t, err)
	a, err := p.follower.recv.Accept(b)
	must(t, err)
	if other.Acked(a.Append(nil)) != transfer.Waiting || !strings.Contains(other.Reason(), "under way") {
		t.Errorf("another leader hears %v", a.String())
	}
	s.Resend()
	b, err = s.Next(chunkBytes)
	must(t, err)
	if a, err = p.follower.recv.Accept(b); err != nil || a.Status != transfer.StatusReady {
		t.Errorf("offered again, it says %v, %v", a.String(), err)
	}
	must(t, p.follower.recv.Discard())
	if left := files(t, p.follower.disk, transfer.Dir("node", testShard)); len(left) > 0 {
		t.Errorf("%d files are left", len(left))
	}
	other.Resend()
	state, err := pump(other, p.follower, chunkBytes, noLimit)
	must(t, err)
	if state != transfer.Installed {
		t.Errorf("the other leader's transfer ends as %d: %s", state, other.Reason())
	}
	must(t, p.follower.check())
}
