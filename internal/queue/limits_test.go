package queue

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

// apply applies one entry at the machine's clock and returns its results.
func apply(m *Machine, items ...[]byte) *Results {
	var out Results
	m.Apply(m.Applied()+1, m.Now(), items, &out)
	return &out
}

func TestSpecLimits(t *testing.T) {
	t.Parallel()
	metadata := func(keys, bytes int) []KeyValue {
		kv := make([]KeyValue, keys)
		if keys > 0 {
			kv[0].Value = strings.Repeat("v", bytes)
		}
		return kv
	}
	sized := []string{"kind", "content_type", "payload", "metadata", "ordering_key", "unique_key"}
	list := func(n int) Retry { return Retry{Kind: RetryList, List: make([]int64, n)} }
	for _, c := range []struct {
		field    string
		ok, over func(*Spec)
	}{
		{"priority", func(s *Spec) { s.Priority = PriorityCount - 1 }, func(s *Spec) { s.Priority = PriorityCount }},
		{"run_at", func(s *Spec) { s.RunAt = millisMax }, func(s *Spec) { s.RunAt = millisMax + 1 }},
		{"expires_at", func(s *Spec) { s.ExpiresAt = millisMax }, func(s *Spec) { s.ExpiresAt = millisMax + 1 }},
		{"enqueued_at", func(s *Spec) { s.EnqueuedAt = millisMax }, func(s *Spec) { s.EnqueuedAt = millisMax + 1 }},
		{"max_attempts", func(s *Spec) { s.MaxAttempts = MaxAttemptsMax }, func(s *Spec) { s.MaxAttempts = MaxAttemptsMax + 1 }},
		{"timeout", func(s *Spec) { s.TimeoutMillis = DelayMillisMax }, func(s *Spec) { s.TimeoutMillis = DelayMillisMax + 1 }},
		{"timeout", func(s *Spec) { s.TimeoutMillis = -1 }, func(s *Spec) { s.TimeoutMillis = -2 }},
		{"kind", func(s *Spec) { s.Kind = strings.Repeat("k", KindBytesMax) }, func(s *Spec) { s.Kind = strings.Repeat("k", KindBytesMax+1) }},
		{"content_type", func(s *Spec) { s.ContentType = strings.Repeat("c", ContentTypeMax) }, func(s *Spec) { s.ContentType = strings.Repeat("c", ContentTypeMax+1) }},
		{"payload", func(s *Spec) { s.Payload = make([]byte, PayloadBytesMax) }, func(s *Spec) { s.Payload = make([]byte, PayloadBytesMax+1) }},
		{"metadata", func(s *Spec) { s.Metadata = metadata(MetadataCountMax, 0) }, func(s *Spec) { s.Metadata = metadata(MetadataCountMax+1, 0) }},
		{"metadata", func(s *Spec) { s.Metadata = metadata(2, MetadataBytesMax) }, func(s *Spec) { s.Metadata = metadata(2, MetadataBytesMax+1) }},
		{"ordering_key", func(s *Spec) { s.OrderingKey = strings.Repeat("o", OrderKeyBytesMax) }, func(s *Spec) { s.OrderingKey = strings.Repeat("o", OrderKeyBytesMax+1) }},
		{"unique_key", func(s *Spec) { s.UniqueKey = strings.Repeat("u", UniqueKeyBytesMax) }, func(s *Spec) { s.UniqueKey = strings.Repeat("u", UniqueKeyBytesMax+1) }},
		{"unique_for", func(s *Spec) { s.UniqueKey, s.UniqueForMillis = "u", UniqueForMillisMax }, func(s *Spec) { s.UniqueKey, s.UniqueForMillis = "u", UniqueForMillisMax+1 }},
		{"retry.list", func(s *Spec) { s.Retry = list(RetryListMax) }, func(s *Spec) { s.Retry = list(RetryListMax + 1) }},
		{"retry.list", func(s *Spec) { s.Retry = list(1) }, func(s *Spec) { s.Retry = list(0) }},
		{"retry.list", func(s *Spec) { s.Retry = list(1); s.Retry.List[0] = DelayMillisMax }, func(s *Spec) { s.Retry = list(1); s.Retry.List[0] = DelayMillisMax + 1 }},
		{"retry.base", func(s *Spec) { s.Retry = Retry{Kind: RetryFixed, BaseMillis: DelayMillisMax} }, func(s *Spec) { s.Retry = Retry{Kind: RetryFixed, BaseMillis: DelayMillisMax + 1} }},
		{"retry.max", func(s *Spec) { s.Retry = Retry{Kind: RetryExponential, MaxMillis: DelayMillisMax} }, func(s *Spec) { s.Retry = Retry{Kind: RetryExponential, MaxMillis: DelayMillisMax + 1} }},
		{"retry.jitter_percent", func(s *Spec) { s.Retry = Retry{Kind: RetryFixed, JitterPercent: 100} }, func(s *Spec) { s.Retry = Retry{Kind: RetryFixed, JitterPercent: 101} }},
		{"retry.kind", func(s *Spec) { s.Retry.Kind = RetryNever }, func(s *Spec) { s.Retry.Kind = RetryNever + 1 }},
	} {
		m := benchMachine(t)
		s := Spec{Queue: benchQueue}
		c.ok(&s)
		if err := s.Validate(); err != nil {
			t.Errorf("%s: at the limit: %v", c.field, err)
		}
		if out := apply(m, AppendJob(nil, &s)); out.Items[0].Code != CodeOK {
			t.Errorf("%s: at the limit: applied with code %d", c.field, out.Items[0].Code)
		}
		s = Spec{Queue: benchQueue}
		c.over(&s)
		var fieldError *FieldError
		if err := s.Validate(); !errors.As(err, &fieldError) || fieldError.Field != c.field || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: over the limit: %v", c.field, err)
		} else if large := slices.Contains(sized, c.field) || len(s.Retry.List) > RetryListMax; fieldError.TooLarge != large {
			t.Errorf("%s: too large: %v, want %v", c.field, fieldError.TooLarge, large)
		}
		if out := apply(m, AppendJob(nil, &s)); out.Items[0].Code != CodeMalformed {
			t.Errorf("%s: over the limit: applied with code %d", c.field, out.Items[0].Code)
		}
	}
}

func TestSettingsLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field    string
		ok, over Settings
	}{
		{"max_attempts", Settings{MaxAttempts: MaxAttemptsMax}, Settings{MaxAttempts: MaxAttemptsMax + 1}},
		{"timeout", Settings{TimeoutMillis: DelayMillisMax}, Settings{TimeoutMillis: DelayMillisMax + 1}},
		{"timeout", Settings{}, Settings{TimeoutMillis: -1}},
		{"poison_limit", Settings{PoisonLimit: PoisonLimitMax}, Settings{PoisonLimit: PoisonLimitMax + 1}},
		{"keep_ended", Settings{KeepEnded: KeepEndedMax}, Settings{KeepEnded: KeepEndedMax + 1}},
	} {
		if err := c.ok.Validate(); err != nil {
			t.Errorf("%s: at the limit: %v", c.field, err)
		}
		var fieldError *FieldError
		if err := c.over.Validate(); !errors.As(err, &fieldError) || fieldError.Field != c.field {
			t.Errorf("%s: over the limit: %v", c.field, err)
		}
		if out := apply(New(1), AppendConfigure(nil, 1, 1, &c.over)); out.Items[0].Code != CodeMalformed {
			t.Errorf("%s: over the limit: applied with code %d", c.field, out.Items[0].Code)
		}
	}
}

func TestItemLimits(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name     string
		ok, over []byte
		want     Code // of ok
	}{
		{"ack content type", AppendAck(nil, 1, 1, text(ContentTypeMax), nil), AppendAck(nil, 1, 1, text(ContentTypeMax+1), nil), CodeStale},
		{"ack result", AppendAck(nil, 1, 1, "", make([]byte, ResultBytesMax)), AppendAck(nil, 1, 1, "", make([]byte, ResultBytesMax+1)), CodeStale},
		{"fail type", AppendFail(nil, 1, 1, &Failure{Type: text(ErrorTypeBytesMax)}), AppendFail(nil, 1, 1, &Failure{Type: text(ErrorTypeBytesMax + 1)}), CodeStale},
		{"fail message", AppendFail(nil, 1, 1, &Failure{Message: text(ErrorTextBytesMax)}), AppendFail(nil, 1, 1, &Failure{Message: text(ErrorTextBytesMax + 1)}), CodeStale},
		{"fail stack", AppendFail(nil, 1, 1, &Failure{Stack: text(ErrorStackBytesMax)}), AppendFail(nil, 1, 1, &Failure{Stack: text(ErrorStackBytesMax + 1)}), CodeStale},
		{"fail delay", AppendFail(nil, 1, 1, &Failure{DelayMillis: DelayMillisMax}), AppendFail(nil, 1, 1, &Failure{DelayMillis: DelayMillisMax + 1}), CodeStale},
		{"progress percent", AppendProgress(nil, 1, 1, 100, ""), AppendProgress(nil, 1, 1, 101, ""), CodeStale},
		{"progress text", AppendProgress(nil, 1, 1, 0, text(ProgressBytesMax)), AppendProgress(nil, 1, 1, 0, text(ProgressBytesMax+1)), CodeStale},
		{"extend", AppendExtend(nil, 1, 1, LeaseMillisMax), AppendExtend(nil, 1, 1, LeaseMillisMax+1), CodeStale},
		{"extend by nothing", AppendExtend(nil, 1, 1, 1), AppendExtend(nil, 1, 1, 0), CodeStale},
		{"fetch max", AppendFetch(nil, 1, []QueueID{benchQueue}, FetchMax, 0, 0), AppendFetch(nil, 1, []QueueID{benchQueue}, FetchMax+1, 0, 0), CodeOK},
		{"fetch bytes", AppendFetch(nil, 1, []QueueID{benchQueue}, 1, FetchBytesMax, 0), AppendFetch(nil, 1, []QueueID{benchQueue}, 1, FetchBytesMax+1, 0), CodeOK},
		{"hold", AppendHold(nil, HoldMillisMax), AppendHold(nil, HoldMillisMax+1), CodeOK},
		{"fetch none", AppendFetch(nil, 1, []QueueID{benchQueue}, 1, 0, 0), AppendFetch(nil, 1, []QueueID{benchQueue}, 0, 0, 0), CodeOK},
		{"fetch queues", AppendFetch(nil, 1, make([]QueueID, FetchQueuesMax), 1, 0, 0), AppendFetch(nil, 1, make([]QueueID, FetchQueuesMax+1), 1, 0, 0), CodeOK},
		{"fetch no queue", AppendFetch(nil, 1, make([]QueueID, 1), 1, 0, 0), AppendFetch(nil, 1, nil, 1, 0, 0), CodeOK},
		{"fetch lease", AppendFetch(nil, 0, []QueueID{benchQueue}, 1, 0, LeaseMillisMax), AppendFetch(nil, 0, []QueueID{benchQueue}, 1, 0, LeaseMillisMax+1), CodeOK},
		{"cancel priority", AppendCancel(nil, 1, 1, PriorityCount-1), AppendCancel(nil, 1, 1, PriorityCount), CodeNoJob},
		{"worker", AppendWorkerLost(nil, 1), AppendWorkerLost(nil, 0), CodeOK},
		{"type", AppendTick(nil), []byte{99, 1}, CodeOK},
		{"version", AppendTick(nil), []byte{byte(itemTick), 2}, CodeOK},
		{"length", AppendTick(nil), append(AppendTick(nil), 0), CodeOK},
		{"empty", AppendTick(nil), nil, CodeOK},
	} {
		m := benchMachine(t)
		out := apply(m, c.ok, c.over)
		if got := [2]Code{out.Items[0].Code, out.Items[1].Code}; got != [2]Code{c.want, CodeMalformed} {
			t.Errorf("%s: codes %v, want %d and malformed", c.name, got, c.want)
		}
		if err := m.CheckInvariants(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestEnqueueHeaderLimits(t *testing.T) {
	t.Parallel()
	jobs := func(n, announced int) [][]byte {
		items := [][]byte{AppendEnqueue(nil, SessionID{}, 0, announced, false, 0)}
		for range n {
			items = append(items, AppendJob(nil, &Spec{Queue: benchQueue}))
		}
		return items
	}
	for _, c := range []struct {
		name     string
		items    [][]byte
		enqueued uint64
	}{
		{"most jobs", jobs(EnqueueJobsMax, EnqueueJobsMax), EnqueueJobsMax},
		{"too many jobs: none is applied outside its command", jobs(EnqueueJobsMax+1, EnqueueJobsMax+1), 0},
		{"fewer jobs than announced", jobs(3, 4), 0},
		{"no jobs announced", jobs(3, 0), 0},
		{"another item among the jobs", append(jobs(1, 2), AppendTick(nil)), 1},
	} {
		m := benchMachine(t)
		out := apply(m, c.items...)
		if len(out.Items) != len(c.items) {
			t.Fatalf("%s: %d results for %d items", c.name, len(out.Items), len(c.items))
		}
		if info, _ := m.Queue(benchQueue); info.Enqueued != c.enqueued {
			t.Errorf("%s: %d enqueued, want %d", c.name, info.Enqueued, c.enqueued)
		}
	}
}

func TestEntryItemsLimit(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	items := make([][]byte, ItemsPerEntryMax+1)
	for i := range items {
		items[i] = AppendJob(nil, &Spec{Queue: benchQueue})
	}
	out := apply(m, items...)
	if out.Items[ItemsPerEntryMax-1].Code != CodeOK || out.Items[ItemsPerEntryMax].Code != CodeMalformed {
		t.Fatalf("codes %d and %d", out.Items[ItemsPerEntryMax-1].Code, out.Items[ItemsPerEntryMax].Code)
	}
	// An entry's last position touches the next one's first: they are one run.
	if out := apply(m, AppendJob(nil, &Spec{Queue: benchQueue})); out.Items[0].Code != CodeOK {
		t.Fatal(out.Items[0])
	}
	if err := m.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
}

func TestTimersPerEntryLimit(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	for range 3 {
		items := make([][]byte, TimersPerEntry/2)
		for i := range items {
			items[i] = AppendJob(nil, &Spec{Queue: benchQueue, RunAt: 100})
		}
		apply(m, items...)
	}
	var out Results
	m.Apply(m.Applied()+1, 100, [][]byte{AppendTick(nil)}, &out)
	if got := m.ReadyCount(benchQueue); got != TimersPerEntry {
		t.Fatalf("%d ready, want %d", got, TimersPerEntry)
	}
	if last := out.Events[0]; last.Kind != EventUnfinished {
		t.Fatalf("events %v", out.Events)
	}
	if at, ok := m.NextTimer(); !ok || at != 100 {
		t.Fatalf("next timer %d %v", at, ok)
	}
	m.Apply(m.Applied()+1, 100, [][]byte{AppendTick(nil)}, &out)
	if got := m.ReadyCount(benchQueue); got != 3*TimersPerEntry/2 || len(out.Events) != 1 || out.Events[0].Kind != EventReady {
		t.Fatalf("%d ready, events %v", got, out.Events)
	}
}

func TestQueuesAndSessionsLimit(t *testing.T) {
	t.Parallel()
	m := New(1)
	s := DefaultSettings()
	var items [][]byte
	for q := range QueueID(QueuesMax) {
		items = append(items, AppendConfigure(nil, q+1, 1, &s))
	}
	for len(items) > 0 {
		n := min(len(items), ItemsPerEntryMax)
		mustAllOK(t, apply(m, items[:n]...))
		items = items[n:]
	}
	if out := apply(m, AppendConfigure(nil, QueuesMax+1, 1, &s)); out.Items[0].Code != CodeLimit {
		t.Fatal(out.Items[0])
	}
	if out := apply(m, AppendConfigure(nil, QueuesMax, 2, &s)); out.Items[0].Code != CodeOK {
		t.Fatal(out.Items[0])
	}
	enqueue := func(n uint32) [][]byte {
		var id SessionID
		binary.LittleEndian.PutUint32(id[:], n+1)
		return [][]byte{AppendEnqueue(nil, id, 1, 1, false, 0), AppendJob(nil, &Spec{Queue: 1})}
	}
	for n := uint32(0); n < SessionsMax; {
		items = items[:0]
		for ; n < SessionsMax && len(items) < ItemsPerEntryMax-1; n++ {
			items = append(items, enqueue(n)...)
		}
		mustAllOK(t, apply(m, items...))
	}
	if code := apply(m, enqueue(SessionsMax)...).Items[1].Code; code != CodeLimit {
		t.Fatal(code)
	}
	if code := apply(m, enqueue(0)...).Items[1].Code; code != CodeDuplicate {
		t.Fatal(code)
	}
	if err := m.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
}

func mustAllOK(t *testing.T, out *Results) {
	t.Helper()
	for i := range out.Items {
		if out.Items[i].Code != CodeOK {
			t.Fatalf("item %d: %v", i, out.Items[i])
		}
	}
}

func TestWorkerLeasesLimit(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	fill(m, WorkerLeasesMax+1000, 1000)
	fetch := AppendFetch(nil, 1, []QueueID{benchQueue}, FetchMax, 0, 0)
	for {
		if out := apply(m, fetch); out.Items[0].Code == CodeLimit {
			break
		}
	}
	if got := m.Workers(); len(got) != 1 || got[0].Running != WorkerLeasesMax {
		t.Fatalf("workers %v", got)
	}
	if out := apply(m, AppendFetch(nil, 2, []QueueID{benchQueue}, 1, 0, 0)); out.Items[0].Code != CodeOK || len(out.Leases) != 1 {
		t.Fatalf("another worker: %v", out.Items[0])
	}
	apply(m, AppendWorkerLost(nil, 1))
	if info, _ := m.Queue(benchQueue); m.ReadyCount(benchQueue) != info.Enqueued-1 || info.Crashed != WorkerLeasesMax {
		t.Fatalf("%+v", info)
	}
	if err := m.CheckInvariants(); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	m := benchMachine(t)
	apply(m, AppendJob(nil, &Spec{Queue: benchQueue}))
	index, sum := m.Applied(), m.Fingerprint()
	if out := apply(m, AppendVerify(nil, index, sum)); out.Items[0].Code != CodeOK || len(out.Events) != 0 {
		t.Fatalf("same: %v %v", out.Items, out.Events)
	}
	if m.Fingerprint() != sum {
		t.Fatal("a verify changed the fingerprint")
	}
	out := apply(m, AppendVerify(nil, index, sum+1))
	if out.Items[0].Code != CodeWrongState || len(out.Events) != 1 || out.Events[0].Kind != EventDiverged {
		t.Fatalf("other: %v %v", out.Items, out.Events)
	}
	if v := m.Verified(); v != (Verification{index, sum + 1, sum}) {
		t.Fatalf("verified: %+v", v)
	}
	for m.Applied() < index+VerifyWindow-1 {
		apply(m, AppendTick(nil))
	}
	if out := apply(m, AppendTick(nil), AppendVerify(nil, index, sum+1)); out.Items[1].Code != CodeWrongState {
		t.Fatal("forgotten too early")
	}
	if out := apply(m, AppendVerify(nil, index, sum+1)); out.Items[0].Code != CodeOK {
		t.Fatal("remembered beyond the window")
	}
}

func TestRefusalsChangeNothing(t *testing.T) {
	t.Parallel()
	m := busyMachine(t)
	sum := m.Fingerprint()
	for _, item := range [][]byte{
		AppendAck(nil, 5, 5, "", nil), AppendRetryDead(nil, 5), AppendDiscardDead(nil, 5), AppendCancel(nil, 5, 1, 1),
		AppendJob(nil, &Spec{Queue: 77}),
		{1, 2, 3},
		AppendFetch(nil, 1, []QueueID{77}, 1, 0, 0), AppendWorkerLost(nil, 77),
	} {
		apply(m, item)
		if m.Fingerprint() != sum {
			t.Fatalf("item %v changed the state", item[:2])
		}
	}
}
