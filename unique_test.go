package beaver_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// TestUnique: a job with a key is stored once while the key is held, however it is enqueued, and all callers get its ID.
func TestUnique(t *testing.T) {
	c := startServer(t)
	job := beaver.Job{Queue: "sync", UniqueKey: "account-42"}
	id, existing, err := c.EnqueueUnique(t.Context(), job)
	if err != nil || existing {
		t.Fatal(id, existing, err)
	}
	if again, existing, err := c.EnqueueUnique(t.Context(), job); err != nil || !existing || again != id {
		t.Errorf("again: %s, %v, %v; want %s", again, existing, err, id)
	}
	if again, err := c.Enqueue(t.Context(), job); err != nil || again != id {
		t.Errorf("Enqueue: %s, %v; want %s", again, err, id)
	}
	answers, err := c.EnqueueMany(t.Context(), []beaver.Job{{Queue: "sync"}, job, {Queue: "sync", UniqueKey: "b"}, {Queue: "sync", UniqueKey: "b"}})
	if err != nil || answers[0].Existing || !answers[1].Existing || answers[1].ID != id || answers[2].Existing || !answers[3].Existing || answers[3].ID != answers[2].ID {
		t.Errorf("EnqueueMany: %+v, %v", answers, err)
	}
	ids, err := c.EnqueueAtomic(t.Context(), []beaver.Job{{Queue: "sync"}, job})
	if err != nil || ids[1] != id || ids[0] == "" {
		t.Errorf("EnqueueAtomic: %v, %v", ids, err)
	}
	answers, err = c.EnqueueAtomicUnique(t.Context(), []beaver.Job{job, {Queue: "sync"}, {Queue: "sync", UniqueKey: "c"}, {Queue: "sync", UniqueKey: "c"}})
	if err != nil || !answers[0].Existing || answers[0].ID != id || answers[1].Existing || answers[2].Existing || !answers[3].Existing || answers[3].ID != answers[2].ID {
		t.Errorf("EnqueueAtomicUnique: %+v, %v", answers, err)
	}
	if answers, err = c.EnqueueAtomicUnique(t.Context(), []beaver.Job{{Queue: "sync"}, {Queue: "no name of a queue"}}); answers != nil || !errors.Is(err, beaver.ErrInvalidArgument) {
		t.Errorf("EnqueueAtomicUnique with a job that is refused: %+v, %v", answers, err)
	}
	if answers, err = c.EnqueueAtomicUnique(t.Context(), nil); answers != nil || err != nil {
		t.Errorf("EnqueueAtomicUnique without jobs: %+v, %v", answers, err)
	}
	if _, _, err := c.EnqueueUnique(t.Context(), beaver.Job{Queue: "sync"}); !errors.Is(err, beaver.ErrInvalidArgument) {
		t.Errorf("without a key: %v", err)
	}
	q, err := c.Queue(t.Context(), "sync")
	if err != nil || q.UniqueKeys != 3 || q.DeduplicatedTotal != 7 || q.Ready != 6 {
		t.Errorf("the queue: %+v, %v", q, err)
	}
	info, err := c.Job(t.Context(), id)
	if err != nil || info.UniqueKey != "account-42" || info.UniqueUntil != beaver.UniqueUntilEnded || info.UniqueFor != 0 {
		t.Errorf("the job: %+v, %v", info, err)
	}
}

// TestUniqueRace: of many callers at once one stores the job.
func TestUniqueRace(t *testing.T) {
	c := startServer(t)
	var group sync.WaitGroup
	var mu sync.Mutex
	stored, ids := 0, make(map[beaver.JobID]bool)
	for range 100 {
		group.Go(func() {
			id, existing, err := c.EnqueueUnique(t.Context(), beaver.Job{Queue: "q", UniqueKey: "k", UniqueUntil: beaver.UniqueUntilStarted, UniqueFor: time.Hour})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			if ids[id] = true; !existing {
				stored++
			}
		})
	}
	group.Wait()
	if stored != 1 || len(ids) != 1 {
		t.Errorf("%d jobs were stored, under the IDs %v", stored, ids)
	}
	jobs, err := c.Fetch(t.Context(), beaver.FetchRequest{Queues: []string{"q"}, Max: 10})
	if err != nil || len(jobs) != 1 || jobs[0].UniqueKey != "k" || !ids[jobs[0].ID] {
		t.Fatalf("fetched %+v, %v", jobs, err)
	}
	info, err := c.Job(t.Context(), jobs[0].ID)
	if err != nil || info.UniqueUntil != beaver.UniqueUntilStarted || info.UniqueFor != time.Hour {
		t.Errorf("the job: %+v, %v", info, err)
	}
}

// TestUniqueRetry: a dead job whose key another one holds stays dead, and its retry says why.
func TestUniqueRetry(t *testing.T) {
	c := startServer(t)
	job := beaver.Job{Queue: "q", UniqueKey: "k"}
	dead, err := c.Enqueue(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := c.Fetch(t.Context(), beaver.FetchRequest{Queues: []string{"q"}})
	if err != nil || len(jobs) != 1 {
		t.Fatal(jobs, err)
	}
	if _, err := c.Fail(t.Context(), jobs[0].Lease, beaver.Failure{Message: "no", Final: true}); err != nil {
		t.Fatal(err)
	}
	holder, existing, err := c.EnqueueUnique(t.Context(), job)
	if err != nil || existing || holder == dead {
		t.Fatal(holder, existing, err)
	}
	errs, err := c.RetryDead(t.Context(), dead)
	if err != nil || !errors.Is(errs[0], beaver.ErrUniqueKeyHeld) || !errors.Is(errs[0], beaver.ErrFailedPrecondition) {
		t.Errorf("retry: %v, %v", errs, err)
	}
	if n, err := c.RetryAllDead(t.Context(), "q"); !errors.Is(err, beaver.ErrUniqueKeyHeld) || n != 0 {
		t.Errorf("retry of all: %d, %v", n, err)
	}
	if _, err := c.Cancel(t.Context(), holder); err != nil {
		t.Fatal(err)
	}
	if errs, err := c.RetryDead(t.Context(), dead); err != nil || errs[0] != nil {
		t.Errorf("retry when the key is free: %v, %v", errs, err)
	}
}

type refresh struct {
	Account int `json:"account"`
}

func (refresh) Kind() string { return "refresh" }

func (refresh) JobDefaults() beaver.Job {
	return beaver.Job{Queue: "sync", UniqueUntil: beaver.UniqueUntilStarted, UniqueFor: time.Minute}
}

// TestUniqueTyped: a typed job has what its kind says of uniqueness, and the key of its template.
func TestUniqueTyped(t *testing.T) {
	job, err := beaver.NewJob(refresh{42}, beaver.Job{UniqueKey: fmt.Sprint("account-", 42)})
	if err != nil || job.UniqueKey != "account-42" || job.UniqueUntil != beaver.UniqueUntilStarted || job.UniqueFor != time.Minute {
		t.Errorf("%+v, %v", job, err)
	}
	job, err = beaver.NewJob(refresh{42}, beaver.Job{UniqueKey: "k", UniqueUntil: beaver.UniqueUntilEnded, UniqueFor: time.Hour})
	if err != nil || job.UniqueUntil != beaver.UniqueUntilEnded || job.UniqueFor != time.Hour {
		t.Errorf("%+v, %v", job, err)
	}
}
