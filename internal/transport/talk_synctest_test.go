package transport

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// TestTalks: a peer that is connected and pings talks; one that is silent does not, nor one that has gone, which is known at once.
func TestTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		one, two := p.pair(t, h1, h2, nil)
		talks := func() (bool, time.Duration) {
			began := time.Now()
			yes := two.Talks(t.Context(), 1)
			return yes, time.Since(began)
		}
		if yes, took := talks(); yes || took > 0 {
			t.Errorf("before it has come: %v after %v", yes, took)
		}
		if two.Talks(t.Context(), 9) {
			t.Error("a stranger talks")
		}
		one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		if yes, took := talks(); !yes || took > PingIntervalDefault*3/2 {
			t.Errorf("connected: %v after %v", yes, took)
		}
		p.silent.Store(true)
		if yes, took := talks(); yes || took > 2*PingIntervalDefault {
			t.Errorf("silent: %v after %v", yes, took)
		}
		if err := one.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if yes, took := talks(); yes || took > 0 {
			t.Errorf("gone: %v after %v", yes, took)
		}
	})
}
