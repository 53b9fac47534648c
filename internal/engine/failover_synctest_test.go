package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// TestLeaderDiesUnderEnqueues: producers with sessions, which repeat what has no known outcome, have each job stored exactly once, though
// the shard's leader is killed in the middle of it. Those that were not sent yet see it as latency.
func TestLeaderDiesUnderEnqueues(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		const producers, each = 8, 40
		var all sync.WaitGroup
		var mu sync.Mutex
		stored := map[string]JobID{}
		unknown := 0
		for p := range producers {
			e := c.nodes[uint64(1+2*(p%2))] // 1 or 3
			all.Go(func() {
				session := SessionID{byte(p + 1)}
				for i := range each {
					label := fmt.Sprintf("%d-%d", p, i)
					for {
						out, err := e.Enqueue(context.Background(), &EnqueueRequest{
							Session: session, Sequence: uint64(i + 1),
							Jobs: []NewJob{{Queue: name, Spec: Spec{Priority: 5, Kind: "k", Payload: []byte(label)}}},
						}, nil)
						if err == nil {
							mu.Lock()
							stored[label] = out[0].ID
							mu.Unlock()
							break
						}
						if asError(err).Code != CodeUnknownOutcome {
							t.Errorf("%s: %v", label, err)
							return
						}
						mu.Lock()
						unknown++
						mu.Unlock()
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		c.net.mu.Lock()
		c.net.lose[callLeg{1, 2, callCommands}] = 3
		c.net.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		c.crash(2)
		all.Wait()
		if len(stored) != producers*each {
			t.Fatalf("%d jobs have an answer, want %d", len(stored), producers*each)
		}
		if unknown == 0 || unknown > 3*producers {
			t.Errorf("%d requests had an unknown outcome; want some, and no more than the lost calls carried", unknown)
		}
		seen := map[string]bool{}
		for len(seen) < len(stored) {
			got := fetchJobs(t, c.nodes[1], 0, 100, name)
			if len(got) == 0 {
				break
			}
			for _, j := range got {
				label := string(j.Spec.Payload)
				if seen[label] || stored[label] != j.ID {
					t.Fatalf("job %s is %v, was acknowledged as %v, seen before: %v", label, j.ID, stored[label], seen[label])
				}
				seen[label] = true
			}
		}
		if st, err := c.nodes[3].Queue(t.Context(), name); err != nil || st.Info.Enqueued != producers*each {
			t.Errorf("%+v, %v; want %d enqueued", st.Info, err, producers*each)
		}
	})
}

// TestFailoverIsLatency: a request that comes while nobody leads the shard waits for the next leader, within its deadline.
func TestFailoverIsLatency(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		c.crash(2)
		at := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err := c.nodes[1].Enqueue(short, &EnqueueRequest{Jobs: jobs(name, 1)}, nil)
		wantError(t, err, CodeDeadlineExceeded, ReasonDeadline)
		ids := enqueue(t, c.nodes[1], jobs(name, 1)...)
		if took := time.Since(at); took > 3*time.Second {
			t.Errorf("the enqueue took %v", took)
		}
		if s := state(t, c.nodes[3], ids[0]); s != queue.StateReady {
			t.Errorf("the job is %v", s)
		}
		// With one node left of three nobody leads for good: the wait is bounded, and nothing happened.
		c.crash(3)
		time.Sleep(5 * time.Second)
		at = time.Now()
		_, err = c.nodes[1].Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs(name, 1)}, nil)
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
		if took := time.Since(at); took < LeaderWaitMax || took > LeaderWaitMax+time.Second {
			t.Errorf("it was refused after %v", took)
		}
		_, err = c.nodes[1].Job(t.Context(), ids[0])
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
		_, err = c.nodes[1].Fetch(t.Context(), &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Minute})
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
	})
}

// TestCutOffNodeRefusesSoon: a node that reaches too few others does not keep its callers waiting for a leader that it would not hear of.
func TestCutOffNodeRefusesSoon(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[2]
		id := enqueue(t, e, jobs(name, 2)...)[1]
		w := register(t, e)
		held := fetchJobs(t, e, w, 1, name)[0]
		alone := func(is bool) {
			c.net.mu.Lock()
			c.net.alone[2] = is
			c.net.mu.Unlock()
			c.net.cutOff(2, is)
		}
		alone(true)
		at := time.Now()
		_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs(name, 1)}, nil)
		wantError(t, err, CodeUnknownOutcome, ReasonUnknownOutcome) // it was proposed while the node still led
		for what, call := range map[string]func() error{
			"enqueue": func() error {
				_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs(name, 1)}, nil)
				return err
			},
			"job": func() error {
				_, err := e.Job(t.Context(), id)
				return err
			},
			"fetch": func() error {
				_, err := e.Fetch(t.Context(), &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Minute})
				return err
			},
			"heartbeat": func() error {
				_, err := e.Heartbeat(t.Context(), w, []LeaseRef{{held.ID, held.Token}})
				return err
			},
			"resume": func() error {
				_, err := e.ResumeWorker(t.Context(), w, nil)
				return err
			},
			"finish": func() error {
				ended, err := e.Finish(t.Context(), w, []Outcome{{ID: held.ID, Token: held.Token}}, nil)
				if err != nil {
					return err
				}
				return ended[0].Err
			},
		} {
			began := time.Now()
			err := call()
			t.Log(what, time.Since(began), err)
			wantError(t, err, CodeUnavailable, ReasonCutOff)
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s was refused after %v", what, took)
			}
		}
		if took := time.Since(at); took > 5*time.Second {
			t.Errorf("all that took %v", took)
		}
		if ready, why := e.Ready(); ready {
			t.Errorf("it says that it is ready: %s", why)
		}
		alone(false)
		c.leader(2)
		if ready, why := e.Ready(); !ready {
			t.Errorf("it is not ready again: %s", why)
		}
		enqueue(t, e, jobs(name, 1)...)
	})
}

// TestSilentLeader: when the leader's machine is gone and its connections do not know it, requests go on as soon as another node leads.
func TestSilentLeader(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		ids := enqueue(t, e, jobs(name, 2)...)
		c.net.mu.Lock()
		c.net.mute[2] = true
		c.net.mu.Unlock()
		at := time.Now()
		lost := make(chan error, 1)
		go func() {
			_, err := e.Enqueue(context.Background(), &EnqueueRequest{Jobs: jobs(name, 1)}, nil)
			lost <- err
		}()
		if s := state(t, e, ids[1]); s != queue.StateReady {
			t.Errorf("the job is %v", s)
		}
		enqueue(t, e, jobs(name, 1)...)
		wantError(t, <-lost, CodeUnknownOutcome, ReasonUnknownOutcome)
		if got := fetchJobs(t, e, 0, 1, name); len(got) != 1 {
			t.Errorf("%+v", got)
		}
		if took := time.Since(at); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		c.net.mu.Lock()
		c.net.mute[2] = false
		c.net.mu.Unlock()
		c.leader(2)
	})
}

// TestConnectionBreaks: what was sent and got no answer has an unknown outcome, and its repeat under the session is the same operation;
// what was not sent goes elsewhere or waits.
func TestConnectionBreaks(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		request := &EnqueueRequest{Session: SessionID{9}, Sequence: 1, Jobs: jobs(name, 1)}
		c.net.mu.Lock()
		c.net.lose[callLeg{1, 2, callCommands}] = 1
		c.net.mu.Unlock()
		_, err := e.Enqueue(t.Context(), request, nil)
		wantError(t, err, CodeUnknownOutcome, ReasonUnknownOutcome)
		out, err := e.Enqueue(t.Context(), request, nil)
		if err != nil || out[0].Err != nil || !out[0].Duplicate {
			t.Fatalf("%+v, %v; want the first one's answer", out, err)
		}
		if st, err := e.Queue(t.Context(), name); err != nil || st.Info.Enqueued != 1 {
			t.Fatalf("%+v, %v", st.Info, err)
		}
		// A read whose answer is lost is asked again.
		c.net.mu.Lock()
		c.net.lose[callLeg{1, 2, callQuery}] = 2
		c.net.mu.Unlock()
		if s := state(t, e, out[0].ID); s != queue.StateReady {
			t.Errorf("the job is %v", s)
		}
		// The leader is cut off: the others elect another one, and its callers' jobs come to that.
		c.net.cutOff(2, true)
		ids := enqueue(t, e, jobs(name, 1)...)
		c.net.cutOff(2, false)
		c.leader(2)
		if s := state(t, c.nodes[2], ids[0]); s != queue.StateReady {
			t.Errorf("the job is %v", s)
		}
	})
}

// TestLostFetchAnswer: a fetch whose answer is lost goes on, and jobs that came with it are given back when the worker says what it holds.
func TestLostFetchAnswer(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		lose := func() {
			c.net.mu.Lock()
			c.net.lose[callLeg{1, 2, callFetch}] = 1
			c.net.mu.Unlock()
		}
		w := register(t, e)
		stop := beating(e, w)
		defer stop()
		lose()
		ids := enqueue(t, e, jobs(name, 1)...)
		if jobs, err := e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: []string{name}, Max: 5, Wait: time.Second}); err != nil || len(jobs) != 0 {
			t.Fatalf("%+v, %v", jobs, err)
		}
		lose()
		_, err := e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: []string{name}, Max: 5})
		wantError(t, err, CodeUnknownOutcome, ReasonUnknownOutcome)
		if s := state(t, e, ids[0]); s != queue.StateRunning {
			t.Fatalf("the job is %v", s)
		}
		if _, err := e.ResumeWorker(t.Context(), w, nil); err != nil {
			t.Fatal(err)
		}
		f := fetchJobs(t, e, w, 1, name)
		if len(f) != 1 || f[0].ID != ids[0] || f[0].Failures+f[0].Crashes != 0 {
			t.Fatalf("%+v", f)
		}
	})
}

// TestLeadMovesUnderAWorker: a worker goes on with its jobs when the shard's lead moves, planned or by a crash, and nobody else gets them.
func TestLeadMovesUnderAWorker(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		w := register(t, e)
		stop := beating(e, w)
		defer stop()
		ids := enqueue(t, e, jobs(name, 3)...)
		got := fetchJobs(t, e, w, 3, name)
		if len(got) != len(ids) {
			t.Fatalf("%+v", got)
		}
		waiting := c.nodes[3].fetchAside(t.Context(), &FetchRequest{Queues: []string{name}, Max: 5, Wait: time.Minute})
		c.lead(2, 3)
		ack(t, e, got[0])
		time.Sleep(2 * WorkerTTLDefault)
		c.lead(2, 2)
		time.Sleep(time.Second)
		c.crash(2)
		time.Sleep(2 * WorkerTTLDefault)
		reply, err := e.Heartbeat(t.Context(), w, []LeaseRef{{got[1].ID, got[1].Token}, {got[2].ID, got[2].Token}})
		if err != nil || len(reply.Lost) != 0 {
			t.Fatalf("%+v, %v", reply, err)
		}
		ack(t, e, got[1], got[2])
		select {
		case f := <-waiting:
			t.Fatalf("somebody else got %+v, %v", f.jobs, f.err)
		default:
		}
		more := enqueue(t, e, jobs(name, 1)...)
		if f := <-waiting; f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != more[0] {
			t.Fatalf("%+v", f)
		}
	})
}
