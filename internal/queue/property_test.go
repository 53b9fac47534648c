package queue

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/invariant"
)

var (
	flagCommands = flag.Int("queue.commands", commandsDefault(), "commands of TestMachineAgainstModel; BEAVER_SEEDS multiplies the default")
	flagSeed     = flag.Uint64("queue.seed", 1, "seed of TestMachineAgainstModel")
)

// commandsDefault is fewer where everything is slow and the walks over the whole machine are on: the model has no goroutines
// for the race detector to watch. BEAVER_SEEDS, which asks other packages for more seeds, asks for as many times more here.
func commandsDefault() int {
	commands := 20_000
	if invariant.Expensive {
		commands = 10_000
	}
	if seeds, err := strconv.Atoi(os.Getenv("BEAVER_SEEDS")); err == nil && seeds > 0 {
		commands *= min(seeds, 1000)
	}
	return commands
}

// TestMachineAgainstModel feeds random commands to the model and two machines. One machine goes on, the other is
// restored from images at random points.
func TestMachineAgainstModel(t *testing.T) {
	t.Parallel()
	h := newHistory(t, *flagSeed)
	for h.commands < *flagCommands {
		h.entry()
		if h.rng.IntN(100) == 0 {
			h.compareAll()
		}
		if h.rng.IntN(60) == 0 {
			h.restoreTwin()
		}
	}
	h.compareAll()
	t.Logf("%d commands, %d entries, %d jobs left", h.commands, h.index, len(h.model.jobs))
}

// A history is one run of the test.
type history struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	index    uint64
	now      Millis
	version  uint64
	commands int
	model    *model
	machine  *Machine
	twin     *Machine
	out      Results
	twinOut  Results
	past     []Pos // positions to aim at, live and not
	seq      [4]uint64
	repeats  []command
}

const historyQueues = 4

var largePayload = make([]byte, 2*SmallJobBytes)

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), now: 1_700_000_000_000,
		model: newModel(), machine: New(modelShard), twin: New(modelShard),
	}
	return h
}

func (h *history) fatalf(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("entry %d: %s\nreplay: go test ./internal/queue -run TestMachineAgainstModel -queue.seed=%d -queue.commands=%d",
		h.index, fmt.Sprintf(format, args...), h.seed, *flagCommands)
}

func (h *history) entry() {
	h.index += 1 + uint64(h.rng.IntN(2))
	switch h.rng.IntN(40) {
	case 0:
		h.now += Millis(h.rng.Int64N(SessionIdleMillis * 2))
	case 1:
		h.now -= Millis(h.rng.Int64N(1000))
	default:
		h.now += Millis(h.rng.Int64N(2000))
	}
	var commands []command
	for range h.rng.IntN(6) {
		commands = append(commands, h.command())
	}
	h.commands += len(commands)
	var items [][]byte
	for i := range commands {
		items = commands[i].encode(items)
	}
	h.model.apply(h.index, h.now, commands)
	h.machine.Apply(h.index, h.now, items, &h.out)
	h.twin.Apply(h.index, h.now, items, &h.twinOut)
	h.compareResults(commands)
	for i := range h.out.Items {
		if h.out.Items[i].Code == CodeOK && h.out.Items[i].Pos != 0 {
			h.aim(h.out.Items[i].Pos)
		}
	}
}

// aim remembers a position for later commands.
func (h *history) aim(p Pos) {
	if len(h.past) < 200 {
		h.past = append(h.past, p)
		return
	}
	h.past[h.rng.IntN(len(h.past))] = p
}

func (h *history) compareResults(commands []command) {
	want, got := &h.model.out, &h.out
	if !slices.Equal(want.Items, got.Items) {
		h.fatalf("results\n got %v\nwant %v\nof %+v", got.Items, want.Items, commands)
	}
	if !slices.Equal(want.Leases, got.Leases) {
		h.fatalf("leases\n got %v\nwant %v\nof %+v", got.Leases, want.Leases, commands)
	}
	order := func(a, b Event) int {
		if a.Kind == EventReady && b.Kind == EventReady {
			return cmp.Compare(a.Queue, b.Queue)
		}
		return 0
	}
	events := slices.Clone(got.Events)
	slices.SortStableFunc(events, order)
	if !slices.Equal(want.Events, events) {
		h.fatalf("events\n got %v\nwant %v\nof %+v", events, want.Events, commands)
	}
	if !reflect.DeepEqual(h.out, h.twinOut) {
		h.fatalf("two machines answer\n%v\n%v", h.out, h.twinOut)
	}
	if h.machine.Fingerprint() != h.twin.Fingerprint() {
		h.fatalf("two machines have fingerprints %x and %x", h.machine.Fingerprint(), h.twin.Fingerprint())
	}
}

// compareAll compares everything that can be read.
func (h *history) compareAll() {
	if err := h.machine.CheckInvariants(); err != nil {
		h.fatalf("%v", err)
	}
	for _, id := range h.model.queueIDs() {
		want := h.model.queues[id].info
		want.Unique = h.model.unique(id)
		if ready := h.model.sorted(func(j *modelJob) bool {
			return j.info.Queue == id && j.info.State == StateReady
		}); len(ready) > 0 {
			want.OldestReady = ready[0].info.Pos
		}
		if got, _ := h.machine.Queue(id); !reflect.DeepEqual(got, want) {
			h.fatalf("queue\n got %+v\nwant %+v", got, want)
		}
		for st := StateScheduled; st < stateCount; st++ {
			h.compareList(id, st)
		}
	}
	for p, j := range h.model.jobs {
		if got, ok := h.machine.Job(p, j.info.Queue, j.info.Priority); !ok || !sameInfo(got, j.info) {
			h.fatalf("job\n got %+v\nwant %+v", got, j.info)
		}
	}
	for k, hold := range h.model.keys {
		if p, ok := h.machine.Holder(HashUnique(k.queue, k.ordering, k.unique)); !ok || p != hold.pos {
			h.fatalf("key %v is held by job %d, want %d", k, p, hold.pos)
		}
	}
	h.compareTotals()
	h.compareSessions()
	h.compareLive()
}

func sameInfo(a, b JobInfo) bool {
	same := slices.Equal(a.ErrorPos, b.ErrorPos)
	a.ErrorPos, b.ErrorPos = nil, nil
	return same && reflect.DeepEqual(a, b)
}

// compareSessions compares what is remembered of each session.
func (h *history) compareSessions() {
	for id, s := range h.model.sessions {
		for seq := uint64(1); seq <= s.high+1; seq++ {
			want := Remembered{TooOld: seq+SessionWindow <= s.high}
			if known, ok := s.answers[seq]; ok && !want.TooOld {
				want = Remembered{Known: true, Jobs: len(known), Shape: s.shapes[seq]}
			}
			if got := h.machine.Remembers(id, seq); got != want {
				h.fatalf("session %v remembers %+v of %d, want %+v", id, got, seq, want)
			}
		}
	}
}

func (h *history) compareList(id QueueID, st State) {
	want := h.model.sorted(func(j *modelJob) bool { return j.info.Queue == id && j.info.State == st })
	if st == StateReady {
		slices.SortStableFunc(want, func(a, b *modelJob) int { return cmp.Compare(a.info.Priority, b.info.Priority) })
	}
	limit := 1 + h.rng.IntN(10)
	var got []JobInfo
	for cursor := (Cursor{}); ; {
		var page []JobInfo
		page, cursor = h.machine.List(id, st, cursor, limit)
		if len(page) > limit {
			h.fatalf("page of %d, limit %d", len(page), limit)
		}
		got = append(got, page...)
		if cursor == (Cursor{}) {
			break
		}
	}
	if !slices.EqualFunc(got, want, func(a JobInfo, b *modelJob) bool { return sameInfo(a, b.info) }) {
		h.fatalf("queue %d lists %d jobs in state %d, want %d", id, len(got), st, len(want))
	}
}

func (h *history) compareTotals() {
	var want Totals
	workers := map[WorkerID]int{}
	for _, j := range h.model.jobs {
		want.ByState[j.info.State]++
		if j.info.State == StateRunning {
			want.Leases++
			workers[j.info.Worker]++
		}
	}
	delete(workers, 0)
	got := h.machine.Totals()
	want.Queues, want.Sessions, want.Workers, want.Timers = len(h.model.queues), len(h.model.sessions), len(workers), got.Timers
	if got != want {
		h.fatalf("totals\n got %+v\nwant %+v", got, want)
	}
	for _, w := range h.machine.Workers() {
		if workers[w.Worker] != w.Running || len(h.machine.WorkerLeases(w.Worker)) != w.Running {
			h.fatalf("worker %d runs %d, want %d", w.Worker, w.Running, workers[w.Worker])
		}
	}
}

func (h *history) compareLive() {
	want := roaring64.New()
	for p, j := range h.model.jobs {
		want.Add(p.Index())
		for _, at := range append([]Pos{j.info.ResultPos, j.info.ProgressPos}, j.info.ErrorPos...) {
			if at != 0 {
				want.Add(at.Index())
			}
		}
	}
	if got := h.machine.Snapshot().Live(); !got.Equals(want) {
		h.fatalf("live\n got %v\nwant %v", got, want)
	}
}

// restoreTwin replaces the twin by one restored from an image of the other machine.
func (h *history) restoreTwin() {
	var a, b bytes.Buffer
	if _, err := h.machine.Snapshot().WriteTo(&a); err != nil {
		h.fatalf("%v", err)
	}
	if _, err := h.twin.Snapshot().WriteTo(&b); err != nil {
		h.fatalf("%v", err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		h.fatalf("two machines write different images")
	}
	twin, err := Restore(modelShard, &a)
	if err != nil {
		h.fatalf("restore: %v", err)
	}
	if err := twin.CheckInvariants(); err != nil {
		h.fatalf("restored: %v", err)
	}
	h.twin = twin
}

func (h *history) command() command {
	r := h.rng
	if h.version < historyQueues {
		h.version++
		return command{kind: itemConfigure, queue: QueueID(h.version), version: h.version, settings: h.settings()}
	}
	switch n := r.IntN(100); {
	case n < 2:
		h.version++
		return command{
			kind: itemConfigure, queue: QueueID(1 + r.IntN(historyQueues)), version: h.version - uint64(r.IntN(2)*r.IntN(3)),
			settings: h.settings(),
		}
	case n < 25:
		return h.enqueue()
	case n < 28 && len(h.repeats) > 0:
		return h.repeats[r.IntN(len(h.repeats))]
	case n < 45:
		return h.fetch()
	case n < 85:
		return h.toLease()
	case n < 90:
		c := command{kind: itemCancel, pos: h.target(), queue: 1, priority: 0}
		if j := h.model.jobs[c.pos]; j != nil {
			c.queue, c.priority = j.info.Queue, j.info.Priority
		}
		return c
	case n < 95:
		kind := itemRetryDead
		if r.IntN(2) == 0 {
			kind = itemDiscardDead
		}
		c := command{kind: kind, pos: h.target()}
		if dead := h.model.sorted(func(j *modelJob) bool { return j.info.State == StateDead }); len(dead) > 0 && r.IntN(4) > 0 {
			c.pos = dead[r.IntN(len(dead))].info.Pos
		}
		return c
	case n < 98:
		kind := itemWorkerLost
		if r.IntN(2) == 0 {
			kind = itemWorkerGone
		}
		return command{kind: kind, worker: WorkerID(1 + r.IntN(3))}
	}
	if r.IntN(2) == 0 {
		return command{kind: itemHold, leaseMillis: int64(r.IntN(10_000))}
	}
	return command{kind: itemTick}
}

// target is a position of a job, as often as not one that is over.
func (h *history) target() Pos {
	if len(h.past) == 0 {
		return 1
	}
	return h.past[h.rng.IntN(len(h.past))]
}

func (h *history) settings() Settings {
	r := h.rng
	return Settings{
		MaxAttempts: uint32(r.IntN(4)), Retry: h.retry(), TimeoutMillis: int64(r.IntN(2) * r.IntN(20_000)),
		PoisonLimit: uint32(r.IntN(3)), KeepEnded: uint32(1 + r.IntN(100)), DepthMax: uint64(20 + r.IntN(80)),
		Paused: r.IntN(8) == 0, Closed: r.IntN(8) == 0,
	}
}

func (h *history) retry() Retry {
	r := h.rng
	switch RetryKind(r.IntN(6)) {
	case RetryExponential:
		return Retry{Kind: RetryExponential, JitterPercent: uint8(r.IntN(101)), BaseMillis: int64(r.IntN(3000)), MaxMillis: int64(r.IntN(9000))}
	case RetryFixed:
		return Retry{Kind: RetryFixed, JitterPercent: uint8(r.IntN(101)), BaseMillis: int64(r.IntN(3000))}
	case RetryList:
		return Retry{Kind: RetryList, List: []int64{int64(r.IntN(100)), 0, int64(r.IntN(5000))}}
	case RetryNever:
		return Retry{Kind: RetryNever}
	default:
		return Retry{}
	}
}

func (h *history) spec() Spec {
	r := h.rng
	s := Spec{Queue: QueueID(1 + r.IntN(historyQueues)), Priority: uint8(r.IntN(3)), Kind: "k", Payload: []byte("p")}
	if r.IntN(50) == 0 {
		s.Queue = 99
	}
	if r.IntN(4) == 0 {
		s.RunAt = h.now + Millis(r.IntN(8000)-2000)
	}
	if r.IntN(6) == 0 {
		s.ExpiresAt = h.now + Millis(r.IntN(20_000)-500)
	}
	if r.IntN(6) == 0 {
		s.MaxAttempts = uint32(1 + r.IntN(3))
	}
	if r.IntN(6) == 0 {
		s.TimeoutMillis = int64(r.IntN(5000) - 1)
	}
	if r.IntN(6) == 0 {
		s.Retry = h.retry()
	}
	if r.IntN(20) == 0 {
		s.Payload = largePayload[:SmallJobBytes-40+r.IntN(SmallJobBytes)]
	}
	if r.IntN(3) == 0 {
		s.UniqueKey = []string{"a", "b", "cc"}[r.IntN(3)]
		s.OrderingKey = []string{"", "", "", "c"}[r.IntN(4)]
		s.UniqueUntil = UniqueUntil(r.IntN(2))
		s.UniqueForMillis = int64(r.IntN(2) * r.IntN(20_000))
	}
	return s
}

func (h *history) enqueue() command {
	r := h.rng
	c := command{kind: itemEnqueue, header: true, atomic: r.IntN(4) == 0}
	for range 1 + r.IntN(8) {
		c.jobs = append(c.jobs, h.spec())
	}
	for i := range c.jobs {
		if c.jobs[i].UniqueKey != "" && r.IntN(8) == 0 {
			if c.hints == nil {
				c.hints = map[int]JobID{}
			}
			c.hints[i] = JobID{Shard: uint16(modelShard + r.IntN(2)), Pos: h.target()}
		}
	}
	switch n := r.IntN(4); {
	case n == 0:
		return command{kind: itemJob, jobs: c.jobs[:1], hints: c.hints}
	case n == 1:
		client := r.IntN(len(h.seq))
		c.session[0] = byte(client + 1)
		h.seq[client] += 1 + uint64(r.IntN(3))
		if r.IntN(50) == 0 {
			h.seq[client] += SessionWindow
		}
		c.seq, c.shape = h.seq[client], uint32(r.IntN(3))
		if back := uint64(r.IntN(SessionWindow + 10)); r.IntN(4) == 0 && c.seq > back {
			c.seq -= back // out of order, repeated with other jobs, or too old
		}
		if len(h.repeats) < 50 {
			h.repeats = append(h.repeats, c)
		} else {
			h.repeats[r.IntN(len(h.repeats))] = c
		}
	}
	return c
}

func (h *history) fetch() command {
	r := h.rng
	c := command{kind: itemFetch, worker: WorkerID(r.IntN(4)), max: 1 + r.IntN(12), bytesMax: r.IntN(2) * r.IntN(8*SmallJobBytes)}
	for range 1 + r.IntN(3) {
		c.queues = append(c.queues, QueueID(1+r.IntN(historyQueues+1)))
	}
	if c.worker == 0 {
		c.leaseMillis = int64(r.IntN(8000))
	}
	return c
}

func (h *history) toLease() command {
	r := h.rng
	kinds := []itemType{itemAck, itemAck, itemAck, itemFail, itemFail, itemRelease, itemTakeBack, itemExtend, itemProgress, itemDamaged}
	c := command{
		kind: kinds[r.IntN(len(kinds))], pos: h.target(), token: Token(r.IntN(5)), text: "t", percent: uint8(r.IntN(101)),
		leaseMillis: 1 + int64(r.IntN(9000)),
	}
	if c.kind == itemDamaged && r.IntN(4) > 0 {
		c.kind = itemAck
	}
	if running := h.model.sorted(func(j *modelJob) bool { return j.info.State == StateRunning }); len(running) > 0 && r.IntN(8) > 0 {
		j := running[r.IntN(len(running))]
		c.pos, c.token = j.info.Pos, j.info.Token
		if r.IntN(10) == 0 {
			c.token--
		}
	}
	c.failure = Failure{Type: "E", Message: "m", Final: r.IntN(10) == 0, DelayMillis: int64(r.IntN(2) * r.IntN(4000))}
	return c
}
