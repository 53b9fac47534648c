package beaver

import (
	"context"
	"slices"
)

// Enqueue stores a job and returns its ID; then the job is durable. Concurrent calls share their round trips by themselves.
//
// The call is repeated while the server cannot be reached, and the job is stored once however often. When ctx ends before the
// answer, the error matches ErrOutcomeUnknown if the job was sent already; otherwise it was not stored.
//
// When another job holds the UniqueKey of this one, nothing is stored and the ID is that job's. A job that has one is not stored while
// a node of the cluster may be too old for that: the call is repeated until all are upgraded, for as long as Config.RetryFor says.
func (c *Client) Enqueue(ctx context.Context, job Job) (JobID, error) {
	a, err := c.enqueue(ctx, &job)
	return a.ID, err
}

// EnqueueUnique is Enqueue for a job with a UniqueKey, and says whether another job holds the key: then id is that job's, and nothing
// was stored.
func (c *Client) EnqueueUnique(ctx context.Context, job Job) (id JobID, existing bool, err error) {
	if job.UniqueKey == "" {
		return "", false, invalid("unique_key", "the job has no UniqueKey; set it, or use Enqueue")
	}
	a, err := c.enqueue(ctx, &job)
	return a.ID, a.Existing, err
}

// enqueue is both of them. The job is the caller's copy.
func (c *Client) enqueue(ctx context.Context, job *Job) (Enqueued, error) {
	if err := job.prepare(); err != nil {
		return Enqueued{}, err
	}
	u := upgrading{retryFor: c.enqueuer.retryFor}
	for {
		a, err := c.enqueuer.enqueue(ctx, job)
		if err == nil || !u.again(ctx, err) {
			return a, err
		}
	}
}

// enqueue sends a job in one message.
func (e *enqueuer) enqueue(ctx context.Context, job *Job) (Enqueued, error) {
	p, err := e.add(ctx, job)
	if err != nil {
		return Enqueued{}, err
	}
	if err := e.wait(ctx, p); err != nil {
		return Enqueued{}, err
	}
	a, err := p.batch.answer(p.index)
	return a, p.batch.explain(job, err)
}

// EnqueueMany stores jobs, each for itself: the answers, one a job in order, say which were refused and why. The error says
// that some answers are missing; their Err then is the same error.
func (c *Client) EnqueueMany(ctx context.Context, jobs []Job) ([]Enqueued, error) {
	answers := make([]Enqueued, len(jobs))
	prepared := slices.Clone(jobs)
	for i := range prepared {
		if err := prepared[i].prepare(); err != nil {
			answers[i].Err = asError(err)
		}
	}
	failed := c.enqueuer.enqueueMany(ctx, prepared, answers)
	for u := (upgrading{retryFor: c.enqueuer.retryFor}); failed == nil; {
		refused := u.againMany(ctx, answers)
		if refused == nil {
			break
		}
		some, their := make([]Job, len(refused)), make([]Enqueued, len(refused))
		for k, i := range refused {
			some[k] = prepared[i]
		}
		failed = c.enqueuer.enqueueMany(ctx, some, their)
		for k, i := range refused {
			answers[i] = their[k]
		}
	}
	return answers, failed
}

// enqueueMany sends those jobs that have no error in answers yet, and puts their answers there.
func (e *enqueuer) enqueueMany(ctx context.Context, jobs []Job, answers []Enqueued) error {
	places := make([]place, len(jobs))
	failed := e.addMany(ctx, jobs, answers, places)
	for i, p := range places {
		if p.batch == nil {
			if answers[i].Err == nil {
				answers[i].Err = asError(failed)
			}
			continue
		}
		err := e.wait(ctx, p)
		if err == nil {
			err = p.batch.err
		}
		if err != nil {
			answers[i].Err, failed = asError(err), err
			continue
		}
		answers[i], err = p.batch.answer(p.index)
		answers[i].Err = asError(p.batch.explain(&jobs[i], err))
	}
	return failed
}

// EnqueueAtomic stores all jobs or none. They must live on one shard, as those of one queue do: at most 2000 jobs, 1 MiB.
//
// A job whose UniqueKey another one holds refuses none of them: its ID is that of the job that holds the key, and the others are stored.
func (c *Client) EnqueueAtomic(ctx context.Context, jobs []Job) ([]JobID, error) {
	answers, err := c.EnqueueAtomicUnique(ctx, jobs)
	if err != nil || len(answers) == 0 {
		return nil, err
	}
	ids := make([]JobID, len(answers))
	for i := range answers {
		ids[i] = answers[i].ID
	}
	return ids, nil
}

// EnqueueAtomicUnique is EnqueueAtomic, and says of each job, in order, whether another one holds its UniqueKey: then ID is that job's, and this
// one was not stored. Err is nil in all answers: when one job is refused, none is stored, and the error says why.
func (c *Client) EnqueueAtomicUnique(ctx context.Context, jobs []Job) ([]Enqueued, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	if len(jobs) > messageJobsMax {
		return nil, tooLarge("jobs", "%d jobs cannot be stored atomically; at most %d can", len(jobs), messageJobsMax)
	}
	prepared := slices.Clone(jobs)
	for i := range prepared {
		if err := prepared[i].prepare(); err != nil {
			return nil, err
		}
	}
	u := upgrading{retryFor: c.enqueuer.retryFor}
	for {
		answers, err := c.enqueuer.enqueueAtomic(ctx, prepared)
		if err == nil || !u.again(ctx, err) {
			return answers, err
		}
	}
}

// enqueueAtomic sends jobs in a message of their own.
func (e *enqueuer) enqueueAtomic(ctx context.Context, jobs []Job) ([]Enqueued, error) {
	p, err := e.addAtomic(ctx, jobs)
	if err != nil {
		return nil, err
	}
	if err := e.wait(ctx, p); err != nil {
		return nil, err
	}
	answers := make([]Enqueued, len(jobs))
	for i := range answers {
		if answers[i], err = p.batch.answer(i); err != nil {
			return nil, p.batch.explain(&jobs[i], err)
		}
	}
	return answers, nil
}
