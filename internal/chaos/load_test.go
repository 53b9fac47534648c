package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	chaosQueue  = "chaos"
	leaseTime   = 2 * time.Second
	payloadsMax = 8 << 10
	// backlogMax is how far the producers run ahead, so that kills meet acks as often as enqueues.
	backlogMax = 5000
)

// load is the clients of one run: producers that enqueue one by one and in batches, and workers that ack, fail, release and
// forget.
type load struct {
	client *beaver.Client
	ledger *ledger
	seed   uint64
	next   atomic.Int64
	making sync.WaitGroup // producers
	wg     sync.WaitGroup // consumers
}

func newLoad(client *beaver.Client, h *ledger, seed uint64) *load {
	return &load{client: client, ledger: h, seed: seed}
}

// produce runs n producers until ctx ends; a producer's last call is let through to its answer.
func (l *load) produce(ctx context.Context, n int) {
	for i := range n {
		rng := rand.New(rand.NewPCG(l.seed, uint64(i)))
		l.making.Go(func() {
			for ctx.Err() == nil {
				enqueued, completed := l.ledger.counts()
				switch {
				case enqueued-completed > backlogMax:
					_ = pause(ctx, 10*time.Millisecond) // ends with ctx, as the loop does
				case rng.IntN(4) == 0:
					l.enqueueBatch(rng)
				default:
					l.enqueueOne(rng)
				}
			}
		})
	}
}

// job makes the next job. Its payload begins with its number.
func (l *load) job(rng *rand.Rand) (int, beaver.Job) {
	number := int(l.next.Add(1))
	size := 8 + rng.IntN(256)
	if rng.IntN(20) == 0 {
		size = 8 + rng.IntN(payloadsMax)
	}
	payload := make([]byte, size)
	binary.BigEndian.PutUint64(payload, uint64(number))
	priority := rng.IntN(10)
	j := beaver.Job{Queue: chaosQueue, Kind: "chaos", Payload: payload, Priority: &priority}
	if rng.IntN(10) == 0 {
		j.Delay = time.Duration(rng.IntN(1000)) * time.Millisecond
	}
	return number, j
}

// enqueueOne enqueues through the coalescing stream. The client repeats it until it has an answer, over any crash.
func (l *load) enqueueOne(rng *rand.Rand) {
	number, job := l.job(rng)
	id, err := l.client.Enqueue(context.Background(), job)
	if err == nil {
		l.ledger.enqueued(number, id)
	}
}

func (l *load) enqueueBatch(rng *rand.Rand) {
	numbers, jobs := make([]int, 1+rng.IntN(100)), []beaver.Job(nil)
	for i := range numbers {
		number, job := l.job(rng)
		numbers[i], jobs = number, append(jobs, job)
	}
	answers, err := l.client.EnqueueMany(context.Background(), jobs)
	if err != nil {
		return
	}
	for i, a := range answers {
		if a.Err == nil {
			l.ledger.enqueued(numbers[i], a.ID)
		}
	}
}

// consume runs n workers until ctx ends. Once tidy is set they only ack.
func (l *load) consume(ctx context.Context, n int, tidy *atomic.Bool) {
	for i := range n {
		rng := rand.New(rand.NewPCG(l.seed, 1000+uint64(i)))
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.fetchAndFinish(ctx, rng, tidy.Load())
			}
		})
	}
}

func (l *load) fetchAndFinish(ctx context.Context, rng *rand.Rand, tidy bool) {
	asked := time.Now()
	jobs, err := l.client.Fetch(ctx, beaver.FetchRequest{
		Queues: []string{chaosQueue}, Max: 1 + rng.IntN(50), Wait: 200 * time.Millisecond, Lease: leaseTime,
	})
	if err != nil {
		return
	}
	now := time.Now()
	for _, job := range jobs {
		l.ledger.delivered(int(binary.BigEndian.Uint64(job.Payload)), asked, now, job)
	}
	for _, job := range jobs {
		l.finish(rng, job, tidy)
	}
}

// ack completes a job, or learns that its lease is lost.
func (l *load) ack(job *beaver.LeasedJob) {
	err := l.client.Ack(context.Background(), job.Lease, "", job.Payload[:8])
	switch {
	case err == nil:
		l.ledger.acknowledged(int(binary.BigEndian.Uint64(job.Payload)), job.Token, time.Now())
	case errors.Is(err, beaver.ErrLeaseLost):
		l.ledger.stale()
	}
}

func (l *load) finish(rng *rand.Rand, job *beaver.LeasedJob, tidy bool) {
	number, ctx := int(binary.BigEndian.Uint64(job.Payload)), context.Background()
	choice := rng.IntN(100)
	switch {
	case tidy || choice < 80:
		l.ack(job)
	case choice < 88:
		l.ledger.givingUp(number)
		_, _ = l.client.Fail(ctx, job.Lease, beaver.Failure{Message: "chaos", RetryAfter: 50 * time.Millisecond}) // may be stale by now
	case choice < 96:
		l.ledger.givingUp(number)
		_ = l.client.Release(ctx, job.Lease) // may be stale by now
		if choice%2 == 0 {
			l.ack(job) // A worker that is confused: whoever gets the job next is the only one who may complete it.
		}
	default: // forgotten: the lease runs out
	}
}
