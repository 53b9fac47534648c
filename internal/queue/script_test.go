package queue

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestMachineScripts runs testdata/machine. Each command is one entry, applied at now. Its output is the refusal, if it
// is refused, and then a line for every job that the entry changed.
//
//	queue NAME [attempts= retry= timeout= poison= keep= depth= paused closed version=]
//	enqueue job=j1 queue=q [priority= in= expires= attempts= retry= timeout=] [session= seq= atomic]; job=(j1,j2) for several
//	        [key= order= until=started for=10s hint=]: a unique key; hint names a job of shard 9 by its number
//	fetch worker=w1 queue=(q,r) n=1 [lease=30s]; worker=none is the anonymous one
//	ack, fail, release, take-back, extend, progress, damaged job=j1 [attempt=1]: by the lease of that attempt, or the last
//	cancel, retry, discard job=j1
//	lost, gone worker=w1
//	advance
//	show job=j1 · list queue=q state=ready · stats queue=q · live · restore
func TestMachineScripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/machine", func(t *testing.T, path string) {
		s := newScript()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.run(t, d)
			if err := s.m.CheckInvariants(); err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			return out
		})
	})
}

// scriptEpoch is the time 0 of the scripts.
const scriptEpoch Millis = 1_000_000_000

type script struct {
	m       *Machine
	out     Results
	index   uint64
	now     Millis
	version uint64
	queues  []string // by id - 1
	jobs    []scriptJob
}

type scriptJob struct {
	name     string
	pos      Pos
	queue    QueueID
	priority uint8
	tokens   []Token // by attempt - 1
	seen     string
}

func newScript() *script { return &script{m: New(1), now: scriptEpoch} }

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	if v := s.arg(d, "now"); v != "" {
		s.now = scriptEpoch + s.millis(t, v)
	}
	switch d.Cmd {
	case "show":
		return s.describe(s.job(t, d), true) + "\n"
	case "list":
		return s.list(t, d)
	case "stats":
		return s.stats(t, d)
	case "live":
		return fmt.Sprintln(s.m.Snapshot().Live().String())
	case "restore":
		return s.restore(t)
	}
	items := s.items(t, d)
	s.index++
	s.m.Apply(s.index, s.now, items, &s.out)
	var b strings.Builder
	if d.Cmd == "enqueue" {
		s.noteJobs(t, d, &b)
	}
	for _, l := range s.out.Leases {
		for i := range s.jobs {
			if s.jobs[i].pos == l.Pos {
				s.jobs[i].tokens = append(s.jobs[i].tokens, l.Token)
			}
		}
	}
	if d.Cmd != "enqueue" {
		if text := s.refusal(s.out.Items[0]); text != "" {
			fmt.Fprintln(&b, text)
		}
	}
	s.changes(&b)
	for _, e := range s.out.Events {
		switch e.Kind {
		case EventLeaseLost, EventCancel:
			what := map[EventKind]string{EventLeaseLost: "lost", EventCancel: "should stop"}[e.Kind]
			fmt.Fprintf(&b, "tell w%d: %s %s\n", e.Worker, what, s.nameOf(e.Pos))
		case EventUnfinished:
			fmt.Fprintln(&b, "more timers are due")
		case EventReady, EventDiverged:
		}
	}
	if b.Len() == 0 {
		return "ok\n"
	}
	return b.String()
}

func (s *script) refusal(r Result) string {
	switch r.Code {
	case CodeOK:
		return ""
	case CodeStale:
		return "refused: not the lease holder"
	case CodeWrongState:
		return "refused: the job is " + stateNames[r.State]
	case CodeCancelRequested:
		return "cancellation requested"
	case CodeKeyHeld:
		return "refused: " + codeNames[r.Code] + " by " + s.nameOf(r.Pos)
	default:
		return "refused: " + codeNames[r.Code]
	}
}

var codeNames = [...]string{
	"ok", "duplicate", "no such queue", "queue full", "no such job", "stale", "wrong state", "limit reached",
	"sequence number too old", "malformed", "aborted with the others", "cancel requested",
	"expired already", "another set of jobs than the first time", "the queue is closed here",
	"exists", "the unique key is held", "the unique key is granted elsewhere",
}

var stateNames = [...]string{
	"gone", "scheduled", "ready", "running", "backoff", "dead", "completed", "cancelled", "expired", "discarded",
}

func (s *script) items(t *testing.T, d *datadriven.TestData) [][]byte {
	switch d.Cmd {
	case "queue":
		return [][]byte{s.configure(t, d)}
	case "enqueue":
		return s.enqueue(t, d)
	case "fetch":
		n, _ := strconv.Atoi(s.arg(d, "n"))
		var ids []QueueID
		for _, name := range s.args(d, "queue") {
			ids = append(ids, s.queue(name))
		}
		bytes := int(s.number(t, s.arg(d, "bytes")))
		return [][]byte{AppendFetch(nil, s.worker(d), ids, max(n, 1), bytes, int64(s.millisArg(t, d, "lease")))}
	case "lost":
		return [][]byte{AppendWorkerLost(nil, s.worker(d))}
	case "gone":
		return [][]byte{AppendWorkerGone(nil, s.worker(d))}
	case "hold":
		return [][]byte{AppendHold(nil, int64(s.millisArg(t, d, "for")))}
	case "advance":
		return [][]byte{AppendTick(nil)}
	}
	j := s.job(t, d)
	token := Token(99)
	attempt, _ := strconv.Atoi(s.arg(d, "attempt"))
	if attempt == 0 {
		attempt = len(j.tokens)
	}
	if attempt > 0 && attempt <= len(j.tokens) {
		token = j.tokens[attempt-1]
	}
	switch d.Cmd {
	case "ack":
		return [][]byte{AppendAck(nil, j.pos, token, "text/plain", []byte("done"))}
	case "fail":
		f := Failure{Message: "oops", Final: d.HasArg("final"), DelayMillis: int64(s.millisArg(t, d, "delay"))}
		return [][]byte{AppendFail(nil, j.pos, token, &f)}
	case "take-back":
		return [][]byte{AppendTakeBack(nil, j.pos, token)}
	case "release":
		return [][]byte{AppendRelease(nil, j.pos, token)}
	case "extend":
		return [][]byte{AppendExtend(nil, j.pos, token, int64(s.millisArg(t, d, "lease")))}
	case "progress":
		percent, _ := strconv.Atoi(s.arg(d, "percent"))
		return [][]byte{AppendProgress(nil, j.pos, token, uint8(percent), "half way")}
	case "damaged":
		return [][]byte{AppendDamaged(nil, j.pos, token)}
	case "cancel":
		return [][]byte{AppendCancel(nil, j.pos, j.queue, j.priority)}
	case "retry":
		return [][]byte{AppendRetryDead(nil, j.pos)}
	case "discard":
		return [][]byte{AppendDiscardDead(nil, j.pos)}
	}
	t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	return nil
}

func (s *script) configure(t *testing.T, d *datadriven.TestData) []byte {
	name := d.CmdArgs[0].Key
	if !slices.Contains(s.queues, name) {
		s.queues = append(s.queues, name)
	}
	s.version++
	version := s.version
	if v := s.arg(d, "version"); v != "" {
		version = s.number(t, v)
	}
	settings := Settings{
		MaxAttempts: uint32(s.number(t, s.arg(d, "attempts"))), Retry: s.retry(t, d),
		TimeoutMillis: int64(s.millisArg(t, d, "timeout")), PoisonLimit: uint32(s.number(t, s.arg(d, "poison"))),
		KeepEnded: uint32(s.number(t, s.arg(d, "keep"))), DepthMax: s.number(t, s.arg(d, "depth")), Paused: d.HasArg("paused"), Closed: d.HasArg("closed"),
	}
	return AppendConfigure(nil, s.queue(name), version, &settings)
}

// retry reads retry=never, retry=2s (fixed), retry=2s..1m (exponential) or retry=(1s,5s) (list).
func (s *script) retry(t *testing.T, d *datadriven.TestData) Retry {
	v := s.args(d, "retry")
	switch {
	case len(v) == 0:
		return Retry{}
	case v[0] == "never":
		return Retry{Kind: RetryNever}
	case len(v) > 1:
		r := Retry{Kind: RetryList}
		for _, text := range v {
			r.List = append(r.List, int64(s.millis(t, text)))
		}
		return r
	}
	if base, limit, ok := strings.Cut(v[0], ".."); ok {
		return Retry{Kind: RetryExponential, BaseMillis: int64(s.millis(t, base)), MaxMillis: int64(s.millis(t, limit))}
	}
	return Retry{Kind: RetryFixed, BaseMillis: int64(s.millis(t, v[0]))}
}

func (s *script) enqueue(t *testing.T, d *datadriven.TestData) [][]byte {
	spec := Spec{
		Queue: s.queue(s.arg(d, "queue")), Priority: uint8(s.number(t, s.arg(d, "priority"))),
		MaxAttempts: uint32(s.number(t, s.arg(d, "attempts"))), Retry: s.retry(t, d),
		TimeoutMillis: int64(s.millisArg(t, d, "timeout")),
		UniqueKey:     s.arg(d, "key"), OrderingKey: s.arg(d, "order"), UniqueForMillis: int64(s.millisArg(t, d, "for")),
	}
	if s.arg(d, "until") == "started" {
		spec.UniqueUntil = UniqueUntilStarted
	}
	var hint JobID
	if v := s.arg(d, "hint"); v != "" {
		hint = JobID{Shard: 9, Pos: Pos(s.number(t, v))}
	}
	if in := s.millisArg(t, d, "in"); in != 0 {
		spec.RunAt = s.now + in
	}
	if v := s.arg(d, "expires"); v != "" {
		spec.ExpiresAt = s.now + s.millis(t, v)
	}
	spec.Payload = make([]byte, s.number(t, s.arg(d, "bytes")))
	names := s.args(d, "job")
	var session SessionID
	copy(session[:], s.arg(d, "session"))
	items := [][]byte{AppendEnqueue(nil, session, s.number(t, s.arg(d, "seq")), len(names), d.HasArg("atomic"), uint32(s.number(t, s.arg(d, "shape"))))}
	for range names {
		items = append(items, AppendHintedJob(nil, &spec, hint))
	}
	return items
}

// noteJobs prints what became of each job of an enqueue and learns the names of the new ones.
func (s *script) noteJobs(t *testing.T, d *datadriven.TestData, b *strings.Builder) {
	for i, name := range s.args(d, "job") {
		r := s.out.Items[i+1]
		switch r.Code {
		case CodeOK:
			s.jobs = append(s.jobs, scriptJob{
				name: name, pos: r.Pos, queue: s.queue(s.arg(d, "queue")), priority: uint8(s.number(t, s.arg(d, "priority"))),
			})
		case CodeDuplicate:
			fmt.Fprintf(b, "%s is %s, %s\n", name, s.nameOf(r.Pos), stateNames[r.State])
		case CodeExists:
			fmt.Fprintf(b, "%s exists: %s, %s\n", name, s.holder(r), stateNames[r.State])
		default:
			fmt.Fprintf(b, "%s refused: %s\n", name, codeNames[r.Code])
		}
	}
}

// changes prints the jobs that look different from the last time.
func (s *script) changes(b *strings.Builder) {
	for i := range s.jobs {
		if now := s.describe(&s.jobs[i], false); now != s.jobs[i].seen {
			s.jobs[i].seen = now
			fmt.Fprintln(b, now)
		}
	}
}

func (s *script) describe(j *scriptJob, all bool) string {
	info, ok := s.m.Job(j.pos, j.queue, j.priority)
	text := j.name + " " + stateNames[info.State]
	if !ok {
		return text
	}
	if info.State == StateRunning {
		text += fmt.Sprintf(" w%d", info.Worker)
	}
	field := func(name string, n uint32) {
		if n != 0 {
			text += fmt.Sprintf(" %s=%d", name, n)
		}
	}
	at := func(name string, m Millis) {
		if m != 0 {
			text += fmt.Sprintf(" %s=%v", name, time.Duration(m-scriptEpoch)*time.Millisecond)
		}
	}
	at("at", info.RunAt)
	at("until", info.Deadline)
	field("attempt", info.Attempt)
	field("failures", info.Failures)
	field("crashes", info.Crashes)
	field("progress", uint32(info.ProgressPercent))
	if info.CancelRequested {
		text += " cancel-requested"
	}
	if info.DeadReason != DeadNot {
		text += " reason=" + [...]string{"", "attempts", "final", "poison", "damaged"}[info.DeadReason]
	}
	if all {
		at("started", info.StartedAt)
		at("ended", info.EndedAt)
		field("result-entry", uint32(info.ResultPos.Index()))
		for _, p := range info.ErrorPos {
			text += fmt.Sprintf(" error-entry=%d", p.Index())
		}
	}
	return text
}

func (s *script) list(t *testing.T, d *datadriven.TestData) string {
	st := State(slices.Index(stateNames[:], s.arg(d, "state")))
	var names []string
	for c := (Cursor{}); ; {
		var page []JobInfo
		page, c = s.m.List(s.queue(s.arg(d, "queue")), st, c, 2)
		for i := range page {
			names = append(names, s.nameOf(page[i].Pos))
		}
		if c == (Cursor{}) {
			return strings.Join(names, " ") + "\n"
		}
	}
}

func (s *script) stats(t *testing.T, d *datadriven.TestData) string {
	info, _ := s.m.Queue(s.queue(s.arg(d, "queue")))
	var b strings.Builder
	for st, n := range info.ByState {
		if n > 0 {
			fmt.Fprintf(&b, "%s=%d ", stateNames[st], n)
		}
	}
	fmt.Fprintf(&b, "\nenqueued=%d completed=%d failed=%d crashed=%d died=%d cancelled=%d expired=%d retried=%d discarded=%d\n",
		info.Enqueued, info.Completed, info.Failed, info.Crashed, info.Died, info.Cancelled, info.Expired, info.Retried, info.Discarded)
	if info.Unique+info.Deduplicated > 0 {
		fmt.Fprintf(&b, "unique keys held=%d deduplicated=%d\n", info.Unique, info.Deduplicated)
	}
	return strings.ReplaceAll(b.String(), " \n", "\n")
}

func (s *script) restore(t *testing.T) string {
	var b bytes.Buffer
	if _, err := s.m.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	m, err := Restore(1, &b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Fingerprint() != s.m.Fingerprint() || m.Applied() != s.m.Applied() || m.Now() != s.m.Now() {
		t.Fatal("restored to another state")
	}
	s.m = m
	return "same\n"
}

func (s *script) nameOf(p Pos) string {
	for i := range s.jobs {
		if s.jobs[i].pos == p {
			return s.jobs[i].name
		}
	}
	return "?"
}

// holder names the job that holds a unique key.
func (s *script) holder(r Result) string {
	if r.Shard != 1 {
		return fmt.Sprintf("job %d of shard %d", r.Pos, r.Shard)
	}
	return s.nameOf(r.Pos)
}

func (s *script) job(t *testing.T, d *datadriven.TestData) *scriptJob {
	for i := range s.jobs {
		if s.jobs[i].name == s.arg(d, "job") {
			return &s.jobs[i]
		}
	}
	t.Fatalf("%s: no job %q", d.Pos, s.arg(d, "job"))
	return nil
}

func (s *script) queue(name string) QueueID { return QueueID(slices.Index(s.queues, name) + 1) }

func (s *script) worker(d *datadriven.TestData) WorkerID {
	n, _ := strconv.Atoi(strings.TrimPrefix(s.arg(d, "worker"), "w"))
	return WorkerID(n)
}

func (s *script) args(d *datadriven.TestData, key string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}

func (s *script) arg(d *datadriven.TestData, key string) string {
	if v := s.args(d, key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (s *script) number(t *testing.T, v string) uint64 {
	if v == "" {
		return 0
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *script) millisArg(t *testing.T, d *datadriven.TestData, key string) Millis {
	if v := s.arg(d, key); v != "" {
		return s.millis(t, v)
	}
	return 0
}

func (s *script) millis(t *testing.T, v string) Millis {
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return Millis(d.Milliseconds())
}
