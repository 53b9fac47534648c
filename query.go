package beaver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// answerMax is how long a server that is reached may take to answer, unless RetryFor is longer.
const answerMax = 30 * time.Second

// call makes one unary call, and makes it again, at another node if there is one, while the server cannot be reached or stands still.
func call[Req, Res any](
	ctx context.Context, c *Client, method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	res, _, err := callFor(ctx, c, 0, method, req)
	return res, err
}

// change is call for what can be done only once: when a repeat is refused, that may be since an earlier try was done.
func change[Req, Res any](
	ctx context.Context, c *Client, method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	res, doubt, err := callFor(ctx, c, 0, method, req)
	if doubt {
		err = doubtful(err)
	}
	return res, err
}

// doubtful turns the refusal of a repeat into ErrOutcomeUnknown, without what it was: it may be the doing of an earlier try.
func doubtful(err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != CodeNotFound && e.Code != CodeFailedPrecondition {
		return err
	}
	return &Error{
		Code: CodeUnknown, Reason: reasonOutcomeUnknown, Field: e.Field,
		Message: "the call was sent before and may have been done then; its repeat was refused: " + e.Message,
	}
}

// callFor makes a call that the server may take a while to answer, beside the time that any call may take. doubt says that a
// try before the last was sent and not answered.
func callFor[Req, Res any](
	ctx context.Context, c *Client, while time.Duration,
	method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (res *Res, doubt bool, err error) {
	var wait backoff
	retry, cancel := c.clock.patient(ctx, c.cfg.RetryFor)
	defer cancel()
	bounded, stop := context.WithTimeout(ctx, max(c.cfg.RetryFor, answerMax)+while)
	defer stop()
	operator := isOperator(ctx)
	for {
		n := c.chooseNode(ctx, req)
		var res *connect.Response[Res]
		err := c.nodes.whileThere(bounded, n, operator, func(ctx context.Context) (err error) {
			res, err = method(toNode(ctx, n), connect.NewRequest(req))
			return err
		})
		if err == nil {
			c.nodes.works(n)
			return res.Msg, doubt, nil
		}
		e := callError(ctx, err)
		if ctx.Err() == nil && bounded.Err() != nil {
			return nil, doubt, &Error{Code: CodeUnavailable, Message: "the server takes too long to answer: " + e.Message, cause: err}
		}
		if !e.retryable() || ctx.Err() != nil {
			return nil, doubt, e
		}
		// Another node is asked at once; when all have failed, the client waits. What never left may go on to the next node
		// even if nothing is to be repeated.
		moves := false
		if e.Code == CodeUnavailable {
			c.nodes.failed(n)
			moves = c.nodes.others(n, operator) && (unreached(err) || !retry.over())
		}
		if !moves && (wait.wait(retry) != nil || retry.over()) {
			return nil, doubt, e
		}
		doubt = doubt || !unreached(err) && (e.Code != CodeUnavailable || !connect.IsWireError(err))
	}
}

// callError is asError for a call with a context of the caller's: while that goes on, a call that was cancelled or timed out
// was so by the network. Connect takes a connection that is reset for cancelled.
func callError(ctx context.Context, err error) *Error {
	e := asError(err)
	if ctx.Err() == nil && !connect.IsWireError(err) && (e.Code == CodeCanceled || e.Code == CodeDeadlineExceeded) {
		return &Error{Code: CodeUnavailable, Message: e.Message, cause: err}
	}
	return e
}

// Job returns a stored job with its payload, result and errors, or ErrNotFound.
func (c *Client) Job(ctx context.Context, id JobID) (*JobInfo, error) {
	res, err := call(ctx, c, c.jobs.GetJob, &beaverv1.GetJobRequest{Id: string(id)})
	if err != nil {
		return nil, err
	}
	return jobInfoOf(res.GetJob()), nil
}

// JobFilter chooses jobs of one queue in one state.
type JobFilter struct {
	Queue string
	State JobState
	// Full asks for payloads, results and errors too.
	Full bool
	// PageSize is how many jobs a page holds: 1 to 1000. Default 50; 1000 for Jobs.
	PageSize int
}

// JobPage is a page of jobs. Next is empty on the last page.
type JobPage struct {
	Jobs []*JobInfo
	Next string
}

// ListJobs returns one page of jobs, by priority and age. The page token is empty for the first page, and Next of the page
// before for the others.
func (c *Client) ListJobs(ctx context.Context, f JobFilter, pageToken string) (*JobPage, error) {
	state, err := f.State.proto()
	if err != nil {
		return nil, err
	}
	if f.PageSize < 0 || f.PageSize > pageSizeMax {
		return nil, invalid("page_size", "the page size is %d; use 1 to %d", f.PageSize, pageSizeMax)
	}
	res, err := call(ctx, c, c.jobs.ListJobs, &beaverv1.ListJobsRequest{
		Queue: f.Queue, State: state, PageSize: uint32(f.PageSize), PageToken: pageToken, Full: f.Full,
	})
	if err != nil {
		return nil, err
	}
	page := &JobPage{Jobs: make([]*JobInfo, len(res.GetJobs())), Next: res.GetNextPageToken()}
	for i, j := range res.GetJobs() {
		page.Jobs[i] = jobInfoOf(j)
	}
	return page, nil
}

// Jobs iterates over all jobs that f chooses, a page at a time. It stops at the first error.
func (c *Client) Jobs(ctx context.Context, f JobFilter) iter.Seq2[*JobInfo, error] {
	if f.PageSize == 0 {
		f.PageSize = pageSizeMax
	}
	return func(yield func(*JobInfo, error) bool) {
		token := ""
		for {
			page, err := c.ListJobs(ctx, f, token)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, j := range page.Jobs {
				if !yield(j, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			token = page.Next
		}
	}
}

// Cancel cancels a waiting job at once, and asks the worker of a running one to stop: then the state returned is
// StateRunning.
func (c *Client) Cancel(ctx context.Context, id JobID) (JobState, error) {
	res, err := change(ctx, c, c.jobs.CancelJob, &beaverv1.CancelJobRequest{Id: string(id)})
	if err != nil {
		return "", err
	}
	return jobStateOf(res.GetState()), nil
}

// RetryDead makes the dead jobs ready again, and says why it did not for some: one error, or nil, an ID.
func (c *Client) RetryDead(ctx context.Context, ids ...JobID) ([]*Error, error) {
	return c.eachDead(ctx, c.jobs.RetryDead, ids)
}

// DiscardDead throws the dead jobs away, and says why it did not for some: one error, or nil, an ID.
func (c *Client) DiscardDead(ctx context.Context, ids ...JobID) ([]*Error, error) {
	return c.eachDead(ctx, c.jobs.DiscardDead, ids)
}

// RetryAllDead makes all dead jobs of a queue ready again, and returns how many. Those whose unique keys are not free stay
// dead: then the error says how many, and why the first of them, as ErrUniqueKeyHeld if another job holds its key. The others were
// retried all the same.
func (c *Client) RetryAllDead(ctx context.Context, queue string) (int, error) {
	return c.allDead(ctx, c.jobs.RetryDead, queue)
}

// DiscardAllDead throws all dead jobs of a queue away, and returns how many.
func (c *Client) DiscardAllDead(ctx context.Context, queue string) (int, error) {
	return c.allDead(ctx, c.jobs.DiscardDead, queue)
}

type deadMethod = func(context.Context, *connect.Request[beaverv1.DeadRequest]) (*connect.Response[beaverv1.DeadResponse], error)

// eachDead deals with jobs that live on many shards, one of which may have no leader for a moment: what is refused for that is
// repeated, as a call would be that is about one job.
func (c *Client) eachDead(ctx context.Context, method deadMethod, ids []JobID) ([]*Error, error) {
	errs := make([]*Error, len(ids))
	var wait backoff
	retry, cancel := c.clock.patient(ctx, c.cfg.RetryFor)
	defer cancel()
	left := make([]int, len(ids))
	for i := range left {
		left[i] = i
	}
	for {
		for part := range slices.Chunk(left, deadIDsMax) {
			if err := c.dead(ctx, method, ids, part, errs); err != nil {
				return errs, err
			}
		}
		left = slices.DeleteFunc(left, func(i int) bool { return errs[i] == nil || !errs[i].retryable() })
		if len(left) == 0 || wait.wait(retry) != nil || retry.over() {
			return errs, nil
		}
	}
}

// dead makes one call about some of the jobs, and puts what was said of each into errs.
func (c *Client) dead(ctx context.Context, method deadMethod, ids []JobID, part []int, errs []*Error) error {
	req := &beaverv1.DeadRequest{Ids: make([]string, len(part))}
	for k, i := range part {
		req.Ids[k] = string(ids[i])
	}
	res, doubt, err := callFor(ctx, c, 0, method, req)
	if err != nil {
		return err
	}
	for _, i := range part {
		errs[i] = nil
	}
	for _, e := range res.GetErrors() {
		if k := int(e.GetIndex()); k < len(part) {
			one := fromJobError(e)
			if doubt {
				one = asError(doubtful(one))
			}
			errs[part[k]] = one
		}
	}
	return nil
}

func (c *Client) allDead(ctx context.Context, method deadMethod, queue string) (int, error) {
	if queue == "" {
		return 0, invalid("queue", "name the queue whose dead jobs are meant")
	}
	count, passed := 0, 0
	var first *Error // why the first one was passed over
	for token, goOn := "", true; goOn; {
		res, err := call(ctx, c, method, &beaverv1.DeadRequest{Queue: queue, PageToken: token})
		if err != nil {
			return count, err
		}
		if token == "" { // it looked at all again
			passed, first = 0, nil
		}
		count, passed = count+int(res.GetCount()), passed+int(res.GetPassedOver())
		if first == nil && len(res.GetErrors()) > 0 {
			first = fromJobError(res.GetErrors()[0])
		}
		token = res.GetNextPageToken() // servers of before it was there have none, and begin anew
		goOn = token != "" || res.GetMore() && res.GetCount() > 0
	}
	if first == nil {
		return count, nil
	}
	if passed > 1 {
		first.Message = fmt.Sprintf("%d jobs stay dead, since their unique keys are not free; the first, %s", passed, first.Message)
	}
	return count, first
}
