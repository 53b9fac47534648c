package transport

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// TestBatching: what waits for a node shares a frame, whatever shard it is of.
func TestBatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, _ := p.pair(t, h1, h2, nil)
		for shard := range uint16(500) {
			if !one.Send(2, shard, []*raftpb.Message{heartbeat(uint64(shard))}) {
				t.Fatal("a heartbeat was not taken")
			}
		}
		synctest.Wait()
		if len(h2.arrived()) != 500 {
			t.Fatalf("%d messages arrived", len(h2.arrived()))
		}
		s := one.Stats().Peers[0].Messages
		if s.MessagesOut != 500 || s.FramesOut > 100 || s.Dropped != 0 || s.QueuedMessages != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestOrderAcrossCuts: connections break all the time, and what arrives is in order, without repeats, and whole.
func TestOrderAcrossCuts(t *testing.T) {
	for name, security := range map[string]Security{"insecure": Insecure(), "secret": Secret(testSecret())} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { orderAcrossCuts(t, security) })
		})
	}
}

func orderAcrossCuts(t *testing.T, security Security) {
	p, h1, h2 := newPipes(), newRecord(), newRecord()
	h2.onMessage = func() { time.Sleep(time.Millisecond) } // the handler is behind: old and new connections meet in it
	one, _ := p.pair(t, h1, h2, func(c *Config) {
		c.Security, c.BackoffMin, c.BackoffMax = security, time.Millisecond, 5*time.Millisecond
	})
	data := bytes.Repeat([]byte("x"), 10_000)
	sent := uint64(0)
	for round := range 300 {
		for range 20 {
			sent++
			one.Send(2, uint16(sent/10%2), []*raftpb.Message{appendOf(sent, data[:sent%10_000])})
			one.SendTransfer(2, 1, uint8(sent), data)
		}
		time.Sleep(7 * time.Millisecond)
		if round%10 == 9 {
			p.cut()
		}
	}
	time.Sleep(5 * time.Second)
	synctest.Wait()
	last := uint64(0)
	for i, r := range h2.arrived() {
		entry := r.message.Entries[0]
		if entry.GetIndex() <= last || r.shard != uint16(entry.GetIndex()/10%2) || len(entry.Data) != int(entry.GetIndex()%10_000) {
			t.Fatalf("message %d: index %d after %d, shard %d, %d bytes", i, entry.GetIndex(), last, r.shard, len(entry.Data))
		}
		last = entry.GetIndex()
	}
	s := one.Stats().Peers[0]
	if len(h2.arrived()) < int(sent)/2 || len(h2.arrived()) == int(sent) || h1.cuts() < 10 {
		t.Fatalf("%d of %d arrived, %+v, %d cuts noticed", len(h2.arrived()), sent, s, h1.cuts())
	}
	if uint64(len(h2.arrived())) > s.Messages.MessagesOut || s.Messages.MessagesOut+s.Messages.Dropped != sent {
		t.Fatalf("%d arrived, %d sent, %+v", len(h2.arrived()), sent, s)
	}
}

// TestDeadPeerIsNoticed: a peer that says nothing any more is cut off, from both sides, also while nobody has anything to say.
func TestDeadPeerIsNoticed(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p, h1, h2 := newPipes(), newRecord(), newRecord()
			one, two := p.pair(t, h1, h2, nil)
			one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if len(h2.arrived()) != 1 || h1.cuts() != 0 || !one.Stats().Peers[0].Messages.Connected {
				t.Fatalf("an idle connection: %+v", one.Stats())
			}
			p.silent.Store(true)
			silentSince := time.Now()
			for one.Stats().Peers[0].Messages.Connected {
				if busy {
					one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
				}
				time.Sleep(50 * time.Millisecond)
				if time.Since(silentSince) > SilenceMaxDefault+time.Second {
					t.Fatal("the silence is not noticed")
				}
			}
			time.Sleep(SilenceMaxDefault)
			synctest.Wait()
			if h1.cuts() == 0 {
				t.Fatal("nobody was told")
			}
			two.mu.Lock()
			open := len(two.inbounds)
			two.mu.Unlock()
			if open > 0 {
				t.Fatalf("%d connections are kept at the other side", open)
			}
			p.silent.Store(false)
			time.Sleep(DialTimeoutDefault + BackoffMaxDefault)
			one.Send(2, 1, []*raftpb.Message{heartbeat(2)})
			synctest.Wait()
			if n := len(h2.arrived()); h2.arrived()[n-1].message.GetCommit() != 2 {
				t.Fatal("the connection did not come back")
			}
		})
	}
}

// TestBackoff: a peer that is not there is dialled less and less often, and at once when it makes itself heard.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1 := newPipes(), newRecord()
		one := p.node(t, 1, h1, nil)
		setPeer(t, one, 2, "node-2")
		time.Sleep(time.Hour)
		if n := p.dials.Load(); n != 0 {
			t.Fatalf("%d attempts without need", n)
		}
		for range 600 { // a minute
			one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		attempts := p.dials.Load()
		if attempts < 60 || attempts > 130 {
			t.Fatalf("%d attempts in a minute", attempts)
		}
		if s := one.Stats().Peers[0].Messages; s.Dropped != 600 || s.QueuedMessages != 0 || int64(h1.cuts()) != attempts {
			t.Fatalf("%+v, %d reports", s, h1.cuts())
		}
		for !one.Send(2, 1, []*raftpb.Message{heartbeat(1)}) {
			time.Sleep(time.Millisecond)
		}
		synctest.Wait() // the pause has just begun
		if one.Send(2, 1, []*raftpb.Message{heartbeat(1)}) {
			t.Fatal("something was taken during a pause")
		}
		h2 := newRecord()
		two := p.node(t, 2, h2, nil)
		setPeer(t, two, 1, "node-1")
		two.Send(1, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		if !one.Send(2, 1, []*raftpb.Message{heartbeat(9)}) {
			t.Fatal("the pause goes on although the peer was heard")
		}
		synctest.Wait()
		if len(h2.arrived()) != 1 || h2.arrived()[0].message.GetCommit() != 9 {
			t.Fatalf("%v", h2.arrived())
		}
	})
}

// TestQueueBounds: over its bytes only messages with entries are dropped, over its count all are, and never a part of one.
func TestQueueBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h := newPipes(), newRecord()
		p.listen("node-2") // nobody accepts: what is sent waits
		one := p.node(t, 1, h, func(c *Config) { c.QueueBytes = MessageBytesMax; c.DialTimeout = time.Hour })
		setPeer(t, one, 2, "node-2")
		data := make([]byte, 1<<20)
		for i := range uint64(9) {
			if !one.Send(2, 1, []*raftpb.Message{appendOf(i+1, data)}) {
				t.Fatalf("message %d was dropped", i)
			}
		}
		if one.Send(2, 1, []*raftpb.Message{appendOf(10, data[:1]), heartbeat(1)}) {
			t.Fatal("an append over the bound was taken")
		}
		s := one.Stats().Peers[0].Messages
		if s.QueuedMessages != 10 || s.QueuedBytes != 9<<20 || s.Dropped != 1 {
			t.Fatalf("%+v", s)
		}
		rest := make([]*raftpb.Message, queueMessagesMax-10)
		for i := range rest {
			rest[i] = heartbeat(uint64(i))
		}
		if !one.Send(2, 1, rest) {
			t.Fatal("there is room for more heartbeats")
		}
		if one.Send(2, 1, rest[:1]) {
			t.Fatal("a message over the bound was taken")
		}
		if s := one.Stats().Peers[0].Messages; s.QueuedMessages != queueMessagesMax || s.Dropped != 2 {
			t.Fatalf("%+v", s)
		}
		if one.Send(3, 1, rest[:1]) {
			t.Fatal("a message to a stranger was taken")
		}
		if one.Send(2, 1, []*raftpb.Message{{Type: raftpb.MsgSnap.Enum()}}) {
			t.Fatal("a snapshot was taken")
		}
	})
}

func TestTransferBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h := newPipes(), newRecord()
		p.listen("node-2")
		one := p.node(t, 1, h, func(c *Config) { c.DialTimeout = time.Hour })
		setPeer(t, one, 2, "node-2")
		big := make([]byte, TransferBytesMax+1)
		if one.SendTransfer(2, 1, 1, big) {
			t.Fatal("a chunk over the bound was taken")
		}
		if one.SendTransfer(3, 1, 1, nil) {
			t.Fatal("a chunk to a stranger was taken")
		}
		taken := 0
		for one.SendTransfer(2, 1, 1, big[:1<<20]) {
			taken++
		}
		if s := one.Stats().Peers[0].Transfers; taken != 16 || s.QueuedBytes != 16<<20 || s.Dropped != 2 {
			t.Fatalf("%d chunks, %+v", taken, s)
		}
		for one.SendTransfer(2, 1, 1, nil) {
			taken++
		}
		if taken != transferQueueMax {
			t.Fatalf("%d chunks", taken)
		}
	})
}

// TestTransferRate: chunks go out at the configured pace, and heartbeats at theirs.
func TestTransferRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, _ := p.pair(t, h1, h2, func(c *Config) { c.TransferRate = 1 << 20 })
		started := time.Now()
		for range 16 {
			if !one.SendTransfer(2, 1, 1, make([]byte, 512<<10)) {
				t.Fatal("a chunk was not taken")
			}
		}
		for synctest.Wait(); len(h2.transfers()) < 16; synctest.Wait() {
			one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
			synctest.Wait()
			if held := one.TransfersWait(2, 1); held == (len(h2.transfers()) == 16) {
				t.Fatalf("with %d chunks there it says that some wait: %v", len(h2.transfers()), held)
			}
			if n := one.Stats().Peers[0].Messages.QueuedMessages; n > 0 {
				t.Fatal("a heartbeat waits behind a transfer")
			}
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(started)
		if took < 7*time.Second || took > 8*time.Second { // the first one goes at once
			t.Fatalf("8 MiB at 1 MiB a second took %v", took)
		}
		if h1.cuts() > 0 {
			t.Fatalf("a throttled connection was cut: %v", h1.failures())
		}
	})
}

// TestSmallTransfersOvertake: what one shard has on its way holds up neither the acknowledgements of others, nor their finding out that what they
// sent was lost.
func TestSmallTransfersOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, _ := p.pair(t, h1, h2, func(c *Config) { c.TransferRate = 1 << 20 })
		fill := func(shard uint16) {
			for range 8 {
				if !one.SendTransfer(2, shard, 1, make([]byte, 512<<10)) {
					t.Fatal("a chunk was not taken")
				}
			}
		}
		fill(1)
		fill(2)
		synctest.Wait()
		p.cut()
		synctest.Wait()
		if one.TransfersWait(2, 1) || one.TransfersWait(2, 2) {
			t.Fatal("what was lost waits")
		}
		for !one.SendTransfer(2, 1, 1, make([]byte, 512<<10)) {
			time.Sleep(10 * time.Millisecond)
		}
		fill(1)
		if !one.TransfersWait(2, 1) || one.TransfersWait(2, 2) {
			t.Fatalf("shard 1 waits: %v; shard 2, of which all was lost, waits: %v", one.TransfersWait(2, 1), one.TransfersWait(2, 2))
		}
		time.Sleep(100 * time.Millisecond)
		before, began := len(h2.transfers()), time.Now()
		if !one.SendTransfer(2, 2, 4, make([]byte, transferSmallBytesMax)) {
			t.Fatal("an acknowledgement was not taken")
		}
		synctest.Wait()
		if all := h2.transfers(); len(all) != before+1 || all[before].shard != 2 || time.Since(began) > 0 {
			t.Fatalf("an acknowledgement of another shard waits: %d chunks arrived, and %d were there", len(all), before)
		}
		if !one.SendTransfer(2, 1, 9, make([]byte, 1)) {
			t.Fatal("the last chunk was not taken")
		}
		time.Sleep(10 * time.Second)
		if one.TransfersWait(2, 1) || one.Stats().Peers[0].Transfers.QueuedBytes != 0 {
			t.Fatal("some wait for ever")
		}
		if all := h2.transfers(); all[len(all)-1].kind != 9 {
			t.Fatal("the last chunk of a shard, a small one, overtook those before it")
		}
	})
}

// TestRemovedPeer: it is cut off in both directions and refused from then on, until it is a peer again.
func TestRemovedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, two := p.pair(t, h1, h2, nil)
		one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
		two.Send(1, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		one.RemovePeer(2)
		one.RemovePeer(2)
		synctest.Wait()
		if h2.cuts() != 1 || h1.cuts() != 0 {
			t.Fatalf("reports: %v at the removed one, %v at the other", h2.failures(), h1.failures())
		}
		if one.Send(2, 1, []*raftpb.Message{heartbeat(2)}) {
			t.Fatal("a message to a removed peer was taken")
		}
		if _, err := one.Call(t.Context(), 2, 1, nil); !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		two.Send(1, 1, []*raftpb.Message{heartbeat(2)})
		synctest.Wait()
		if last := h2.failures()[len(h2.failures())-1]; !errors.Is(last, ErrStranger) {
			t.Fatalf("a removed peer is told %v", last)
		}
		setPeer(t, one, 2, "node-2")
		time.Sleep(time.Minute)
		two.Send(1, 1, []*raftpb.Message{heartbeat(3)})
		one.Send(2, 1, []*raftpb.Message{heartbeat(3)})
		synctest.Wait()
		if n := len(h1.arrived()); n != 2 || h1.arrived()[1].message.GetCommit() != 3 || len(h2.arrived()) != 2 {
			t.Fatalf("%v, %v", h1.arrived(), h2.arrived())
		}
	})
}

// TestMovedPeer: a new address takes effect at once.
func TestMovedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2, h3 := newPipes(), newRecord(), newRecord(), newRecord()
		one, two := p.pair(t, h1, h2, nil)
		one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		moved := p.node(t, 2, h3, func(c *Config) { c.Listener = p.listen("elsewhere") })
		setPeer(t, moved, 1, "node-1")
		setPeer(t, one, 2, "node-2") // no news
		synctest.Wait()
		if h1.cuts() > 0 {
			t.Fatal("the same address cut a connection")
		}
		setPeer(t, one, 2, "elsewhere")
		synctest.Wait()
		if len(h1.failures()) != 1 || !errors.Is(h1.failures()[0], errMoved) {
			t.Fatalf("%v", h1.failures())
		}
		time.Sleep(BackoffMaxDefault)
		one.Send(2, 1, []*raftpb.Message{heartbeat(2)})
		synctest.Wait()
		if len(h2.arrived()) != 1 || len(h3.arrived()) != 1 {
			t.Fatalf("%d messages at the old place, %d at the new one", len(h2.arrived()), len(h3.arrived()))
		}
		_ = two
	})
}

func TestSetPeerLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := newPipes().node(t, 1, newRecord(), nil)
		if one.SetPeer(0, "x") == nil || one.SetPeer(1, "x") == nil {
			t.Fatal("node 0 or the node itself became a peer")
		}
		for node := range uint64(PeersMax) {
			setPeer(t, one, node+2, "x")
		}
		if one.SetPeer(PeersMax+2, "x") == nil {
			t.Fatal("a peer over the bound was taken")
		}
		setPeer(t, one, 2, "y")
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		if err := one.SetPeer(2, "z"); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHandshakesAreBounded: who says nothing is not waited for long, and not by many.
func TestHandshakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		two := p.node(t, 2, newRecord(), func(c *Config) { c.Security = Secret(testSecret()) })
		for range handshakesMax + 10 {
			if _, err := p.dial(t.Context(), "node-2"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		two.mu.Lock()
		open := len(two.shaking)
		two.mu.Unlock()
		if open != handshakesMax || two.Stats().Refused != 10 {
			t.Fatalf("%d handshakes, %d refused", open, two.Stats().Refused)
		}
		time.Sleep(DialTimeoutDefault + time.Millisecond)
		synctest.Wait()
		if s := two.Stats(); s.Refused != handshakesMax+10 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestStrangersKeepNobodyOut: whoever holds all handshakes that there may be, and says nothing, does not keep peers from theirs.
func TestStrangersKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, two := p.pair(t, h1, h2, func(c *Config) { c.Security = Secret(testSecret()) })
		for range handshakesMax {
			if _, err := p.dial(t.Context(), "node-2"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		if len(h2.arrived()) != 1 {
			t.Fatalf("a peer does not get through: %v, %+v", h1.failures(), two.Stats())
		}
		two.mu.Lock()
		open := len(two.shaking)
		two.mu.Unlock()
		if open != handshakesMax-1 {
			t.Fatalf("%d strangers are waited for", open)
		}
	})
}

// TestReload: new connections take new credentials, and old ones go on.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, two := p.pair(t, h1, h2, func(c *Config) { c.Security = Secret(testSecret()) })
		one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		next := Secret(bytes.Repeat([]byte("next"), 10))
		if err := one.Reload(next); err != nil {
			t.Fatal(err)
		}
		for wrong, security := range map[string]Security{"none": Insecure(), "short": Secret([]byte("short"))} {
			if err := one.Reload(security); !errors.Is(err, ErrSecurity) {
				t.Fatalf("%s: %v", wrong, err)
			}
		}
		one.Send(2, 1, []*raftpb.Message{heartbeat(2)})
		synctest.Wait()
		if len(h2.arrived()) != 2 {
			t.Fatal("an open connection was cut")
		}
		one.SendTransfer(2, 1, 1, nil)
		time.Sleep(time.Minute)
		if len(h2.transfers()) != 0 {
			t.Fatal("a new connection was made with the old secret")
		}
		if err := two.Reload(next); err != nil {
			t.Fatal(err)
		}
		one.SendTransfer(2, 1, 1, nil)
		synctest.Wait()
		if len(h2.transfers()) != 1 {
			t.Fatal("no connection was made with the new secret")
		}
	})
}
