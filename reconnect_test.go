package beaver_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/server"
)

// cutter is a TCP proxy that cuts each connection after so many bytes, in the middle of whatever they are.
type cutter struct {
	net.Listener
	target string
	cuts   atomic.Int64
	mu     sync.Mutex
	random *rand.Rand
	upMax  int64 // draw up to so many bytes
	down   int64
	whole  bool // cut no more
}

func newCutter(t *testing.T, target string, seed uint64, up, down int64) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, target: target, random: rand.New(rand.NewPCG(seed, 0)), upMax: up, down: down}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { c.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		group.Wait()
	})
	return c
}

// limits draws how many bytes go through before the cut, up and down.
func (c *cutter) limits() (up, down int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole {
		return 1 << 40, 1 << 40
	}
	return 200 + c.random.Int64N(c.upMax), 50 + c.random.Int64N(c.down)
}

func (c *cutter) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.whole = true
}

func (c *cutter) carry(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	server, err := net.Dial("tcp", c.target)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	up, down := c.limits()
	done := make(chan struct{}, 2)
	pipe := func(dst io.Writer, src io.Reader, limit int64) {
		if n, _ := io.CopyN(dst, src, limit); n == limit {
			c.cuts.Add(1)
		}
		done <- struct{}{}
	}
	go pipe(server, conn, up)
	go pipe(conn, server, down)
	<-done
	_ = conn.Close()
	_ = server.Close()
	<-done
}

// TestEnqueueOnceOverBrokenConnections enqueues over connections that break in the middle of messages and of answers: each
// job is stored once, and its ID is the stored one's.
func TestEnqueueOnceOverBrokenConnections(t *testing.T) {
	s := openServer(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(func() { closeServer(t, s) })
	cut := newCutter(t, s.Addr(), 7, 20_000, 2_000)
	c, err := beaver.NewClient(beaver.Config{Addr: cut.Addr().String(), Logger: testLogger()})
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 8, 25
	ids := make([]beaver.JobID, callers*each)
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for i := caller * each; i < (caller+1)*each; i++ {
				id, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q", Kind: fmt.Sprint(i), Payload: make([]byte, 300)})
				if err != nil {
					t.Error(err)
				}
				ids[i] = id
			}
		})
	}
	group.Wait()
	if cut.cuts.Load() < 3 {
		t.Errorf("only %d connections were cut", cut.cuts.Load())
	}
	cut.heal()
	if err := c.Close(context.Background()); err != nil {
		t.Error(err)
	}

	direct := newClient(t, s)
	kinds := make(map[beaver.JobID]string)
	for job, err := range direct.Jobs(t.Context(), beaver.JobFilter{Queue: "q", State: beaver.StateReady, Full: true}) {
		if err != nil {
			t.Fatal(err)
		}
		kinds[job.ID] = job.Kind
	}
	if len(kinds) != len(ids) {
		t.Errorf("%d jobs are stored, want %d", len(kinds), len(ids))
	}
	for i, id := range ids {
		if kinds[id] != fmt.Sprint(i) {
			t.Errorf("job %d has the id %s, which is that of job %q", i, id, kinds[id])
		}
	}
}

// TestWorkOverBrokenConnections does the same to a worker: every job is completed, and none was taken from a worker that
// still lived.
func TestWorkOverBrokenConnections(t *testing.T) {
	s, err := server.Open(t.Context(), server.Options{
		DataDir: t.TempDir(), Listen: "127.0.0.1:0", Logger: testLogger(),
		WorkerTTL: time.Minute, // on a busy machine a worker may take longer to come back than the default
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeServer(t, s) })
	direct := newClient(t, s)
	const count = 100
	jobs := make([]beaver.Job, count)
	for i := range jobs {
		jobs[i] = beaver.Job{Queue: "q", Payload: make([]byte, 300)}
	}
	answers, err := direct.EnqueueMany(t.Context(), jobs)
	if err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, s.Addr(), 11, 5_000, 10_000)
	c, err := beaver.NewClient(beaver.Config{Addr: cut.Addr().String(), Logger: testLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	w := startWorker(t, c, beaver.WorkerConfig{
		Queues: []string{"q"}, Concurrency: 5,
		Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error { return nil }),
	})
	for _, a := range answers {
		if job := waitJob(t, direct, a.ID, beaver.StateCompleted); job.Crashes != 0 {
			t.Errorf("job %s was taken from a living worker: %+v", a.ID, job)
		}
	}
	cut.heal()
	if got := w.Stats(); got.Disconnected < 3 || got.Stale != 0 {
		t.Errorf("stats: %+v", got)
	}
}

// TestCallsOverBrokenConnections makes unary calls: each is repeated until it is answered.
func TestCallsOverBrokenConnections(t *testing.T) {
	s := openServer(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(func() { closeServer(t, s) })
	cut := newCutter(t, s.Addr(), 13, 2_000, 500)
	c, err := beaver.NewClient(beaver.Config{Addr: cut.Addr().String(), Logger: testLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	for range 200 {
		if _, err := c.Queues(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if cut.cuts.Load() < 3 {
		t.Errorf("only %d connections were cut", cut.cuts.Load())
	}
	cut.heal()
}
