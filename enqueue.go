package beaver

import (
	"context"
	"slices"
)

// Enqueue stores a job and returns its ID; then the job is durable. Concurrent calls share their round trips by themselves.
//
// The call is repeated while the server cannot be reached, and the job is stored once however often. When ctx ends before the
// answer, the error matches ErrOutcomeUnknown if the job was sent already; otherwise it was not stored.
func (c *Client) Enqueue(ctx context.Context, job Job) (JobID, error) {
	if err := job.prepare(); err != nil {
		return "", err
	}
	p, err := c.enqueuer.add(ctx, &job)
	if err != nil {
		return "", err
	}
	if err := c.enqueuer.wait(ctx, p); err != nil {
		return "", err
	}
	return p.batch.answer(p.index)
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
	places := make([]place, len(jobs))
	failed := c.enqueuer.addMany(ctx, prepared, answers, places)
	for i, p := range places {
		if p.batch == nil {
			if answers[i].Err == nil {
				answers[i].Err = asError(failed)
			}
			continue
		}
		err := c.enqueuer.wait(ctx, p)
		if err == nil {
			err = p.batch.err
		}
		if err != nil {
			answers[i].Err, failed = asError(err), err
			continue
		}
		id, err := p.batch.answer(p.index)
		answers[i] = Enqueued{ID: id, Err: asError(err)}
	}
	return answers, failed
}

// EnqueueAtomic stores all jobs or none. They must live on one shard, as those of one queue do: at most 2000 jobs, 1 MiB.
func (c *Client) EnqueueAtomic(ctx context.Context, jobs []Job) ([]JobID, error) {
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
	p, err := c.enqueuer.addAtomic(ctx, prepared)
	if err != nil {
		return nil, err
	}
	if err := c.enqueuer.wait(ctx, p); err != nil {
		return nil, err
	}
	ids := make([]JobID, len(jobs))
	for i := range ids {
		if ids[i], err = p.batch.answer(i); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
