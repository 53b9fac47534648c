package chaos

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// roller is a load whose clients have default settings, each call of which has to succeed.
type roller struct {
	f     *fleet
	stop  atomic.Bool
	calls atomic.Int64
	next  atomic.Int64 // number of the last job

	mu     sync.Mutex
	ids    map[beaver.JobID]bool
	done   map[int64]int // how often the handlers did a job
	failed []error
}

func (r *roller) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
}

// called counts a call, and reports whether it went well.
func (r *roller) called(what string, err error) bool {
	r.calls.Add(1)
	if err != nil {
		r.fail(fmt.Errorf("%s at %s: %w", what, time.Now().Format("15:04:05.000"), err))
	}
	return err == nil
}

func (r *roller) job() beaver.Job {
	n := r.next.Add(1)
	return beaver.Job{Queue: fmt.Sprintf("q%d", n%8), Kind: "k", Payload: binary.BigEndian.AppendUint64(nil, uint64(n))}
}

func (r *roller) stored(id beaver.JobID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ids[id] {
		r.failed = append(r.failed, fmt.Errorf("%s was stored for two jobs", id))
	}
	r.ids[id] = true
}

// produce stores jobs, one by one and several at once, and reads some of them.
func (r *roller) produce(ctx context.Context, c *beaver.Client) {
	for i := 0; !r.stop.Load(); i++ {
		if i%10 == 9 {
			answers, err := c.EnqueueMany(ctx, []beaver.Job{r.job(), r.job(), r.job()})
			if r.called("EnqueueMany", err) {
				for _, a := range answers {
					if a.Err != nil {
						r.fail(a.Err)
						continue
					}
					r.stored(a.ID)
				}
			}
			continue
		}
		id, err := c.Enqueue(ctx, r.job())
		if r.called("Enqueue", err) {
			r.stored(id)
		}
		if i%10 == 0 {
			_, err := c.Job(ctx, id)
			r.called("Job", err)
		}
	}
}

// Work implements beaver.Handler.
func (r *roller) Work(_ context.Context, j *beaver.LeasedJob) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[int64(binary.BigEndian.Uint64(j.Payload))]++
	return nil
}

func (r *roller) worker(c *beaver.Client) *beaver.Worker {
	r.f.t.Helper()
	var queues []string
	for q := range 8 {
		queues = append(queues, fmt.Sprintf("q%d", q))
	}
	w, err := beaver.NewWorker(c, beaver.WorkerConfig{Queues: queues, Handler: beaver.HandlerFunc(r.Work)})
	if err != nil {
		r.f.t.Fatal(err)
	}
	if err := w.Start(r.f.ctx); err != nil {
		r.f.t.Fatal(err)
	}
	return w
}

// TestRollingRestart: all nodes are stopped and started one after the other under load. Clients with default settings see no
// call fail, no job is stored twice or lost, and the workers keep their ids and their leases. One client knows all nodes from
// the start, the other one node.
func TestRollingRestart(t *testing.T) {
	f := newFleet(t)
	flags := f.bootstrap()
	f.until(1, "all are active", func(i *beaver.ClusterInfo) bool { return len(i.Nodes) == 3 && whole(i, 3) })
	var all []string
	for node := 1; node <= 3; node++ {
		all = append(all, f.nodes[node].url())
	}
	r := &roller{f: f, ids: map[beaver.JobID]bool{}, done: map[int64]int{}}
	var clients []*beaver.Client
	var workers []*beaver.Worker
	var group sync.WaitGroup
	for _, addr := range []string{strings.Join(all, ","), all[0]} {
		c, err := beaver.NewClient(beaver.Config{Addr: addr})
		if err != nil {
			t.Fatal(err)
		}
		clients, workers = append(clients, c), append(workers, r.worker(c))
		for range 3 {
			group.Go(func() { r.produce(f.ctx, c) })
		}
	}
	ids := []uint64{workers[0].ID(), workers[1].ID()}
	for node := 1; node <= 3; node++ {
		before := r.calls.Load()
		began := time.Now()
		f.signal(node, syscall.SIGTERM)
		stopped := time.Since(began)
		f.start(node, flags(node)...)
		f.ready(node)
		t.Logf("node %d was away for %v, and took %v of that to stop; %d calls meanwhile", node, time.Since(began).Round(time.Millisecond),
			stopped.Round(time.Millisecond), r.calls.Load()-before)
		f.until(node, "all have a leader again", func(i *beaver.ClusterInfo) bool {
			for _, s := range i.Shards {
				if s.LeaderNodeID == 0 {
					return false
				}
			}
			return true
		})
	}
	r.stop.Store(true)
	group.Wait()
	r.settle(clients[0])
	for i, w := range workers {
		if w.ID() != ids[i] {
			t.Errorf("worker %d has become %d", ids[i], w.ID())
		}
		if err := w.Stop(f.ctx); err != nil {
			t.Error(err)
		}
		if s := w.Stats(); s.Stale != 0 {
			t.Errorf("a worker lost leases: %+v", s)
		}
		if err := clients[i].Close(f.ctx); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d calls, %d jobs; %d calls failed", r.calls.Load(), len(r.ids), len(r.failed))
}

// settle waits until all jobs are done, and checks the books.
func (r *roller) settle(c *beaver.Client) {
	t := r.f.t
	t.Helper()
	for _, err := range r.failed[:min(10, len(r.failed))] {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(r.f.ctx, clusterWait)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		queues, err := c.Queues(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var enqueued, completed, crashed uint64
		for _, q := range queues {
			enqueued, completed, crashed = enqueued+q.EnqueuedTotal, completed+q.CompletedTotal, crashed+q.CrashedTotal
		}
		if enqueued != uint64(len(r.ids)) || crashed != 0 {
			t.Fatalf("%d jobs are stored, and %d were acknowledged; %d leases were lost", enqueued, len(r.ids), crashed)
		}
		if completed == enqueued {
			break
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("%d of %d jobs are done", completed, enqueued)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.done) != len(r.ids) {
		t.Errorf("the handlers saw %d jobs, and %d were stored", len(r.done), len(r.ids))
	}
	again := 0
	for _, times := range r.done {
		if times > 1 {
			again++
		}
	}
	if again > 0 {
		t.Errorf("%d jobs were done more than once", again)
	}
}
