package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/freeport"
)

// The golden files are data directories as earlier versions wrote them: of a node alone, and of three that are a cluster, each with
// snapshots, entries behind them that have to be replayed, and jobs in all states. Every later version has to load them. A release
// that changes a format adds what the one before it writes: go -C tools run ./golden -name NAME -from REVISION has that version run this
// test with BEAVER_GOLDEN=NAME, which writes testdata/golden/NAME.tar.gz. Files that are there are never written again.
const goldenDir = "testdata/golden"

// goldenJob is what is known of a job of the golden files.
type goldenJob struct {
	State   beaver.JobState
	Payload string
	Retried bool // it has failed once
}

// golden is one archive: directories, and the jobs of each.
type golden struct {
	dir           string // where lone, node-1, node-2 and node-3 are
	Lone, Cluster map[beaver.JobID]goldenJob
}

// TestGolden: what earlier versions wrote is loaded, all of it, and goes on.
func TestGolden(t *testing.T) {
	if name := os.Getenv("BEAVER_GOLDEN"); name != "" {
		writeGolden(t, filepath.Join(goldenDir, name+".tar.gz"))
	}
	archives, err := filepath.Glob(filepath.Join(goldenDir, "*.tar.gz"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			g := readGolden(t, archive)
			lone := openGolden(t, g.dir, "lone", PeerOptions{})
			g.check(t, lone, g.Lone)
			nodes := goldenCluster(t, g.dir)
			for _, s := range nodes {
				g.check(t, s, g.Cluster)
			}
			goOn(t, lone)
			goOn(t, nodes[0])
			for _, s := range append(nodes, lone) {
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// check compares the jobs that a node has with those that it should have.
func (g *golden) check(t *testing.T, s *Server, want map[beaver.JobID]goldenJob) {
	t.Helper()
	c := goldenClient(t, s)
	for _, id := range slices.Sorted(maps.Keys(want)) {
		j, err := c.Job(t.Context(), id)
		if err != nil {
			t.Errorf("job %s, which was %v: %v", id, want[id].State, err)
			continue
		}
		got := goldenJob{State: j.State, Payload: string(j.Payload), Retried: j.Failures > 0}
		if got.State == beaver.StateReady && want[id].State == beaver.StateRunning {
			got.State = beaver.StateRunning // its lease has run out since
		}
		if got != want[id] {
			t.Errorf("job %s is %+v, and was %+v", id, got, want[id])
		}
	}
	for _, name := range []string{"first", "second"} {
		q, err := c.Queue(t.Context(), name)
		if err != nil || q.Settings.Paused == nil || !*q.Settings.Paused || q.Settings.KeepEnded == nil || *q.Settings.KeepEnded != 500 {
			t.Errorf("the queue is %+v, %v", q, err)
		}
	}
}

// goOn works on a job that was waiting, and stores one more.
func goOn(t *testing.T, s *Server) {
	t.Helper()
	c := goldenClient(t, s)
	jobs, err := c.Fetch(t.Context(), beaver.FetchRequest{Queues: []string{"next"}, Max: 1, Wait: 10 * time.Second})
	if err != nil || len(jobs) != 1 || string(jobs[0].Payload) != "later" {
		t.Fatalf("fetch: %v, %v", jobs, err)
	}
	if err := c.Ack(t.Context(), jobs[0].Lease, "", nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "next", Payload: []byte("new")}); err != nil {
		t.Error(err)
	}
}

func goldenClient(t *testing.T, s *Server) *beaver.Client {
	t.Helper()
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) }) // the server may be closed
	return c
}

func openGolden(t *testing.T, dir, name string, peers PeerOptions) *Server {
	t.Helper()
	s, err := Open(t.Context(), Options{
		DataDir: filepath.Join(dir, name), Listen: "127.0.0.1:0", Shards: 2, Peers: peers, LogFileBytes: 64 << 10,
	})
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	return s
}

// goldenCluster opens the three nodes, at addresses that are free now.
func goldenCluster(t *testing.T, dir string) []*Server {
	t.Helper()
	var list []string
	for node := 1; node <= 3; node++ {
		list = append(list, fmt.Sprintf("%d=%s", node, freeport.Address(t)))
	}
	nodes := make([]*Server, 3)
	var group sync.WaitGroup
	for i := range nodes {
		group.Go(func() {
			s, err := Open(t.Context(), Options{
				DataDir: filepath.Join(dir, fmt.Sprintf("node-%d", i+1)), Listen: "127.0.0.1:0", Shards: 2, LogFileBytes: 64 << 10,
				Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1)},
			})
			if err != nil {
				t.Errorf("open node %d: %v", i+1, err)
			}
			nodes[i] = s
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return nodes
}

// writeGolden makes the golden files of this version.
func writeGolden(t *testing.T, archive string) {
	t.Helper()
	if _, err := os.Stat(archive); err == nil {
		t.Fatalf("%s is there, and is never written again", archive)
	}
	g := &golden{dir: t.TempDir(), Lone: map[beaver.JobID]goldenJob{}, Cluster: map[beaver.JobID]goldenJob{}}
	copied := t.TempDir()
	lone := openGolden(t, g.dir, "lone", PeerOptions{})
	makeJobs(t, lone, "first", g.Lone)
	if err := lone.Close(t.Context()); err != nil { // takes snapshots
		t.Fatal(err)
	}
	lone = openGolden(t, g.dir, "lone", PeerOptions{})
	makeJobs(t, lone, "second", g.Lone)
	nodes := goldenCluster(t, g.dir)
	makeJobs(t, nodes[0], "first", g.Cluster)
	for _, s := range nodes {
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	nodes = goldenCluster(t, g.dir)
	makeJobs(t, nodes[1], "second", g.Cluster)
	// All that was acknowledged is durable, and nobody writes: a copy is what a kill would leave.
	if err := os.CopyFS(copied, os.DirFS(g.dir)); err != nil {
		t.Fatal(err)
	}
	for _, s := range append(nodes, lone) {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	b, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "jobs.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	pack(t, copied, archive)
}

// makeJobs brings a job of a queue into each state, and stores others in another queue.
func makeJobs(t *testing.T, s *Server, queue string, jobs map[beaver.JobID]goldenJob) {
	t.Helper()
	ctx, c := t.Context(), goldenClient(t, s)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.ConfigureQueue(ctx, queue, beaver.QueueSettings{KeepEnded: new(500)})
	must(err)
	make1 := func(j beaver.Job, text string) beaver.JobID {
		j.Queue, j.Payload, j.Metadata = queue, []byte(text), map[string]string{"tenant": "42"}
		id, err := c.Enqueue(ctx, j)
		must(err)
		return id
	}
	lease := func() *beaver.LeasedJob {
		got, err := c.Fetch(ctx, beaver.FetchRequest{Queues: []string{queue}, Lease: 24 * time.Hour, Wait: 10 * time.Second})
		must(err)
		return got[0]
	}
	id := make1(beaver.Job{Kind: "done"}, "done")
	must(c.Ack(ctx, lease().Lease, "text/plain", []byte("result")))
	jobs[id] = goldenJob{State: beaver.StateCompleted, Payload: "done"}
	id = make1(beaver.Job{Retry: &beaver.RetryPolicy{Kind: beaver.RetryFixed, Base: 9 * 365 * 24 * time.Hour}}, "again")
	_, err = c.Fail(ctx, lease().Lease, beaver.Failure{Type: "io", Message: "no route", Stack: "main"})
	must(err)
	jobs[id] = goldenJob{State: beaver.StateBackoff, Payload: "again", Retried: true}
	id = make1(beaver.Job{Retry: &beaver.RetryPolicy{Kind: beaver.RetryNever}}, "dead")
	_, err = c.Fail(ctx, lease().Lease, beaver.Failure{Message: "no use"})
	must(err)
	jobs[id] = goldenJob{State: beaver.StateDead, Payload: "dead", Retried: true}
	id = make1(beaver.Job{}, "cancelled")
	_, err = c.Cancel(ctx, id)
	must(err)
	jobs[id] = goldenJob{State: beaver.StateCancelled, Payload: "cancelled"}
	id = make1(beaver.Job{}, "running")
	must(c.Progress(ctx, lease().Lease, 40, "on it"))
	jobs[id] = goldenJob{State: beaver.StateRunning, Payload: "running"}
	must(c.PauseQueue(ctx, queue))
	for p := range 3 {
		id = make1(beaver.Job{Priority: new(3 * p)}, fmt.Sprint("ready ", p))
		jobs[id] = goldenJob{State: beaver.StateReady, Payload: fmt.Sprint("ready ", p)}
	}
	id = make1(beaver.Job{Delay: 9 * 365 * 24 * time.Hour}, "scheduled")
	jobs[id] = goldenJob{State: beaver.StateScheduled, Payload: "scheduled"}
	_, err = c.EnqueueMany(ctx, []beaver.Job{{Queue: "next", Payload: []byte("later")}, {Queue: "next", Payload: []byte("later")}})
	must(err)
}

// pack writes a directory into an archive, without locks.
func pack(t *testing.T, dir, archive string) {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "LOCK" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	for _, err := range []error{err, w.Close(), z.Close(), os.MkdirAll(filepath.Dir(archive), 0o750), os.WriteFile(archive, b.Bytes(), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// readGolden unpacks an archive into a directory of the test.
func readGolden(t *testing.T, archive string) *golden {
	t.Helper()
	g := &golden{dir: t.TempDir()}
	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(g.dir, filepath.FromSlash(h.Name))
		content, err := io.ReadAll(r)
		for _, err := range []error{err, os.MkdirAll(filepath.Dir(name), 0o750), os.WriteFile(name, content, 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	content, err := os.ReadFile(filepath.Join(g.dir, "jobs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, g); err != nil {
		t.Fatal(err)
	}
	return g
}
