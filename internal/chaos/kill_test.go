package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	roundsDefault = 4
	roundsShort   = 2 // with -short
	startTimeout  = 60 * time.Second
	drainTimeout  = 5 * time.Minute
)

// TestKill kills a loaded server at random moments, BEAVER_CHAOS_ROUNDS times, and checks the clients' history all along and
// the server's books at the end.
func TestKill(t *testing.T) {
	rounds := roundsFromEnv(t)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BEAVER_CHAOS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("BEAVER_CHAOS_SEED=%q is not a number: %v", s, err)
		}
		seed = n
	}
	t.Logf("BEAVER_CHAOS_SEED=%d BEAVER_CHAOS_ROUNDS=%d", seed, rounds)
	rng := rand.New(rand.NewPCG(seed, 0))

	// Small files, so that rotation, snapshots, live segments and compaction are under way at every moment.
	start := time.Now()
	bin := buildBeaver(t)
	t.Logf("built the binary in %v", time.Since(start))
	p := newProcess(t, bin, "--log-file-bytes", "4194304", "--snapshot-bytes", "524288")
	mustStart(t, p)
	client, err := beaver.NewClient(beaver.Config{Addr: p.url()})
	if err != nil {
		t.Fatal(err)
	}
	configureQueue(t, client)

	h := newLedger()
	l := newLoad(client, h, seed)
	producing, stopProducing := context.WithCancel(t.Context())
	consuming, stopConsuming := context.WithCancel(t.Context())
	defer stopConsuming()
	defer stopProducing()
	var tidy atomic.Bool
	l.produce(producing, 8)
	l.consume(consuming, 8, &tidy)

	for round := range rounds {
		if err := killOnce(t.Context(), p, rng); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, p.tail())
		}
		if v := h.report(); len(v) > 0 {
			t.Fatalf("round %d: %d violations, the first: %s", round, len(v), v[0])
		}
		if (round+1)%20 == 0 {
			enqueued, completed := h.counts()
			t.Logf("round %d: %d jobs acknowledged, %d completed", round+1, enqueued, completed)
		}
	}
	t.Logf("all rounds are over; drain")
	stopProducing()
	l.making.Wait() // what is on its way is stored, or is not, before anybody counts
	tidy.Store(true)
	drain(t, client)
	stopConsuming()
	l.wg.Wait()
	settle(t, client, h, rounds)
	if err := client.Close(t.Context()); err != nil {
		t.Errorf("close the client: %v", err)
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Errorf("stop the server: %v\n%s", err, p.tail())
	}
}

func roundsFromEnv(t *testing.T) int {
	t.Helper()
	s := os.Getenv("BEAVER_CHAOS_ROUNDS")
	switch {
	case s == "" && testing.Short():
		return roundsShort
	case s == "":
		return roundsDefault
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("BEAVER_CHAOS_ROUNDS=%q is not a positive number", s)
	}
	return n
}

func mustStart(t *testing.T, p *process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	if err := errors.Join(p.launch(), p.awaitReady(ctx)); err != nil {
		t.Fatalf("start the server: %v\n%s", err, p.tail())
	}
}

func configureQueue(t *testing.T, client *beaver.Client) {
	t.Helper()
	// Every ended job stays listed, and none dies of the failures that the load makes.
	keep, attempts, poison := 1_000_000, 1000, 1000
	if _, err := client.ConfigureQueue(t.Context(), chaosQueue, beaver.QueueSettings{
		KeepEnded: &keep, MaxAttempts: &attempts, PoisonLimit: &poison,
	}); err != nil {
		t.Fatal(err)
	}
}

// killOnce lets the load run for a random while, ends the server in one of three ways, and starts it again; at times it is
// killed a second time in the midst of its recovery.
func killOnce(ctx context.Context, p *process, rng *rand.Rand) error {
	if err := pause(ctx, time.Duration(rng.IntN(400))*time.Millisecond); err != nil {
		return err
	}
	sig := syscall.SIGKILL
	if rng.IntN(10) == 0 {
		sig = syscall.SIGTERM
	}
	if err := p.signal(sig); err != nil {
		return err
	}
	if err := p.launch(); err != nil {
		return err
	}
	if rng.IntN(4) == 0 {
		if err := pause(ctx, time.Duration(rng.IntN(60))*time.Millisecond); err != nil {
			return err
		}
		if err := errors.Join(p.signal(syscall.SIGKILL), p.launch()); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return p.awaitReady(ctx)
}

// pause is a part of the scenario, not a way to synchronise: the moment of the kill is drawn at random.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drain waits until no job is waiting or running.
func drain(t *testing.T, client *beaver.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), drainTimeout)
	defer cancel()
	for {
		q, err := client.Queue(ctx, chaosQueue)
		if err != nil {
			t.Fatalf("drain: %v", err)
		}
		if q.Scheduled+q.Ready+q.Running+q.Backoff == 0 {
			return
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			t.Fatalf("drain: scheduled %d, ready %d, running %d, backoff %d are left: %v", q.Scheduled, q.Ready, q.Running, q.Backoff, err)
		}
	}
}

// settle holds the server's books against the history.
func settle(t *testing.T, client *beaver.Client, h *ledger, rounds int) {
	t.Helper()
	completed := make(map[beaver.JobID]bool)
	for job, err := range client.Jobs(t.Context(), beaver.JobFilter{Queue: chaosQueue, State: beaver.StateCompleted}) {
		if err != nil {
			t.Fatalf("list the completed jobs: %v", err)
		}
		completed[job.ID] = true
	}
	h.finish(completed)
	q, err := client.Queue(t.Context(), chaosQueue)
	if err != nil {
		t.Fatal(err)
	}
	if int(q.CompletedTotal) != len(completed) || int(q.EnqueuedTotal) != len(completed) || q.Dead != 0 {
		t.Errorf("the books disagree: %d jobs are listed as completed; counters say enqueued %d, completed %d, dead %d",
			len(completed), q.EnqueuedTotal, q.CompletedTotal, q.Dead)
	}
	for i, v := range h.report() {
		if i == 20 {
			t.Errorf("… and %d more", len(h.report())-20)
			break
		}
		t.Error(v)
	}
	enqueued, acked := h.counts()
	t.Logf("rounds %d: jobs acknowledged %d, completed %d (%d acks answered), deliveries %d, handed out again %d, stale acks refused %d, lost 0",
		rounds, enqueued, len(completed), acked, h.deliveries, h.redelivers, h.staleAcks)
}
