package chaos

import (
	"fmt"
	"sync"
	"time"

	"github.com/beaver-raft/beaver"
)

// ledger is what the clients of one run were told, job by job. It judges each answer when it comes.
type ledger struct {
	mu         sync.Mutex
	jobs       map[int]*record // by the number in the job's payload
	ids        map[beaver.JobID]int
	violations []string
	deliveries int
	staleAcks  int
	redelivers int
	stored     int // jobs whose enqueue was acknowledged
	finished   int // jobs whose ack was answered
}

// record is what is known of one job.
type record struct {
	id        beaver.JobID // empty: no answer to the enqueue yet
	token     uint64       // of the last delivery
	attempt   int
	deadline  time.Time // of the last delivery's lease; zero once the holder gave it up
	completed time.Time // when an ack was answered; zero before
}

func newLedger() *ledger {
	return &ledger{jobs: make(map[int]*record), ids: make(map[beaver.JobID]int)}
}

// REQUIRES: h.mu.
func (h *ledger) violate(format string, args ...any) {
	h.violations = append(h.violations, fmt.Sprintf(format, args...))
}

// REQUIRES: h.mu.
func (h *ledger) job(number int) *record {
	r, ok := h.jobs[number]
	if !ok {
		r = &record{}
		h.jobs[number] = r
	}
	return r
}

// enqueued records that the enqueue of job number was acknowledged.
func (h *ledger) enqueued(number int, id beaver.JobID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.job(number)
	h.identify(r, number, id)
}

// REQUIRES: h.mu.
func (h *ledger) identify(r *record, number int, id beaver.JobID) {
	switch {
	case r.id == "":
		r.id = id
		h.stored++
		if other, ok := h.ids[id]; ok {
			h.violate("jobs %d and %d have the same id %s", other, number, id)
		}
		h.ids[id] = number
	case r.id != id:
		h.violate("job %d was stored twice: as %s and as %s", number, r.id, id)
	}
}

// delivered records that a fetch, begun at asked and answered now, handed out job number.
func (h *ledger) delivered(number int, asked, now time.Time, job *beaver.LeasedJob) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deliveries++
	r := h.job(number)
	h.identify(r, number, job.ID)
	if !r.completed.IsZero() && asked.After(r.completed) {
		h.violate("job %d (%s) was completed at %s and handed out again by a fetch begun at %s",
			number, job.ID, r.completed.Format(time.StampMicro), asked.Format(time.StampMicro))
	}
	if r.token != 0 {
		h.redelivers++
		// Answers can arrive in another order than their leases were granted; the token tells the order.
		if job.Token == r.token {
			h.violate("job %d (%s): the token %d was given twice", number, job.ID, job.Token)
		}
		if job.Token > r.token && job.Attempt <= r.attempt {
			h.violate("job %d (%s): a later lease has attempt %d, an earlier one %d", number, job.ID, job.Attempt, r.attempt)
		}
		if job.Token > r.token && now.Before(r.deadline) {
			h.violate("job %d (%s) was handed out at %s while its lease lasts until %s",
				number, job.ID, now.Format(time.StampMicro), r.deadline.Format(time.StampMicro))
		}
	}
	if job.Token > r.token {
		r.token, r.attempt, r.deadline = job.Token, job.Attempt, job.Deadline
	}
}

// givingUp records that the holder is about to fail or release the job: another lease may follow at any time.
func (h *ledger) givingUp(number int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.job(number).deadline = time.Time{}
}

// acknowledged records that an ack was answered with success.
func (h *ledger) acknowledged(number int, token uint64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.job(number)
	if !r.completed.IsZero() {
		h.violate("job %d (%s) was completed twice, the second time with token %d", number, r.id, token)
	}
	if token < r.token {
		h.violate("job %d (%s): an ack with the stale token %d was taken; %d was given since", number, r.id, token, r.token)
	}
	if r.completed.IsZero() {
		h.finished++
	}
	r.completed = now
}

// stale records that an ack was refused since its lease was lost.
func (h *ledger) stale() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.staleAcks++
}

// finish compares with what the server says at the end: the ids of the completed jobs.
func (h *ledger) finish(completed map[beaver.JobID]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for number, r := range h.jobs {
		if r.id != "" && !completed[r.id] {
			h.violate("job %d (%s) was acknowledged and is lost", number, r.id)
		}
	}
	for id := range completed {
		if _, ok := h.ids[id]; !ok {
			h.violate("the server completed %s, which nobody enqueued", id)
		}
	}
}

// counts returns the numbers of jobs acknowledged and of jobs known to be completed.
func (h *ledger) counts() (enqueued, completed int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stored, h.finished
}

// report returns all violations so far.
func (h *ledger) report() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.violations...)
}
