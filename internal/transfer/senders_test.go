package transfer_test

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
)

// senders are those of a node that leads in a term.
func (n *node) senders(term uint64) *transfer.Senders {
	s := transfer.NewSenders(transfer.SendersConfig{
		FS: n.disk, Shard: testShard, SnapshotDir: snapshotDir, Log: n.log, ChunkBytes: chunkBytes,
	})
	s.Lead(term)
	return s
}

// run sends to followers until nothing is under way, and returns what ended; lossy says of each chunk and each
// acknowledgement whether it is lost.
func run(t *testing.T, s *transfer.Senders, followers map[uint64]*node, lossy func() bool) (ended []transfer.Ended) {
	t.Helper()
	now := time.Duration(0)
	for range noLimit {
		o, ok := s.Next(now)
		ended = append(ended, s.Ended()...)
		if !ok {
			due, some := s.Due()
			if !some {
				return ended
			}
			now = max(now, due)
			continue
		}
		if lossy() {
			continue
		}
		ack, err := followers[o.To].take(o.Data)
		must(t, err)
		if !lossy() {
			s.Acked(now, ack)
		}
	}
	t.Fatal("the transfers have no end")
	return nil
}

// TestSendersBringMembersUp sends to a follower that lacks a part and to one that has nothing, at once, over a network that
// loses a third of everything.
func TestSendersBringMembersUp(t *testing.T) {
	t.Parallel()
	for seed := range seeds(5) {
		p := smallPair(t)
		fresh := mustOpen(t, p.h, 9)
		rng := rand.New(rand.NewPCG(seed, 7))
		s := p.leader.senders(4)
		s.Begin(0, 2)
		s.Begin(0, 3)
		followers := map[uint64]*node{2: p.follower, 3: fresh}
		ended := run(t, s, followers, func() bool { return rng.IntN(3) == 0 })
		bytes := map[uint64]uint64{}
		for _, e := range ended {
			if !e.OK || e.Index != p.leader.newest {
				t.Fatalf("seed %d: snapshot %d for %d ended: %v %s", seed, e.Index, e.To, e.OK, e.Reason)
			}
			bytes[e.To] = e.Stats.EntryBytes
		}
		if len(bytes) != 2 {
			t.Fatalf("seed %d: ended %+v", seed, ended)
		}
		for to, f := range followers {
			if f.m.applied < p.leader.newest {
				t.Errorf("seed %d: follower %d is at %d", seed, to, f.m.applied)
			}
			must(t, f.check())
		}
	}
}

// TestHeldChunksAreNotRepeated shows that silence counts from when the last chunk left: what the network holds back is neither sent again
// nor a reason to give up, however long it takes.
func TestHeldChunksAreNotRepeated(t *testing.T) {
	t.Parallel()
	s := smallPair(t).leader.senders(4)
	s.Begin(0, 2)
	sent := 0
	send := func(now time.Duration, held bool) {
		s.Held(now, func(to uint64) bool { return held && to == 2 })
		for _, ok := s.Next(now); ok; _, ok = s.Next(now) {
			sent++
		}
	}
	send(0, true)
	window, now := sent, time.Duration(0)
	for range 2 * transfer.ResendsMax {
		at, ok := s.Due()
		if !ok {
			t.Fatalf("it gave up: %+v", s.Ended())
		}
		now = at
		send(now, true)
	}
	if sent != window {
		t.Errorf("%d chunks, and %d again", window, sent-window)
	}
	if send(now+transfer.ResendAfter, false); sent == window {
		t.Error("they left, no answer came, and they are not sent again")
	}
}

// TestSendersGiveUp shows that a member that does not answer is given up after a bounded time, and a refused chunk is offered
// again and not lost.
func TestSendersGiveUp(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	s := p.leader.senders(4)
	s.Begin(0, 2)
	offer, ok := s.Next(0)
	if !ok {
		t.Fatal("nothing to send")
	}
	s.Refused(0, offer)
	if _, ok := s.Next(transfer.RefusedPause - 1); ok {
		t.Error("a refused chunk is offered again at once")
	}
	if at, _ := s.Due(); at != transfer.RefusedPause {
		t.Errorf("due at %v", at)
	}
	again, ok := s.Next(transfer.RefusedPause)
	if !ok || string(again.Data) != string(offer.Data) {
		t.Error("a refused chunk is not offered again")
	}
	now := time.Duration(0)
	for {
		at, ok := s.Due()
		if !ok {
			break
		}
		now = at
		for _, some := s.Next(now); some; _, some = s.Next(now) {
		}
	}
	ended := s.Ended()
	if len(ended) != 1 || ended[0].OK || ended[0].To != 2 || now != (transfer.ResendsMax+1)*transfer.ResendAfter {
		t.Errorf("after %v: %+v", now, ended)
	}
}

// TestSendersPauseAfterRefusals shows that a member that refuses every snapshot, as one of an older version does that cannot read it, is not sent
// one after the other: of a second refusal in a row the group hears, and wishes again, after a pause.
func TestSendersPauseAfterRefusals(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	cfg := receiverConfig(p.follower.disk, p.follower.log)
	good := cfg.Verify
	older := func(snapshot.Meta, io.Reader) (transfer.State, error) {
		return transfer.State{}, errors.New("unknown section")
	}
	cfg.Verify = func(m snapshot.Meta, content io.Reader) (transfer.State, error) { return older(m, content) }
	var err error
	p.follower.recv, err = transfer.NewReceiver(cfg)
	must(t, err)
	s := p.leader.senders(4)
	now := time.Duration(0)
	for try, pause := range []time.Duration{0, transfer.RefusalPause, transfer.RefusalPause, 0, 0, transfer.RefusalPause} {
		switch try {
		case 3: // It was upgraded.
			older = good
		case 4: // The next snapshot is of a newer version again.
			p.h.grow(200, 5)
			must(t, p.leader.follow(p.h.last()))
			must(t, p.leader.snapshot(0))
			cfg.Verify = func(snapshot.Meta, io.Reader) (transfer.State, error) {
				return transfer.State{}, errors.New("unknown section")
			}
			p.follower.recv, err = transfer.NewReceiver(cfg)
			must(t, err)
		}
		s.Begin(now, 2)
		began := now
		var ended []transfer.Ended
		for ended == nil {
			o, ok := s.Next(now)
			if ok {
				ack, err := p.follower.take(o.Data)
				must(t, err)
				s.Acked(now, ack)
			} else if at, due := s.Due(); due {
				now = max(now, at)
			}
			ended = s.Ended()
		}
		if len(ended) != 1 || ended[0].To != 2 || ended[0].Stats.Bytes == 0 || now-began != pause || ended[0].OK != (try == 3) || ended[0].Refused == ended[0].OK {
			t.Fatalf("try %d ended after %v: %+v", try, now-began, ended)
		}
		if _, due := s.Due(); due || len(s.Under(nil)) > 0 {
			t.Fatalf("after try %d there is something to do", try)
		}
	}
	s.Begin(now, 2)
	s.Lead(5)
	if _, due := s.Due(); due {
		t.Error("what is refused outlives the lead")
	}
}

// TestSendersFollowTheLead shows that transfers end with the lead, that a newer snapshot takes the place of one that the log has
// outlived, and what happens when there is none.
func TestSendersFollowTheLead(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	s := p.leader.senders(4)
	s.Begin(0, 2)
	offer, _ := s.Next(0)
	ack, err := p.follower.take(offer.Data)
	must(t, err)
	s.Lead(5)
	s.Acked(0, ack)
	if _, ok := s.Next(0); ok || len(s.Ended()) > 0 || len(s.Under(nil)) > 0 {
		t.Error("a transfer goes on without the lead")
	}
	s.Begin(0, 2)
	offer, _ = s.Next(0)
	ack, err = p.follower.take(offer.Data)
	must(t, err)
	s.Acked(0, ack)
	for range 3 { // the jobs that the first snapshot refers to end, and the log forgets them
		p.h.endings, p.h.spared = 8, 50
		p.h.grow(200, 5)
		must(t, p.leader.follow(p.h.last()))
		must(t, p.leader.snapshot(0))
	}
	ended := run(t, s, map[uint64]*node{2: p.follower}, func() bool { return false })
	if len(ended) != 1 || !ended[0].OK || ended[0].Index != p.leader.newest {
		t.Errorf("ended %+v", ended)
	}
	must(t, p.follower.check())

	blank := mustOpen(t, p.h, 8)
	none := blank.senders(1)
	none.Begin(0, 2)
	if ended := none.Ended(); len(ended) != 1 || ended[0].OK || !errors.Is(ended[0].Err, fs.ErrNotExist) {
		t.Errorf("without a snapshot: %+v", ended)
	}
}
