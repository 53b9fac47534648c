//go:build unix

package chaos

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// What an enqueue may take while the node stands still that its client is connected to. The first is what docs/operating.md promises and an
// election, on a machine that has nothing else to do: it is held where BEAVER_CHAOS_KILLS asks to measure. The second is held always,
// and less than what a client that only waits would need.
const (
	stallWaitMax     = 4 * time.Second
	stallWaitBusyMax = 15 * time.Second
	stallRounds      = 50 // jobs of each caller between two nodes
)

// TestStalledNode stops each node of a cluster in turn, as a process that hangs, and lets it go on only when every caller of a client was
// served that knows all nodes. A client stays with its node, so that it meets its own one stopped once at least. Nothing may be lost, and
// what the node goes on with must store nothing twice.
func TestStalledNode(t *testing.T) {
	f := newFleet(t)
	f.bootstrap()
	var addrs []string
	for _, n := range f.nodes {
		addrs = append(addrs, n.url())
	}
	c, err := beaver.NewClient(beaver.Config{Addr: strings.Join(addrs, ",")})
	if err != nil {
		t.Fatal(err)
	}
	load := newSteady(c, 8)
	t.Cleanup(func() {
		load.stop()
		_ = c.Close(context.Background()) // its servers may be gone
	})
	var worst time.Duration
	for victim := 1; victim <= 3; victim++ {
		f.until(victim%3+1, "all have leaders", func(i *beaver.ClusterInfo) bool {
			for _, s := range i.Shards {
				if s.LeaderNodeID == 0 {
					return false
				}
			}
			return len(i.Shards) > 0
		})
		for range stallRounds {
			load.served(t, time.Now())
		}
		load.slowest()
		p := f.nodes[victim]
		if stopped, err := p.halt(f.ctx); err != nil || !stopped {
			t.Fatalf("node %d stands still: %v, %v", victim, stopped, err)
		}
		load.served(t, time.Now())
		if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		slowest := load.slowest()
		worst = max(worst, slowest)
		t.Logf("node %d stood still: the slowest enqueue took %v", victim, slowest.Round(time.Millisecond))
		f.ready(victim)
	}
	for range stallRounds { // while the last one goes on with what it was sent
		load.served(t, time.Now())
	}
	load.stop()
	most := stallWaitBusyMax
	if os.Getenv("BEAVER_CHAOS_KILLS") != "" {
		most = stallWaitMax
	}
	if worst > most {
		t.Errorf("an enqueue took %v while its node stood still, over %v", worst, most)
	}
	load.settle(t)
}

// halt has the process stand still until it gets a SIGCONT. It reports whether it was seen to.
func (p *process) halt(ctx context.Context) (stopped bool, err error) {
	pid := p.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return false, err
	}
	for range 100 {
		var status syscall.WaitStatus
		if got, err := syscall.Wait4(pid, &status, syscall.WUNTRACED|syscall.WNOHANG, nil); err == nil && got == pid && status.Stopped() {
			return true, nil
		}
		_ = pause(ctx, 5*time.Millisecond)
	}
	return false, nil
}

// steady is callers that store numbered jobs one after the other, each in a queue of its own.
type steady struct {
	client *beaver.Client
	cancel context.CancelFunc
	group  sync.WaitGroup
	pause  *time.Ticker

	mu     sync.Mutex
	acked  map[string]beaver.JobID // by payload
	errs   []error
	worst  time.Duration // of the calls since slowest was asked
	begun  []time.Time   // by caller: when the last call that was answered began
	change chan struct{} // closed when a call is answered
}

func newSteady(c *beaver.Client, callers int) *steady {
	ctx, cancel := context.WithCancel(context.Background())
	s := &steady{
		client: c, cancel: cancel, pause: time.NewTicker(2 * time.Millisecond), acked: make(map[string]beaver.JobID),
		begun: make([]time.Time, callers), change: make(chan struct{}),
	}
	for caller := range callers {
		s.group.Go(func() { s.run(ctx, caller) })
	}
	return s
}

func (s *steady) run(ctx context.Context, caller int) {
	for n := 0; ctx.Err() == nil; n++ {
		payload := fmt.Sprintf("%d-%d", caller, n)
		began := time.Now()
		id, err := s.client.Enqueue(context.WithoutCancel(ctx), beaver.Job{Queue: "q" + strconv.Itoa(caller), Payload: []byte(payload)})
		s.note(caller, payload, began, id, err)
		select {
		case <-s.pause.C:
		case <-ctx.Done():
		}
	}
}

func (s *steady) note(caller int, payload string, began time.Time, id beaver.JobID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.worst = max(s.worst, time.Since(began))
	s.begun[caller] = began
	close(s.change)
	s.change = make(chan struct{})
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("job %s, after %v: %w", payload, time.Since(began), err))
		return
	}
	s.acked[payload] = id
}

// served waits until every caller was answered a call that it began after a moment.
func (s *steady) served(t *testing.T, moment time.Time) {
	t.Helper()
	limit, cancel := context.WithTimeout(t.Context(), clusterWait)
	defer cancel()
	for {
		s.mu.Lock()
		waiting := 0
		for _, began := range s.begun {
			if began.Before(moment) {
				waiting++
			}
		}
		change := s.change
		s.mu.Unlock()
		if waiting == 0 {
			return
		}
		select {
		case <-change:
		case <-limit.Done():
			t.Fatalf("%d callers are not served", waiting)
		}
	}
}

// slowest is what the slowest call took since this was asked before.
func (s *steady) slowest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.worst = 0 }()
	return s.worst
}

// stop returns when no call is under way. It may be called again.
func (s *steady) stop() {
	s.cancel()
	s.group.Wait()
	s.pause.Stop()
}

// settle compares what is stored with what was acknowledged.
func (s *steady) settle(t *testing.T) {
	t.Helper()
	for _, err := range s.errs {
		t.Error(err)
	}
	stored := make(map[string]beaver.JobID)
	for caller := range s.begun {
		filter := beaver.JobFilter{Queue: "q" + strconv.Itoa(caller), State: beaver.StateReady, Full: true}
		for job, err := range s.client.Jobs(t.Context(), filter) {
			if err != nil {
				t.Fatal(err)
			}
			payload := string(job.Payload)
			if first, twice := stored[payload]; twice {
				t.Errorf("job %s is stored twice, as %s and %s", payload, first, job.ID)
			}
			stored[payload] = job.ID
		}
	}
	for payload, id := range s.acked {
		if stored[payload] != id {
			t.Errorf("job %s was acknowledged as %s, and is stored as %q", payload, id, stored[payload])
		}
	}
	t.Logf("%d jobs were acknowledged, and %d are stored", len(s.acked), len(stored))
}
