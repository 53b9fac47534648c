package beaver

import (
	"context"
)

// Args are the arguments of one kind of job: a struct that is stored as JSON.
//
// Kind is called on the zero value too.
type Args interface {
	// Kind names the kind of job. It must be the same for all values of a type, and should never change.
	Kind() string
}

// ArgsWithDefaults are Args that know where their jobs usually go.
type ArgsWithDefaults interface {
	Args
	// JobDefaults returns what jobs of this kind have unless Enqueue is told otherwise. Kind, JSON and Payload are ignored.
	JobDefaults() Job
}

// DefaultQueue is where typed jobs go unless told otherwise.
const DefaultQueue = "default"

// JobOf is a leased job with its arguments.
type JobOf[T Args] struct {
	*LeasedJob
	Args T
}

// Enqueue stores a job for args and returns its ID. At most one template may be given: its fields win over the defaults of
// args; its Kind, JSON and Payload must be empty.
func Enqueue[T Args](ctx context.Context, c *Client, args T, template ...Job) (JobID, error) {
	job, err := NewJob(args, template...)
	if err != nil {
		return "", err
	}
	return c.Enqueue(ctx, job)
}

// NewJob makes the job that Enqueue would store, for EnqueueMany and EnqueueAtomic.
func NewJob[T Args](args T, template ...Job) (Job, error) {
	var job Job
	if d, ok := any(args).(ArgsWithDefaults); ok {
		job = d.JobDefaults()
	}
	switch len(template) {
	case 0:
	case 1:
		t := template[0]
		if t.Kind != "" || t.JSON != nil || t.Payload != nil {
			return Job{}, invalid("kind", "the template has a kind or a payload; those come from the arguments")
		}
		job.merge(&t)
	default:
		return Job{}, invalid("", "%d templates are given; give at most one", len(template))
	}
	if job.Queue == "" {
		job.Queue = DefaultQueue
	}
	job.Kind, job.JSON, job.Payload, job.ContentType = args.Kind(), args, nil, ContentTypeJSON
	return job, nil
}

// merge sets the fields that t sets.
func (j *Job) merge(t *Job) {
	if t.Queue != "" {
		j.Queue = t.Queue
	}
	if t.Priority != nil {
		j.Priority = t.Priority
	}
	if !t.RunAt.IsZero() || t.Delay != 0 {
		j.RunAt, j.Delay = t.RunAt, t.Delay
	}
	if !t.ExpiresAt.IsZero() {
		j.ExpiresAt = t.ExpiresAt
	}
	if t.MaxAttempts != 0 {
		j.MaxAttempts = t.MaxAttempts
	}
	if t.Retry != nil {
		j.Retry = t.Retry
	}
	if t.Timeout != 0 {
		j.Timeout = t.Timeout
	}
	if t.OrderingKey != "" {
		j.OrderingKey = t.OrderingKey
	}
	if t.UniqueKey != "" {
		j.UniqueKey = t.UniqueKey
	}
	if t.UniqueUntil != "" {
		j.UniqueUntil = t.UniqueUntil
	}
	if t.UniqueFor != 0 {
		j.UniqueFor = t.UniqueFor
	}
	if t.Metadata != nil {
		j.Metadata = t.Metadata
	}
}
