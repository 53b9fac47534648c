package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// wantHearing waits a while and then looks what a node hears of another.
func (c *fleet) wantHearing(at, of uint64, want Hearing) NodeHeard {
	c.t.Helper()
	h := c.nodes[at].Heard(of)
	if h.Hearing != want {
		c.t.Errorf("node %d of node %d: %v, %+v; want %v", at, of, h.Hearing, h, want)
	}
	return h
}

// TestNodesHearEachOther: every node hears of every other one several times in the TTL, with what that does and has. One that is cut off is
// silent after the TTL and not before, to both sides, and what it told last is kept; when it is back it is heard at once. One that died is silent
// too, and so it is for one that was started after that.
func TestNodesHearEachOther(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		w := register(t, c.nodes[3])
		stop := beating(c.nodes[3], w)
		defer stop()
		enqueue(t, c.nodes[3], jobs(name, 25)...)
		ack(t, c.nodes[3], fetchJobs(t, c.nodes[3], w, 5, name)...)
		time.Sleep(2 * heartbeatInterval)
		for at := range c.nodes {
			for of := range c.nodes {
				h := c.wantHearing(at, of, HearingHeard)
				if h.Load == nil || h.Ago > heartbeatInterval+heartbeatJitter {
					t.Fatalf("node %d of node %d: %+v", at, of, h)
				}
				l := *h.Load
				if l.Processors == 0 || l.DiskBytes == 0 || l.DiskFree == 0 || l.DataBytes == 0 || l.DiskFull || l.Leads == 0 {
					t.Errorf("node %d of node %d: %+v", at, of, l)
				}
				if leads := of == 2; leads != (l.Stored > 0) || leads != (l.Ended > 0) {
					t.Errorf("node %d of node %d, which leads shard %d: %+v", at, of, of, l)
				}
				if connected := of == 3; connected != (l.Workers == 1) {
					t.Errorf("node %d of node %d: %+v", at, of, l)
				}
			}
		}
		c.net.cutOff(3, true)
		time.Sleep(NodeTTL - 2*heartbeatInterval)
		c.wantHearing(1, 3, HearingHeard)
		time.Sleep(3 * heartbeatInterval)
		if h := c.wantHearing(1, 3, HearingSilent); h.Load == nil || h.Ago < NodeTTL {
			t.Errorf("what it told last is gone: %+v", h)
		}
		c.wantHearing(1, 2, HearingHeard)
		c.wantHearing(3, 1, HearingSilent)
		c.wantHearing(3, 3, HearingHeard)
		c.net.cutOff(3, false)
		time.Sleep(2 * heartbeatInterval)
		c.wantHearing(1, 3, HearingHeard)
		c.wantHearing(3, 1, HearingHeard)
		c.crash(3)
		time.Sleep(NodeTTL + heartbeatInterval)
		c.wantHearing(2, 3, HearingSilent)
		c.crash(2)
		c.open(2)
		if h := c.wantHearing(2, 3, HearingUnknown); h.Ever {
			t.Errorf("%+v", h)
		}
		time.Sleep(NodeTTL + heartbeatInterval)
		if h := c.wantHearing(2, 3, HearingSilent); h.Ever {
			t.Errorf("%+v", h)
		}
	})
}

// TestEarlierVersionIsNotSilent: a node of a version without heartbeats is unknown as long as it answers, also one that was of a newer version
// before; when it has died it is silent.
func TestEarlierVersionIsNotSilent(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		time.Sleep(2 * heartbeatInterval)
		c.wantHearing(1, 3, HearingHeard)
		c.net.mu.Lock()
		c.net.early[3] = true
		c.net.mu.Unlock()
		for range 3 {
			time.Sleep(NodeTTL)
			if h := c.wantHearing(1, 3, HearingUnknown); h.Load != nil || !h.Ever || h.Ago > 2*heartbeatInterval {
				t.Errorf("%+v", h)
			}
		}
		c.crash(3)
		time.Sleep(NodeTTL + heartbeatInterval)
		c.wantHearing(1, 3, HearingSilent)
	})
}

// TestStalledPeerHoldsUpNobody: while one node takes all calls and answers none, the others hear of each other as ever.
func TestStalledPeerHoldsUpNobody(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		c.net.mu.Lock()
		c.net.mute[3] = true
		c.net.mu.Unlock()
		for range 20 {
			time.Sleep(heartbeatInterval)
			if h := c.wantHearing(1, 2, HearingHeard); h.Ago > heartbeatInterval+heartbeatJitter {
				t.Fatalf("%+v", h)
			}
		}
		c.wantHearing(1, 3, HearingSilent)
		c.net.mu.Lock()
		c.net.mute[3] = false
		c.net.mu.Unlock()
		time.Sleep(3 * heartbeatInterval)
		c.wantHearing(1, 3, HearingHeard)
	})
}

// TestHeartbeatsAfterAPause: a node that stood still calls nobody silent before it could hear of them.
func TestHeartbeatsAfterAPause(t *testing.T) {
	var h heartbeats
	now := heartbeatInterval
	h.turn(now, []uint64{2})
	h.told(2)
	h.hear(2, now, &NodeLoad{})
	now += time.Minute
	if s := h.of(2, now).Hearing; s != HearingHeard {
		t.Errorf("before its turn: %v", s)
	}
	h.turn(now, []uint64{2})
	for range nodePulseShare {
		if s := h.of(2, now).Hearing; s != HearingHeard {
			t.Errorf("after its turn: %v", s)
		}
		now += heartbeatInterval
		h.turn(now, []uint64{2})
	}
	now += heartbeatInterval
	h.turn(now, []uint64{2})
	if s := h.of(2, now).Hearing; s != HearingSilent {
		t.Errorf("after a TTL: %v", s)
	}
	h.turn(now, []uint64{3})
	if len(h.nodes) != 1 {
		t.Errorf("a node that is none any more is remembered: %d", len(h.nodes))
	}
}

// TestHeartbeatLimit: a heartbeat that is too long or none is refused, and counts for nothing.
func TestHeartbeatLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		body := make([]byte, heartbeatBytesMax+1)
		for i := range body {
			body[i] = ' '
		}
		copy(body, "{}")
		for name, tt := range map[string]struct {
			body []byte
			want bool
		}{
			"at the limit":   {body[:heartbeatBytesMax], true},
			"over the limit": {body, false},
			"no JSON":        {[]byte("x"), false},
			"of later":       {[]byte(`{"Leads":2,"Warp":9}`), true},
		} {
			before := e.heartbeats.of(2, 0).Ever
			_, err := e.serveHeartbeat(2, &reader{b: tt.body})
			if taken := err == nil; taken != tt.want {
				t.Errorf("%s: %v", name, err)
			}
			if !tt.want && e.heartbeats.of(2, 0).Ever != before {
				t.Errorf("%s: it counts", name)
			}
		}
	})
}

// TestLoadAlone: a node that has no others tells of itself all the same: rates over the last seconds, and workers that are there.
func TestLoadAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		time.Sleep(NodeTTL)
		w := register(t, e)
		enqueue(t, e, jobs("q", 10)...)
		got := fetchJobs(t, e, w, 3, "q")
		ack(t, e, got...)
		time.Sleep(2 * heartbeatInterval)
		l := e.Heard(1).Load
		if l.Stored < 1.5 || l.Stored > 3 || l.Ended < 0.4 || l.Ended > 1 {
			t.Errorf("rates of 10 jobs and 3 attempts in 5 s: %+v", l)
		}
		if s := e.Stats(); s.Stored != 10 || s.Ended != 3 {
			t.Errorf("stored %d, ended %d", s.Stored, s.Ended)
		}
		if ws, err := e.Workers(t.Context()); err != nil || len(ws) != 1 || ws[0].Node != 1 {
			t.Errorf("%+v, %v", ws, err)
		}
		lives(t, e, w, 2*NodeTTL)
		if l := e.Load(); l.Stored != 0 || l.Ended != 0 || l.Workers != 1 || l.DataBytes == 0 {
			t.Errorf("idle: %+v", l)
		}
	})
}

// TestWorkersNode: every node says which node a worker is connected to, and what it was told to do, wherever it was told.
func TestWorkersNode(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		w := register(t, c.nodes[3])
		stop := beating(c.nodes[3], w)
		defer stop()
		look := func(state WorkerState) {
			t.Helper()
			time.Sleep(WorkerTTLDefault / 2)
			for id, e := range c.nodes {
				ws, err := e.Workers(t.Context())
				if err != nil || len(ws) != 1 || ws[0].Node != 3 || ws[0].State != state {
					t.Errorf("node %d: %+v, %v; want state %v", id, ws, err, state)
				}
			}
		}
		look(WorkerRun)
		if err := c.nodes[2].SignalWorker(t.Context(), w, WorkerStop); err != nil {
			t.Fatal(err)
		}
		look(WorkerStop)
		c.lead(0, 2)
		look(WorkerStop)
		c.lead(0, 3)
		look(WorkerStop)
		c.lead(0, 1)
		look(WorkerStop)
		if err := c.nodes[1].SignalWorker(t.Context(), w, WorkerRun); err != nil {
			t.Fatal(err)
		}
		look(WorkerRun)
		c.nodes[3].WorkerStops(w)
		look(WorkerStop)
		c.nodes[3].WorkerStops(w)
		c.nodes[3].WorkerStops(w + 100) // nobody
		look(WorkerStop)
	})
}

// TestCounts: what counts as stored and as ended.
func TestCounts(t *testing.T) {
	ok := queue.Result{}
	if s, d := queue.Counts(queue.AppendAck(nil, 1, 1, "", nil), ok); s || !d {
		t.Error("an ack")
	}
	if s, d := queue.Counts(queue.AppendAck(nil, 1, 1, "", nil), queue.Result{Code: queue.CodeStale}); s || d {
		t.Error("a refused ack")
	}
	if s, d := queue.Counts(queue.AppendRelease(nil, 1, 1), ok); s || d {
		t.Error("a release")
	}
	if s, d := queue.Counts(nil, ok); s || d {
		t.Error("nothing")
	}
}
