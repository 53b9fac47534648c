//go:build unix

package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/history"
)

const (
	trafficQueues    = 8
	keyedQueues      = 3          // whose jobs have ordering keys
	uniqueQueueCount = 4          // whose jobs have unique keys
	programQueue     = "programs" // of those who run a program for each job
	trafficKeys      = 5          // ordering keys of a keyed queue
	uniqueKeys       = 6          // unique keys of a queue, for jobs without an ordering key and for those of each
	trafficLease     = 3 * time.Second
	// trafficBehindMax is how far the producers run ahead of the workers.
	trafficBehindMax = 2000
	// thinkMax bounds what a producer does between two calls.
	thinkMax  = 60 * time.Millisecond
	knownJobs = 256
)

func trafficQueue(n int) string { return fmt.Sprintf("q%d", n) }

func keyedQueue(n int) string { return fmt.Sprintf("keyed%d", n) }

func uniqueQueue(n int) string { return fmt.Sprintf("unique%d", n) }

// isUnique reports whether the jobs of a queue have unique keys, and isKeyed whether they have ordering keys.
func isUnique(name string) bool { return strings.HasPrefix(name, "unique") }

func isKeyed(name string) bool { return strings.HasPrefix(name, "keyed") }

// plainQueues are those with one home, and spreadQueues those that may have several. Half of those with unique keys are of either kind.
func plainQueues() (names []string) {
	for n := range trafficQueues {
		names = append(names, trafficQueue(n))
	}
	for n := 0; n < uniqueQueueCount; n += 2 {
		names = append(names, uniqueQueue(n))
	}
	return names
}

func spreadQueues() (names []string) {
	for n := range keyedQueues {
		names = append(names, keyedQueue(n))
	}
	for n := 1; n < uniqueQueueCount; n += 2 {
		names = append(names, uniqueQueue(n))
	}
	return names
}

// workedQueues are those that consumers and workers take from, and stormQueues all that there are.
func workedQueues() []string { return append(plainQueues(), spreadQueues()...) }

func stormQueues() []string { return append(workedQueues(), programQueue) }

// traffic is all who use the cluster: clients with default settings, workers that are registered, and consumers that fetch.
type traffic struct {
	record *recorder
	seed   uint64
	tidy   atomic.Bool  // nobody makes trouble any more
	open   atomic.Int64 // jobs stored less jobs known to have ended: it may drift, and bounds no more than the load

	making, taking sync.WaitGroup

	mu    sync.Mutex
	known []knownJob // jobs of late
}

type knownJob struct {
	label history.Label
	id    beaver.JobID
}

// configureQueues makes the queues, of one partition and up to three. Every ended job stays listed, none dies of the faults, and what
// failed comes again soon.
func (t *traffic) configureQueues(ctx context.Context, c *beaver.Client) error {
	for _, name := range stormQueues() {
		count := 1 + max(0, slices.Index(spreadQueues(), name))%3
		q, err := c.ConfigureQueue(ctx, name, beaver.QueueSettings{
			KeepEnded: new(1_000_000), MaxAttempts: new(1000), PoisonLimit: new(1000), Partitions: &count,
			Retry: &beaver.RetryPolicy{Kind: beaver.RetryFixed, Base: 200 * time.Millisecond},
		})
		if err != nil {
			return fmt.Errorf("configure queue %s: %w", name, err)
		}
		t.record.settled(name, q.Shards)
	}
	return nil
}

// payloadOf begins with the job's label.
func payloadOf(l history.Label, bytes int) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, bytes), uint64(l))[:max(8, bytes)]
}

func labelOf(payload []byte) history.Label {
	if len(payload) < 8 {
		return history.NoLabel
	}
	return history.Label(binary.BigEndian.Uint64(payload))
}

func (t *traffic) rand(who uint64) *rand.Rand { return rand.New(rand.NewPCG(t.seed, who)) }

// produce runs producers until ctx ends; the last call of each is let through to its answer.
func (t *traffic) produce(ctx context.Context, c *beaver.Client, who uint64, n int) {
	for i := range n {
		rng := t.rand(who + uint64(i))
		t.making.Go(func() {
			for pause(ctx, upTo(rng, thinkMax)) == nil {
				switch choice := rng.IntN(100); {
				case t.open.Load() > trafficBehindMax:
				case choice < 55:
					t.enqueueOne(c, rng)
				case choice < 70:
					t.enqueueMany(c, rng)
				case choice < 88:
					t.look(c, rng)
				case choice < 93:
					t.count(c, rng)
				case choice < 96:
					t.list(c, rng)
				default:
					t.wish(c, rng)
				}
			}
		})
	}
}

// job draws a job for a queue, and names it. Those of an ordering key are all due at once, and of one priority: nothing but their age
// says which comes first.
func (t *traffic) job(rng *rand.Rand, of jobOf) (history.Label, beaver.Job) {
	l := t.record.enqueueing(of)
	bytes := 8 + rng.IntN(200)
	if rng.IntN(50) == 0 {
		bytes = 8 + rng.IntN(16<<10)
	}
	j := beaver.Job{
		Queue: of.queue, Kind: "chaos", UniqueKey: of.unique, Payload: payloadOf(l, bytes), Priority: new(rng.IntN(10)),
		Metadata: map[string]string{"label": strconv.FormatUint(uint64(l), 10)},
	}
	if of.started {
		j.UniqueUntil = beaver.UniqueUntilStarted
	}
	if of.key != "" {
		j.OrderingKey, j.Priority = of.key, new(int(of.key[len(of.key)-1]-'0'))
	} else if rng.IntN(10) == 0 {
		j.Delay = time.Duration(rng.IntN(2000)) * time.Millisecond
	}
	return l, j
}

func drawQueue(rng *rand.Rand) string {
	if rng.IntN(40) == 0 {
		return programQueue
	}
	if rng.IntN(4) == 0 {
		return keyedQueue(rng.IntN(keyedQueues))
	}
	if rng.IntN(6) == 0 {
		return uniqueQueue(rng.IntN(uniqueQueueCount))
	}
	return trafficQueue(rng.IntN(trafficQueues))
}

// drawKeys draws the keys of a job of a queue.
func drawKeys(rng *rand.Rand, name string) jobOf {
	of := jobOf{queue: name}
	switch {
	case isKeyed(name) && rng.IntN(10) > 0:
		of.key = fmt.Sprintf("key-%d", rng.IntN(trafficKeys))
	case isUnique(name):
		if rng.IntN(3) == 0 {
			of.key = "key-0"
		}
		of.unique, of.started = fmt.Sprintf("only-%d", rng.IntN(uniqueKeys)), rng.IntN(4) == 0
	}
	return of
}

func (t *traffic) enqueueOne(c *beaver.Client, rng *rand.Rand) {
	name := drawQueue(rng)
	l, j := t.job(rng, drawKeys(rng, name))
	call := t.record.now()
	if j.UniqueKey != "" {
		id, existing, err := c.EnqueueUnique(context.Background(), j)
		t.record.called("enqueue unique", err)
		t.answered(l, name, call, id, existing, err)
		return
	}
	id, err := c.Enqueue(context.Background(), j)
	t.record.called("enqueue", err)
	t.answered(l, name, call, id, false, err)
}

func (t *traffic) enqueueMany(c *beaver.Client, rng *rand.Rand) {
	names, labels, jobs := make([]string, 2+rng.IntN(12)), []history.Label(nil), []beaver.Job(nil)
	one := drawQueue(rng)
	of := drawKeys(rng, one)
	atomic := rng.IntN(3) == 0 && of.unique == "" // its answers do not tell of jobs that exist
	for i := range names {
		if names[i] = one; !atomic { // of different keys it may be refused
			names[i] = drawQueue(rng)
			of = drawKeys(rng, names[i])
		}
		l, j := t.job(rng, of)
		labels, jobs = append(labels, l), append(jobs, j)
	}
	call := t.record.now()
	if atomic {
		ids, err := c.EnqueueAtomic(context.Background(), jobs)
		t.record.called("enqueue atomic", err)
		for i, l := range labels {
			id := beaver.JobID("")
			if err == nil {
				id = ids[i]
			}
			t.answered(l, names[i], call, id, false, err)
		}
		return
	}
	answers, err := c.EnqueueMany(context.Background(), jobs)
	t.record.called("enqueue many", err)
	for i, a := range answers {
		err := error(nil)
		if a.Err != nil {
			err = a.Err
		}
		t.answered(labels[i], names[i], call, a.ID, a.Existing, err)
	}
}

// answered takes note of the answer to an enqueue.
func (t *traffic) answered(l history.Label, name string, call time.Duration, id beaver.JobID, existing bool, err error) {
	if err == nil && existing {
		t.record.existed(l, name, call, id)
		return
	}
	t.record.enqueued(l, name, call, id, err)
	t.stored(l, id, err)
}

// stored remembers a job that was acknowledged, for later calls.
func (t *traffic) stored(l history.Label, id beaver.JobID, err error) {
	if err != nil {
		return
	}
	t.open.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) < knownJobs {
		t.known = append(t.known, knownJob{l, id})
		return
	}
	t.known[uint64(l)%knownJobs] = knownJob{l, id}
}

func (t *traffic) pick(rng *rand.Rand) (knownJob, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) == 0 {
		return knownJob{}, false
	}
	return t.known[rng.IntN(len(t.known))], true
}

// look reads a job.
func (t *traffic) look(c *beaver.Client, rng *rand.Rand) {
	k, ok := t.pick(rng)
	if !ok {
		return
	}
	call := t.record.now()
	j, err := c.Job(context.Background(), k.id)
	if ret := t.record.now(); t.record.called("get", err) && (err == nil || errors.Is(err, beaver.ErrNotFound)) {
		t.record.saw(k.label, call, ret, j)
	}
}

// count reads a queue's totals.
func (t *traffic) count(c *beaver.Client, rng *rand.Rand) {
	name := drawQueue(rng)
	before := t.record.reading(name)
	q, err := c.Queue(context.Background(), name)
	if t.record.called("queue", err) && err == nil {
		t.record.counted(before, q)
	}
}

// list reads a page of jobs.
func (t *traffic) list(c *beaver.Client, rng *rand.Rand) {
	states := []beaver.JobState{beaver.StateScheduled, beaver.StateReady, beaver.StateRunning, beaver.StateBackoff, beaver.StateDead, beaver.StateCompleted}
	call := t.record.now()
	page, err := c.ListJobs(context.Background(), beaver.JobFilter{Queue: drawQueue(rng), State: states[rng.IntN(len(states))], PageSize: 1 + rng.IntN(20)}, "")
	if ret := t.record.now(); t.record.called("list", err) && err == nil {
		t.record.listed(call, ret, page.Jobs)
	}
}

// wish cancels a job, or retries or discards one that is dead.
func (t *traffic) wish(c *beaver.Client, rng *rand.Rand) {
	k, ok := t.pick(rng)
	if !ok || t.tidy.Load() {
		return
	}
	call := t.record.now()
	if rng.IntN(3) == 0 {
		state, err := c.Cancel(context.Background(), k.id)
		t.record.called("cancel", err)
		t.record.wished(history.Cancel, k.label, call, state, err)
		return
	}
	what, how := history.Retry, c.RetryDead
	if rng.IntN(4) == 0 {
		what, how = history.Discard, c.DiscardDead
	}
	errs, err := how(context.Background(), k.id)
	if err == nil && errs[0] != nil {
		err = errs[0]
	}
	t.record.called(what.String(), err)
	t.record.wished(what, k.label, call, "", err)
}
