package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// seen is what a restart must keep.
type seen struct {
	details []JobDetail
	queues  []QueueStatus
}

func look(t *testing.T, e *Engine, ids []JobID) seen {
	t.Helper()
	var s seen
	for _, id := range ids {
		d, err := e.Job(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		s.details = append(s.details, d)
	}
	var err error
	if s.queues, err = e.Queues(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// A graceful restart and a crash both keep queues, jobs, leases and payloads.
func TestRestartKeepsEverything(t *testing.T) {
	disk := vfs.NewSim(1, vfs.SimOptions{})
	e := open(t, disk, nil)
	if _, err := e.ConfigureQueue(t.Context(), "a", Settings{MaxAttempts: 7, TimeoutMillis: 3600_000}); err != nil {
		t.Fatal(err)
	}
	ids := enqueue(t, e, append(jobs("a", 4), jobs("b", 3)...)...)
	if _, err := e.PauseQueue(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	w := register(t, e)
	got := fetchJobs(t, e, w, 2, "a")
	ack(t, e, got[0])
	before := fmt.Sprintf("%+v", look(t, e, ids))

	crashed := disk.CrashClone(vfs.AllLost())
	again := open(t, crashed, nil)
	if after := fmt.Sprintf("%+v", look(t, again, ids)); after != before {
		t.Fatalf("after a crash:\n%s\nbefore:\n%s", after, before)
	}
	ack(t, again, got[1])
	shut(t, again)
	shut(t, e)

	e = open(t, disk, nil)
	if after := fmt.Sprintf("%+v", look(t, e, ids)); after != before {
		t.Fatalf("after a restart:\n%s\nbefore:\n%s", after, before)
	}
	ack(t, e, got[1])
	if st, err := e.Queue(t.Context(), "a"); err != nil || st.Info.Settings.MaxAttempts != 7 {
		t.Fatalf("%+v, %v", st, err)
	}
	if more := fetchJobs(t, e, w, 5, "b"); len(more) != 0 {
		t.Fatalf("a paused queue gave %+v", more)
	}
	if _, err := e.ResumeQueue(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if more := fetchJobs(t, e, w, 5, "b"); len(more) != 3 || string(more[2].Spec.Payload) != "b-2" {
		t.Fatalf("fetched %+v", more)
	}
}

// A crash between the catalog and the shard leaves a queue half made; the next start completes it.
func TestHalfMadeQueue(t *testing.T) {
	disk := vfs.NewSim(1, vfs.SimOptions{})
	e := open(t, disk, nil)
	enqueue(t, e, jobs("a", 1)...)
	settings := queue.DefaultSettings()
	if _, err := e.catalog.propose(t.Context(), func(dst []byte) []byte {
		return cluster.AppendCreateQueue(dst, "half", 2, &settings)
	}); err != nil {
		t.Fatal(err)
	}
	shut(t, e)
	e = open(t, disk, nil)
	enqueue(t, e, jobs("half", 1)...)
	if got := fetchJobs(t, e, 0, 1, "half"); len(got) != 1 || got[0].ID.Shard != 2 {
		t.Fatalf("fetched %+v", got)
	}
	shut(t, e)
	if _, err := Open(context.Background(), Options{FS: disk, Dir: "data", Shards: 1, WAL: smallLog}); err == nil {
		t.Fatal("a node with fewer shards than its queues need has started")
	}
}

// Many goroutines at once: each job runs exactly once, and the machines stay sound.
func TestManyCallers(t *testing.T) {
	const producers, consumers, each = 8, 8, 40
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	names := []string{"a", "b", "c"}
	w := register(t, e)
	var mu sync.Mutex
	runs := make(map[JobID]int)
	var done atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range producers {
		wg.Go(func() {
			for n := range each {
				out, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: append(jobs(names[i%3], 2), jobs(names[n%3], 1)...)}, nil)
				if err != nil || out[0].Err != nil || out[2].Err != nil {
					t.Errorf("enqueue: %v, %+v", err, out)
				}
			}
		})
	}
	for i := range consumers {
		wg.Go(func() {
			for ctx.Err() == nil {
				got, err := e.Fetch(ctx, &FetchRequest{Worker: w, Queues: names[:1+i%3], Max: 1 + i, Wait: queue.WaitMillisMax})
				if err != nil && ctx.Err() == nil {
					t.Errorf("fetch: %v", err)
					return
				}
				mu.Lock()
				for _, j := range got {
					runs[j.ID]++
				}
				mu.Unlock()
				if len(got) > 0 {
					ack(t, e, got...)
				}
				if done.Add(int64(len(got))) == producers*each*3 {
					cancel()
				}
			}
		})
	}
	wg.Wait()
	cancel()
	if len(runs) != producers*each*3 {
		t.Fatalf("%d jobs ran, want %d", len(runs), producers*each*3)
	}
	for id, n := range runs {
		if n != 1 {
			t.Fatalf("job %v ran %d times", id, n)
		}
	}
	for _, p := range e.data() {
		if err := e.host.Read(t.Context(), p.shard, func() {
			if err := p.machine.CheckInvariants(); err != nil {
				t.Error(err)
			}
			for _, l := range p.lanes {
				if l.arriving != 0 || l.promised != 0 {
					t.Errorf("queue %d: %d arriving, %d promised with nothing in flight", l.queue, l.arriving, l.promised)
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		if st := p.stats(); st.WaitingCalls != 0 || st.WaitingBytes != 0 || st.ParkedFetches != 0 {
			t.Fatalf("shard %d: %+v", p.shard, st)
		}
	}
}

// A job whose payload is damaged is dead, and those beside it are handed out.
func TestDamagedPayload(t *testing.T) {
	disk := vfs.NewSim(1, vfs.SimOptions{})
	e := open(t, disk, func(o *Options) { o.CacheBytes = 1 })
	js := jobs("q", 3)
	js[1].Spec.Payload = []byte("a payload that is found on the disk")
	ids := enqueue(t, e, js...)
	enqueue(t, e, jobs("other", 3)...) // pushes it out of the cache
	flip(t, disk, js[1].Spec.Payload)
	got := fetchJobs(t, e, 0, 3, "q")
	if len(got) != 2 || got[0].ID != ids[0] || got[1].ID != ids[2] {
		t.Fatalf("fetched %+v", got)
	}
	ack(t, e, got...)
	d, err := e.Job(t.Context(), ids[1])
	if err != nil || d.Info.State != queue.StateDead || d.Info.DeadReason != queue.DeadDamaged || d.HasSpec {
		t.Fatalf("job %+v, %v", d, err)
	}
	if n := e.Stats().JobsDamaged; n != 1 {
		t.Fatalf("%d damaged jobs are counted, want 1", n)
	}
}

// flip damages one bit of every place on the disk that holds want.
func flip(t *testing.T, disk *vfs.Sim, want []byte) {
	t.Helper()
	found := 0
	var walk func(dir string)
	walk = func(dir string) {
		names, err := disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := dir + "/" + name
			info, err := disk.Stat(path)
			if errors.Is(err, fs.ErrNotExist) || err == nil && strings.HasSuffix(name, ".tmp") {
				continue // a file in the making, which may be renamed at any moment
			}
			if err != nil {
				t.Fatal(err)
			}
			if info.Dir {
				walk(path)
				continue
			}
			content := make([]byte, info.Size)
			f, err := disk.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if at := bytes.Index(content, want); at >= 0 {
				found++
				if err := disk.FlipBit(path, int64(at), 3); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	walk("data")
	if found == 0 {
		t.Fatal("the payload is nowhere on the disk")
	}
}

// A fetch that does not wait sees every job whose enqueue was answered, whatever else the shard is doing.
func TestUnwaitingFetchSeesWhatWasAnswered(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 1 })
	enqueue(t, e, append(jobs("noise", 1), jobs("q", 1)...)...)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs("noise", 1)}, nil); err != nil {
					t.Errorf("enqueue: %v", err)
				}
			}
		})
	}
	ack(t, e, fetchJobs(t, e, 0, 1, "q")...)
	for range 300 {
		ids := enqueue(t, e, jobs("q", 1)...)
		got := fetchJobs(t, e, 0, 1, "q")
		if len(got) != 1 || got[0].ID != ids[0] {
			t.Fatalf("fetched %+v, want %v", got, ids[0])
		}
		ack(t, e, got...)
	}
	cancel()
	wg.Wait()
}
