package chaos

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// recorder keeps what all clients asked and were told. Its methods may be called by any goroutine.
type recorder struct {
	began time.Time

	mu         sync.Mutex
	jobs       []jobOf             // by label
	tenures    map[string][]tenure // of each queue, in order
	existing   []existing
	log        history.Log
	ids        map[history.Label]beaver.JobID
	labels     map[beaver.JobID]history.Label
	books      map[string]*book // by queue
	violations []string
	calls      map[string]*tally
	acked      map[history.Label]bool // jobs whose ack was answered
	over       map[history.Label]bool // jobs that the cluster says have ended
	complaints []string               // of the first calls that failed
	stale      int                    // outcomes refused since the lease was lost
}

// tally counts the calls of one kind.
type tally struct{ answered, refused, unknown, failed int }

// book is what is certain of a queue's totals: what was begun bounds them from above, and what was acknowledged from below.
type book struct{ begun, stored, existed, enqueuedSeen, completed, completedSeen uint64 }

func newRecorder() *recorder {
	return &recorder{
		began: time.Now(), ids: make(map[history.Label]beaver.JobID), labels: make(map[beaver.JobID]history.Label),
		books: make(map[string]*book), tenures: make(map[string][]tenure), calls: make(map[string]*tally), over: make(map[history.Label]bool), acked: make(map[history.Label]bool),
	}
}

// now is the time of the history: monotonic, since the run began.
func (r *recorder) now() time.Duration { return time.Since(r.began) }

// violate takes note of what must not be.
func (r *recorder) violate(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violateLocked(format, args...)
}

// violateLocked is violate.
//
// REQUIRES: r.mu.
func (r *recorder) violateLocked(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf("%.3f s: ", r.now().Seconds())+fmt.Sprintf(format, args...))
}

// broken reports whether something must not be.
func (r *recorder) broken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.violations) > 0
}

// bookLocked returns a queue's book.
//
// REQUIRES: r.mu.
func (r *recorder) bookLocked(name string) *book {
	if r.books[name] == nil {
		r.books[name] = &book{}
	}
	return r.books[name]
}

// jobOf is what of a job the history does not know: its queue, and its ordering key and its unique key, if any.
type jobOf struct {
	queue, key, unique string
	started            bool // it lets go of its unique key when it starts
}

// enqueueing names a job that is about to be sent.
func (r *recorder) enqueueing(of jobOf) history.Label {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bookLocked(of.queue).begun++
	r.jobs = append(r.jobs, of)
	return r.log.NewLabel()
}

// called counts a call, and returns whether it was answered. A refusal that has to do with a job's state is an answer.
func (r *recorder) called(what string, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.calls[what]
	if t == nil {
		t = &tally{}
		r.calls[what] = t
	}
	switch {
	case errors.Is(err, beaver.ErrOutcomeUnknown):
		t.unknown++
		return false
	case err == nil, errors.Is(err, beaver.ErrLeaseLost), errors.Is(err, beaver.ErrNotFound), errors.Is(err, beaver.ErrFailedPrecondition), errors.Is(err, beaver.ErrCancelled):
		t.answered++
		return true
	case errors.Is(err, beaver.ErrResourceExhausted):
		t.refused++
		return false
	}
	t.failed++
	if len(r.complaints) < 20 {
		r.complaints = append(r.complaints, fmt.Sprintf("%.3f s: %s: %v", r.now().Seconds(), what, err))
	}
	return false
}

// identifyLocked holds a job's id against what is known of it.
//
// REQUIRES: r.mu.
func (r *recorder) identifyLocked(l history.Label, id beaver.JobID) queue.Pos {
	parsed, err := queue.ParseJobID(string(id))
	known, had := r.ids[l]
	other, taken := r.labels[id]
	switch {
	case err != nil:
		r.violateLocked("job %d has the id %q: %v", l, id, err)
	case had && known != id:
		r.violateLocked("job %d was stored twice: as %s and as %s", l, known, id)
	case taken && other != l:
		r.violateLocked("jobs %d and %d have the same id %s", other, l, id)
	default:
		r.ids[l], r.labels[id] = id, l
	}
	return parsed.Pos
}

// enqueued records the answer to an enqueue.
func (r *recorder) enqueued(l history.Label, name string, call time.Duration, id beaver.JobID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := history.Operation{Kind: history.Enqueue, Call: call, Return: r.now()}
	switch {
	case err == nil:
		o.Pos = r.identifyLocked(l, id)
		r.bookLocked(name).stored++
	case errors.Is(err, beaver.ErrOutcomeUnknown):
		o.Lose()
	default:
		o.Code = queue.CodeAborted // the client says that it certainly was not stored
	}
	r.log.Add(l, o)
}

// leased records that a job was handed out by a fetch that was begun at call and answered at ret.
func (r *recorder) leased(l history.Label, call, ret time.Duration, id beaver.JobID, token uint64, attempt int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Add(l, history.Operation{
		Kind: history.Lease, Call: call, Return: ret, Pos: r.identifyLocked(l, id), Token: queue.Token(token), Attempt: uint32(attempt),
	})
}

// ended records an outcome or a wish that is about one lease: state is what the answer told, or nothing.
func (r *recorder) ended(k history.Kind, l history.Label, call time.Duration, token uint64, state beaver.JobState, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := history.Operation{Kind: k, Call: call, Return: r.now(), Token: queue.Token(token), State: stateOf(state), Untold: state == ""}
	switch {
	case err == nil, errors.Is(err, beaver.ErrCancelled):
	case errors.Is(err, beaver.ErrLeaseLost):
		o.Code, o.Untold = queue.CodeStale, true
		r.stale++
	default:
		o.Lose()
	}
	r.log.Add(l, o)
}

// mayEnd records an outcome whose answer somebody else gets.
func (r *recorder) mayEnd(k history.Kind, l history.Label, call time.Duration, token uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := history.Operation{Kind: k, Call: call, Token: queue.Token(token)}
	o.Lose()
	r.log.Add(l, o)
}

// confirmed records that an ack was answered, in the books of the job's queue.
func (r *recorder) confirmed(l history.Label, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.acked[l] {
		r.acked[l] = true
		r.bookLocked(name).completed++
	}
}

// wished records the answer to a cancellation, a retry or a discard.
func (r *recorder) wished(k history.Kind, l history.Label, call time.Duration, state beaver.JobState, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := history.Operation{Kind: k, Call: call, Return: r.now()}
	switch {
	case err == nil && state == beaver.StateRunning:
		o.Code = queue.CodeCancelRequested
	case err == nil:
	case errors.Is(err, beaver.ErrNotFound):
		o.Code = queue.CodeNoJob
	case k == history.Retry && errors.Is(err, beaver.ErrFailedPrecondition) && r.jobs[l].unique != "":
		return // perhaps for its key, and it is dead; perhaps since it is not
	case errors.Is(err, beaver.ErrFailedPrecondition):
		o.Code, o.Untold = queue.CodeWrongState, true
	default:
		o.Lose()
	}
	r.log.Add(l, o)
}

// saw records what a read, begun at call and answered at ret, told of a job; nil: that there is none.
func (r *recorder) saw(l history.Label, call, ret time.Duration, j *beaver.JobInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := history.Operation{Kind: history.Get, Call: call, Return: ret}
	if j != nil {
		o.See(&queue.JobInfo{State: stateOf(j.State), Token: queue.Token(j.Token), Attempt: uint32(j.Attempt), CancelRequested: j.CancelRequested})
		o.Pos = r.identifyLocked(l, j.ID)
	}
	r.log.Add(l, o)
}

// listed is saw for what a list shows. A job that nobody is known to have stored is left out: its label is not known.
func (r *recorder) listed(call, ret time.Duration, jobs []*beaver.JobInfo) {
	for _, j := range jobs {
		r.mu.Lock()
		l, ok := r.labels[j.ID]
		r.mu.Unlock()
		if ok {
			r.saw(l, call, ret, j)
		}
	}
}

// reading is what was certain of a queue when it was about to be read.
func (r *recorder) reading(name string) book {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *r.bookLocked(name)
}

// counted holds a queue's totals, just read, against what was certain before and after.
func (r *recorder) counted(before book, q *beaver.QueueInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.bookLocked(q.Name)
	if least := max(before.stored, before.enqueuedSeen); q.EnqueuedTotal < least || q.EnqueuedTotal > now.begun {
		r.violateLocked("queue %s says that %d jobs were stored; %d at least and %d at most could be", q.Name, q.EnqueuedTotal, least, now.begun)
	}
	if least := max(before.completed, before.completedSeen); q.CompletedTotal < least || q.CompletedTotal > q.EnqueuedTotal {
		r.violateLocked("queue %s says that %d jobs were completed; %d at least and %d at most could be", q.Name, q.CompletedTotal, least, q.EnqueuedTotal)
	}
	now.enqueuedSeen, now.completedSeen = max(now.enqueuedSeen, q.EnqueuedTotal), max(now.completedSeen, q.CompletedTotal)
}

func stateOf(s beaver.JobState) queue.State {
	switch s {
	case beaver.StateScheduled:
		return queue.StateScheduled
	case beaver.StateReady:
		return queue.StateReady
	case beaver.StateRunning:
		return queue.StateRunning
	case beaver.StateBackoff:
		return queue.StateBackoff
	case beaver.StateDead:
		return queue.StateDead
	case beaver.StateCompleted:
		return queue.StateCompleted
	case beaver.StateCancelled:
		return queue.StateCancelled
	case beaver.StateExpired:
		return queue.StateExpired
	case beaver.StateDiscarded:
		return queue.StateDiscarded
	}
	return queue.StateUnknown
}

// isOver records that the cluster lists a job among those that have ended.
func (r *recorder) isOver(l history.Label) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over[l] {
		r.violateLocked("job %d (%s) is listed twice", l, r.ids[l])
	}
	r.over[l] = true
}

// lost counts the jobs that were acknowledged, and that the cluster does not list.
func (r *recorder) lost() (count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l, id := range r.ids {
		if !r.over[l] {
			r.violateLocked("job %d (%s) was acknowledged or run, and is lost", l, id)
			count++
		}
	}
	return count
}

// judge has the history judged, and returns how many jobs are left undecided.
func (r *recorder) judge() (undecided uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.log.Check(); err != nil {
		r.violateLocked("%v", err)
		if wrong, ok := errors.AsType[*history.Error](err); ok {
			r.violateLocked("that job is %s", r.ids[wrong.Label])
		}
	}
	return r.log.Undecided
}

// save writes the history, one job a line, for whoever looks for the reason.
func (r *recorder) save(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	out := json.NewEncoder(f)
	for l := range history.Label(r.log.Jobs()) {
		ops := slices.SortedFunc(slices.Values(r.log.Of(l)), func(a, b history.Operation) int { return cmp.Compare(a.Call, b.Call) })
		lines := make([]string, len(ops))
		for i := range ops {
			lines[i] = ops[i].String()
		}
		if err := out.Encode(map[string]any{"label": l, "id": r.ids[l], "operations": lines}); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
