package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/queue"
)

// TestUniqueKeysAcrossQuickMoves is TestRepeatsAcrossQuickMoves with unique keys: requests of sessions and without, atomic ones and others, bring
// jobs with few keys, which are held until they end or start, or for a time besides; workers end jobs, give them back and let them die, and
// dead jobs are retried. A key has one holder at a time, whoever asks is told which, and a request that is repeated gets the same answer though
// the holder is another one, or gone.
func TestUniqueKeysAcrossQuickMoves(t *testing.T) {
	checkInBubbles(t, func(t *testing.T, rt *rapid.T) {
		m := &quickKeys{quickMoves: newQuickMoves(t, rt), last: make(map[string]*keyHold), holds: make(map[JobID]*keyHold)}
		m.run(m.send, m.work)
	})
}

// quickKeys is the model: quickMoves, and who holds what.
type quickKeys struct {
	*quickMoves
	last  map[string]*keyHold // who has a key, or had it last
	holds map[JobID]*keyHold  // of each job that got its key
	dead  []JobID
}

// keyHold is what a job has to do with its key.
type keyHold struct {
	id        JobID
	key       string
	byJob     bool      // it holds the key itself
	whenStart bool      // it gives the key up when it is leased
	until     time.Time // the end of its window; zero: it has none
}

// windowSlack is how long before and after the end of a window nobody can say whether the key is free: requests that wait take some time.
const windowSlack = 3 * time.Second

// held and free report whether a key is so for sure.
func (h *keyHold) held() bool { return h != nil && (h.byJob || time.Until(h.until) > windowSlack) }
func (h *keyHold) free() bool { return h == nil || !h.byJob && time.Until(h.until) < -windowSlack }

// send sends a new request.
func (m *quickKeys) send() {
	r := m.newRequest()
	out, err := m.bring(r)
	switch {
	case err == nil:
	case r.atomic && asError(err).Code == CodeInvalidArgument: // they are apart
		return
	default:
		m.rt.Fatalf("a new request: %v", err)
	}
	if r.number != sentOnce {
		r.answer = slices.Clone(out)
		m.sent = append(m.sent, r)
	}
	for i := range out {
		m.answered(&r.jobs[i], out[i])
	}
}

func (m *quickKeys) newRequest() *sentRequest {
	r := &sentRequest{at: time.Now(), number: m.count, atomic: rapid.IntRange(0, 3).Draw(m.rt, "atomic") == 0}
	if rapid.IntRange(0, 4).Draw(m.rt, "without a session") == 0 {
		r.number = sentOnce
	} else {
		m.count++
	}
	for i := range rapid.IntRange(1, 5).Draw(m.rt, "jobs") {
		j := NewJob{Queue: rapid.SampledFrom([]string{"a", "a", "b", "c"}).Draw(m.rt, "queue"), Spec: Spec{Priority: 5, Kind: "k", Payload: fmt.Append(nil, i)}}
		s := &j.Spec
		s.OrderingKey = rapid.SampledFrom([]string{"", "", "x", "y"}).Draw(m.rt, "ordering key")
		if s.UniqueKey = rapid.SampledFrom([]string{"", "u", "v"}).Draw(m.rt, "unique key"); s.UniqueKey != "" {
			s.UniqueForMillis = rapid.SampledFrom([]int64{0, 0, 0, 95_000, 1_500_000}).Draw(m.rt, "window")
			if rapid.IntRange(0, 2).Draw(m.rt, "until started") == 0 {
				s.UniqueUntil = queue.UniqueUntilStarted
			}
		}
		r.jobs = append(r.jobs, j)
	}
	return r
}

// answered checks the answer to one job of a new request against who holds its key.
func (m *quickKeys) answered(j *NewJob, o Enqueued) {
	s := &j.Spec
	key := j.Queue + "/" + s.OrderingKey + "/" + s.UniqueKey
	holder := m.last[key]
	switch {
	case o.Err != nil || o.Duplicate || o.Existing && s.UniqueKey == "":
		m.rt.Fatalf("a job of a new request: %+v", o)
	case o.Existing:
		if holder.free() || holder.id != o.ID {
			m.rt.Fatalf("%+v is said to hold %s, which %+v has", o, key, holder)
		}
		return
	case s.UniqueKey != "":
		if holder.held() {
			m.rt.Fatalf("%+v was given %s, which %+v holds", o, key, holder)
		}
		h := &keyHold{id: o.ID, key: key, byJob: true, whenStart: s.UniqueUntil == queue.UniqueUntilStarted}
		if s.UniqueForMillis > 0 {
			h.until = time.Now().Add(time.Duration(s.UniqueForMillis) * time.Millisecond)
		}
		m.last[key], m.holds[h.id] = h, h
	}
	m.stored[j.Queue]++
}

// work ends some jobs, or all, or deals with a dead one.
func (m *quickKeys) work() {
	if len(m.dead) > 0 && rapid.IntRange(0, 2).Draw(m.rt, "dead") == 0 {
		m.retry(rapid.IntRange(0, len(m.dead)-1).Draw(m.rt, "which"))
		return
	}
	for all := rapid.Bool().Draw(m.rt, "all"); ; {
		got := fetchJobs(m.t, m.e, 0, rapid.IntRange(1, 20).Draw(m.rt, "fetch"), "a", "b", "c")
		for i := range got {
			m.end(&got[i])
		}
		if len(got) == 0 || !all {
			return
		}
	}
}

// end says what became of a job that was fetched.
func (m *quickKeys) end(j *FetchedJob) {
	h := m.holds[j.ID]
	if h != nil && h.whenStart {
		h.byJob = false
	}
	o, want := Outcome{Kind: OutcomeAck, ID: j.ID, Token: j.Token}, queue.StateCompleted
	switch rapid.IntRange(0, 7).Draw(m.rt, "outcome") {
	case 0:
		o.Kind, o.Failure, want = OutcomeFail, Failure{Message: "no", Final: true}, queue.StateDead
		m.dead = append(m.dead, j.ID)
	case 1:
		o.Kind, want = OutcomeRelease, queue.StateReady
	}
	ended, err := m.e.Finish(context.Background(), 0, []Outcome{o}, nil)
	if err != nil || ended[0].Err != nil || ended[0].State != want {
		m.rt.Fatalf("%+v, %v", ended, err)
	}
	if h != nil && want != queue.StateReady {
		h.byJob = false
	}
}

// retry brings a dead job back, if its key may be had, and otherwise may give the job up.
func (m *quickKeys) retry(which int) {
	id := m.dead[which]
	ended, err := m.e.RetryDead(context.Background(), []JobID{id}, nil)
	if err != nil {
		m.rt.Fatal(err)
	}
	if refused := ended[0].Err; refused != nil {
		h := m.holds[id]
		switch {
		case h == nil:
			m.rt.Fatalf("retry: %v", refused)
		case refused.Reason == ReasonMoving: // where it is, no key is granted any more
		case refused.Reason != ReasonUniqueKeyHeld || m.last[h.key].free() || m.last[h.key] == h:
			m.rt.Fatalf("retry: %v, and %+v has %s", refused, m.last[h.key], h.key)
		}
		if rapid.Bool().Draw(m.rt, "kept") {
			return
		}
		if ended, err = m.e.DiscardDead(context.Background(), []JobID{id}, nil); err != nil || ended[0].Err != nil {
			m.rt.Fatalf("discard: %+v, %v", ended, err)
		}
	} else if h := m.holds[id]; h != nil {
		if holder := m.last[h.key]; holder != h && holder.held() {
			m.rt.Fatalf("%v was given %s again, which %+v holds", id, h.key, holder)
		}
		h.byJob, m.last[h.key] = true, h
	}
	m.dead = slices.Delete(m.dead, which, which+1)
}
