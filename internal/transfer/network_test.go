package transfer_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// files are the contents of all files below a directory.
func files(t *testing.T, disk *vfs.Sim, dir string) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	names, err := disk.List(dir)
	if err != nil {
		return all
	}
	for _, name := range names {
		name = dir + "/" + name
		info, err := disk.Stat(name)
		must(t, err)
		if info.Dir {
			maps.Copy(all, files(t, disk, name))
			continue
		}
		f, err := disk.Open(name)
		must(t, err)
		b := make([]byte, info.Size)
		if n, err := f.ReadAt(b, 0); n < len(b) {
			t.Fatal(err)
		}
		must(t, f.Close())
		all[name] = b
	}
	return all
}

// TestRefusedChunksChangeNothing sends, before each chunk that is due, everything that is not: chunks that are damaged, cut,
// repeated, ahead of their time, of other transfers and of other shards. Not a byte on the disk changes, nor what is due.
func TestRefusedChunksChangeNothing(t *testing.T) {
	t.Parallel()
	p := smallPair(t)
	rng := rand.New(rand.NewPCG(1, 1))
	s, err := p.leader.sender(4, 2)
	must(t, err)
	var due [][]byte // all chunks of the transfer, as a window without end would have them
	offer, err := s.Next(chunkBytes)
	must(t, err)
	ack, err := p.follower.take(offer)
	must(t, err)
	s.Acked(ack)
	for {
		b, err := s.Next(1 << 10)
		must(t, err)
		if b == nil {
			break
		}
		due = append(due, b)
	}
	stranger, err := p.leader.sender(4, 3)
	must(t, err)
	_, err = pump(stranger, mustOpen(t, p.h, 8), chunkBytes, 1)
	must(t, err)
	foreign, err := stranger.Next(1 << 10)
	must(t, err)
	old, err := p.leader.sender(3, 9)
	must(t, err)
	oldOffer, err := old.Next(chunkBytes)
	must(t, err)

	before := files(t, p.follower.disk, "node")
	for i, b := range due {
		refused := map[string][]byte{"of another transfer": foreign, "offered in an earlier term": oldOffer, "offered again": offer, "cut": b[:rng.IntN(len(b))]}
		flipped := bytes.Clone(b)
		flipped[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		refused["damaged"] = flipped
		if i > 0 {
			refused["repeated"] = due[rng.IntN(i)]
		}
		if i+1 < len(due) {
			refused["ahead of its time"] = due[i+1+rng.IntN(len(due)-i-1)]
		}
		for what, wrong := range refused {
			a, err := p.follower.recv.Accept(wrong)
			malformed := what == "damaged" || what == "cut"
			if errors.Is(err, transfer.ErrMalformed) != malformed || err != nil && !malformed {
				t.Fatalf("a chunk that is %s: %v", what, err)
			}
			if a.OutOfOrder != (what == "ahead of its time") {
				t.Errorf("a chunk that is %s is answered by %v", what, a.String())
			}
		}
		after := files(t, p.follower.disk, "node")
		if !maps.EqualFunc(before, after, bytes.Equal) {
			t.Fatalf("before chunk %d something changed the disk", i)
		}
		ack, err = p.follower.take(b)
		must(t, err)
		before = files(t, p.follower.disk, "node")
	}
	if state := s.Acked(ack); state != transfer.Installed {
		t.Errorf("it ended as %d", state)
	}
	must(t, p.follower.check())
}

// network carries chunks and acknowledgements, and does to them what networks do.
type network struct {
	rng    *rand.Rand
	chunks [][]byte
	acks   [][]byte
	faulty bool
}

// carry puts a message under way: perhaps twice, perhaps not at all, perhaps damaged, anywhere in the queue.
func (n *network) carry(queue *[][]byte, b []byte) {
	copies := 1
	if n.faulty {
		switch n.rng.IntN(12) {
		case 0:
			copies = 0
		case 1:
			copies = 2
		case 2:
			b = bytes.Clone(b)
			b[n.rng.IntN(len(b))] ^= 1 << n.rng.IntN(8)
		}
	}
	for range copies {
		at := len(*queue)
		if n.faulty && n.rng.IntN(4) == 0 {
			at = n.rng.IntN(at + 1)
		}
		*queue = append(*queue, nil)
		copy((*queue)[at+1:], (*queue)[at:])
		(*queue)[at] = b
	}
}

func next(queue *[][]byte) []byte {
	if len(*queue) == 0 {
		return nil
	}
	b := (*queue)[0]
	*queue = (*queue)[1:]
	return b
}

// flight is one run: two nodes that lead in turn, a follower, and the network between them.
type flight struct {
	h        *history
	net      network
	rng      *rand.Rand
	leaders  [2]*node
	follower *node
	sender   *transfer.Sender
	lead     int
	term     uint64
	number   uint64

	crashes, outdated, installed int
}

func (f *flight) offer() error {
	f.number++
	var err error
	f.sender, err = f.leaders[f.lead].sender(f.term, f.number)
	return err
}

// turn does one thing that happens to be next.
func (f *flight) turn() (done bool, err error) {
	switch f.rng.IntN(3) {
	case 0:
		b, err := f.sender.Next(1<<10 + f.rng.IntN(4<<10))
		if errors.Is(err, transfer.ErrOutdated) {
			f.outdated++
			return false, f.offer()
		}
		if err != nil {
			return false, err
		}
		if b != nil {
			f.net.carry(&f.net.chunks, b)
		} else if len(f.net.chunks)+len(f.net.acks) == 0 {
			f.sender.Resend()
		}
	case 1:
		b := next(&f.net.chunks)
		if b == nil {
			return false, nil
		}
		ack, err := f.follower.take(b)
		switch _, version := errors.AsType[*transfer.VersionError](err); {
		case errors.Is(err, transfer.ErrMalformed), version:
			return false, nil
		case err != nil:
			return false, err
		}
		f.net.carry(&f.net.acks, ack)
	case 2:
		b := next(&f.net.acks)
		if b == nil {
			return false, nil
		}
		switch state := f.sender.Acked(b); state {
		case transfer.Installed, transfer.NotNeeded:
			return true, nil
		case transfer.Failed:
			return false, f.offer() // An old message of a later transfer's may do this.
		case transfer.Sending, transfer.Waiting:
		}
	}
	return false, nil
}

// disturb does one of the things that should not happen and do.
func (f *flight) disturb() (err error) {
	switch f.rng.IntN(4) {
	case 0: // The follower crashes.
		f.crashes++
		f.follower, err = f.follower.reopen(vfs.Mixed(f.rng.Uint64()))
	case 1: // The other node takes the lead, with the snapshot it has.
		f.lead, f.term = 1-f.lead, f.term+1
		return f.offer()
	case 2: // The group commits more, and the leader forgets.
		err = f.advance(20)
	case 3: // The leader begins anew.
		return f.offer()
	}
	return err
}

func (f *flight) run(steps int) (done bool, err error) {
	for range steps {
		if f.net.faulty && f.rng.IntN(60) == 0 {
			if err := f.disturb(); err != nil {
				return false, fmt.Errorf("disturbed: %w", err)
			}
		}
		if done, err = f.turn(); err != nil || done && !f.net.faulty {
			return done, err
		}
		if done {
			f.installed++
			if err := f.advance(30); err != nil {
				return false, err
			}
			if err := f.offer(); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// advance lets the group commit more. The leader forgets what it can.
func (f *flight) advance(count int) error {
	f.h.grow(count, f.term)
	if err := f.leaders[f.lead].follow(f.h.last()); err != nil {
		return err
	}
	return f.leaders[f.lead].snapshot(uint64(f.rng.IntN(20)))
}

// TestNetworkAndCrashes lets a follower catch up over a bad network, from leaders that change, snapshot and forget, while it
// crashes. When that stops it has the leader's snapshot soon, and all that is live.
func TestNetworkAndCrashes(t *testing.T) {
	t.Parallel()
	var total flight
	for seed := range seeds(25) {
		p := smallPair(t)
		f := &flight{
			h: p.h, rng: rand.New(rand.NewPCG(seed, 7)), leaders: [2]*node{p.leader, mustOpen(t, p.h, 4)},
			follower: p.follower, term: 2,
		}
		f.net.rng, f.net.faulty = f.rng, true
		if f.rng.IntN(2) == 0 {
			f.follower = mustOpen(t, p.h, seed+50)
		}
		must(t, f.leaders[1].follow(250+uint64(f.rng.IntN(70))))
		must(t, f.leaders[1].snapshot(0))
		must(t, f.offer())
		for round := range 3 {
			if _, err := f.run(600); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			if err := f.follower.check(); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
		}
		f.net.faulty = false
		f.term++
		f.lead = 0
		must(t, f.advance(10))
		must(t, f.offer())
		done, err := f.run(5000)
		if err != nil || !done {
			t.Fatalf("seed %d: the follower does not catch up: %v", seed, err)
		}
		if f.follower.m.applied < f.leaders[0].newest {
			t.Fatalf("seed %d: the follower is at %d, want %d", seed, f.follower.m.applied, f.leaders[0].newest)
		}
		must(t, f.follower.check())
		must(t, f.follower.live(seed))
		total.crashes, total.outdated, total.installed = total.crashes+f.crashes, total.outdated+f.outdated, total.installed+f.installed+1
	}
	t.Logf("%d crashes, %d installed, %d outdated", total.crashes, total.installed, total.outdated)
}
