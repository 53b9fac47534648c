package beaver

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// Lease names one attempt of a job in a worker's hands. The token fences it: once the lease is lost, everything done in its
// name is refused with ErrLeaseLost and changes nothing.
type Lease struct {
	ID    JobID
	Token uint64
}

// LeasedJob is a job in a worker's hands.
type LeasedJob struct {
	Lease
	Queue       string
	Kind        string
	Payload     []byte
	ContentType string
	Priority    int
	Attempt     int       // 1 for the first; one that its worker released counts, though it is no failure
	Failures    int       // attempts that failed
	Crashes     int       // attempts lost with their worker
	Deadline    time.Time // of this attempt; zero: as long as the worker lives
	EnqueuedAt  time.Time
	OrderingKey string
	UniqueKey   string
	Metadata    map[string]string

	client            *Client
	run               *run // nil for a job that was fetched
	result            []byte
	resultContentType string
}

// Unmarshal reads the JSON payload into v.
func (j *LeasedJob) Unmarshal(v any) error { return json.Unmarshal(j.Payload, v) }

// SetResult keeps the JSON of v as the job's result when its handler returns nil. At most 256 KiB.
func (j *LeasedJob) SetResult(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return j.SetResultBytes(ContentTypeJSON, b)
}

// SetResultBytes keeps b as the job's result when its handler returns nil. At most 256 KiB.
func (j *LeasedJob) SetResultBytes(contentType string, b []byte) error {
	if err := validateResult(contentType, b); err != nil {
		return err
	}
	j.result, j.resultContentType = b, contentType
	return nil
}

// Progress records how far the job is, for people to see. It returns ErrCancelled when the job's cancellation was asked for.
func (j *LeasedJob) Progress(ctx context.Context, percent int, message string) error {
	return j.client.Progress(ctx, j.Lease, percent, message)
}

// Extend moves the deadline of the attempt to now plus d.
func (j *LeasedJob) Extend(ctx context.Context, d time.Duration) error {
	deadline, err := j.client.Extend(ctx, j.Lease, d)
	if err != nil {
		return err
	}
	j.Deadline = deadline
	if j.run != nil {
		j.run.extend(deadline)
	}
	return nil
}

// FetchRequest asks for jobs without a Worker, for programs that want to do everything themselves.
type FetchRequest struct {
	// Queues: 1 to 64. Among queues that live on one shard priority counts, and of jobs of equal priority those of the queue
	// named first come first; the shards take turns.
	Queues []string
	// Max is how many jobs to take: 1 to 1000. Default 1.
	Max int
	// Wait is how long to wait for the first job, at most 10 minutes. Default: not at all.
	Wait time.Duration
	// Lease is how long the jobs are the caller's, unless extended. Default 60 s.
	Lease time.Duration
}

// Fetch leases jobs. It returns none when none came within r.Wait.
func (c *Client) Fetch(ctx context.Context, r FetchRequest) ([]*LeasedJob, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	res, _, err := callFor(ctx, c, r.Wait, c.jobs.Fetch, &beaverv1.FetchRequest{
		Queues: r.Queues, Max: uint32(r.Max), Wait: durationOf(r.Wait), Lease: durationOf(r.Lease),
	})
	if err != nil {
		return nil, err
	}
	jobs := make([]*LeasedJob, len(res.GetJobs()))
	for i, j := range res.GetJobs() {
		jobs[i] = leasedJobOf(c, j)
	}
	return jobs, nil
}

func (r *FetchRequest) validate() error {
	switch {
	case len(r.Queues) == 0:
		return invalid("queues", "no queue is named; name 1 to %d", fetchQueuesMax)
	case len(r.Queues) > fetchQueuesMax:
		return tooLarge("queues", "%d queues are named; name at most %d", len(r.Queues), fetchQueuesMax)
	case r.Max < 0 || r.Max > fetchJobsMax:
		return invalid("max", "%d jobs are asked for; ask for 1 to %d", r.Max, fetchJobsMax)
	case r.Wait < 0:
		return invalid("wait", "the wait is %v; use 0 or more", r.Wait)
	case r.Lease < 0:
		return invalid("lease", "the lease is %v; use a positive duration", r.Lease)
	}
	return nil
}

func leasedJobOf(c *Client, j *beaverv1.LeasedJob) *LeasedJob {
	return &LeasedJob{
		Lease: Lease{ID: JobID(j.GetId()), Token: j.GetToken()},
		Queue: j.GetQueue(), Kind: j.GetKind(), Payload: j.GetPayload(), ContentType: j.GetContentType(),
		Priority: int(j.GetPriority()), Attempt: int(j.GetAttempt()), Failures: int(j.GetFailures()), Crashes: int(j.GetCrashes()),
		Deadline: timeOf(j.GetDeadline()), EnqueuedAt: timeOf(j.GetEnqueuedAt()), OrderingKey: j.GetOrderingKey(), UniqueKey: j.GetUniqueKey(), Metadata: j.GetMetadata(),
		client: c,
	}
}

// Ack completes a job. The result, at most 256 KiB, may be nil.
func (c *Client) Ack(ctx context.Context, l Lease, contentType string, result []byte) error {
	if err := validateResult(contentType, result); err != nil {
		return err
	}
	_, err := change(ctx, c, c.jobs.Ack, &beaverv1.AckRequest{
		Id: string(l.ID), Token: l.Token, Result: result, ContentType: contentType,
	})
	return err
}

// Failure says how an attempt failed. A handler may return a *Failure as its error, alone or wrapped, to say all of it.
type Failure struct {
	Type    string
	Message string
	Stack   string
	// Final makes the job dead at once.
	Final bool
	// RetryAfter, if it is not 0, is how long the job waits, at most ten years, instead of what its retry policy says. Less
	// than a millisecond, or a negative one, is a millisecond.
	RetryAfter time.Duration
}

func (f *Failure) Error() string { return f.Message }

// Fail ends one attempt: the job is retried later, or dead. It returns the job's state.
func (c *Client) Fail(ctx context.Context, l Lease, f Failure) (JobState, error) {
	res, err := change(ctx, c, c.jobs.Fail, &beaverv1.FailRequest{Id: string(l.ID), Token: l.Token, Failure: f.proto()})
	if err != nil {
		return "", err
	}
	return jobStateOf(res.GetState()), nil
}

// proto cuts what is too long: an error must not fail for being verbose.
// retryAfter is RetryAfter in what the server takes: a time that has passed already, as time.Until makes it, means at once.
func (f *Failure) retryAfter() time.Duration {
	if f.RetryAfter == 0 {
		return 0
	}
	return min(max(f.RetryAfter, time.Millisecond), delayMax)
}

func (f *Failure) proto() *beaverv1.Failure {
	return &beaverv1.Failure{
		Type: cut(f.Type, failureTypeBytesMax), Message: cut(f.Message, failureMessageBytesMax),
		Stack: cut(f.Stack, failureStackBytesMax), Final: f.Final, RetryAfter: durationOf(f.retryAfter()),
	}
}

// Release gives a job back without counting the attempt.
func (c *Client) Release(ctx context.Context, l Lease) error {
	_, err := change(ctx, c, c.jobs.Release, &beaverv1.ReleaseRequest{Id: string(l.ID), Token: l.Token})
	return err
}

// Extend moves the deadline of a lease to now plus d, and returns it.
func (c *Client) Extend(ctx context.Context, l Lease, d time.Duration) (time.Time, error) {
	res, err := call(ctx, c, c.jobs.Extend, &beaverv1.ExtendRequest{Id: string(l.ID), Token: l.Token, Lease: durationpb.New(d)})
	if err != nil {
		return time.Time{}, err
	}
	return timeOf(res.GetDeadline()), nil
}

// Progress records how far a running job is. It returns ErrCancelled when the job's cancellation was asked for.
func (c *Client) Progress(ctx context.Context, l Lease, percent int, message string) error {
	if percent < 0 || percent > 100 {
		return invalid("percent", "%d is not a percentage; use 0 to 100", percent)
	}
	res, err := call(ctx, c, c.jobs.Progress, &beaverv1.ProgressRequest{
		Id: string(l.ID), Token: l.Token, Percent: uint32(percent), Message: cut(message, progressBytesMax),
	})
	if err != nil {
		return err
	}
	if res.GetCancelRequested() {
		return ErrCancelled
	}
	return nil
}
