package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
)

// Cancel cancels a job that waits or is dead, at once. For a running job the state returned is StateRunning: its worker
// is asked to stop, and the job is cancelled when its attempt ends otherwise than by an ack.
func (e *Engine) Cancel(ctx context.Context, id JobID) (State, error) {
	if _, err := e.home(ctx, id); err != nil {
		return 0, err
	}
	// A ready job is found by its queue and priority, which only its spec in the log tells.
	place, err := e.ask(ctx, &query{Kind: queryPlace, Shard: shardID(id), Pos: id.Pos})
	if err != nil {
		return 0, err
	}
	r, err := e.onJob(ctx, id, func(dst []byte) []byte {
		return queue.AppendCancel(dst, id.Pos, place.Queue, place.Priority)
	})
	if err != nil {
		return r.State, err
	}
	if r.Code == queue.CodeCancelRequested {
		return queue.StateRunning, nil
	}
	return r.State, nil
}

// RetryDead makes dead jobs ready again at their old places, with their failures forgotten, and appends one answer per
// job to dst.
func (e *Engine) RetryDead(ctx context.Context, ids []JobID, dst []Ended) ([]Ended, error) {
	return e.onDead(ctx, ids, dst, queue.AppendRetryDead)
}

// DiscardDead throws dead jobs away and appends one answer per job to dst.
func (e *Engine) DiscardDead(ctx context.Context, ids []JobID, dst []Ended) ([]Ended, error) {
	return e.onDead(ctx, ids, dst, queue.AppendDiscardDead)
}

func (e *Engine) onDead(ctx context.Context, ids []JobID, dst []Ended, encode func([]byte, queue.Pos) []byte) ([]Ended, error) {
	switch {
	case len(ids) == 0:
		return dst, invalid("ids", "is empty; name 1 to %d jobs", IDsMax)
	case len(ids) > IDsMax:
		return dst, tooLarge("ids", "has %d items; at most %d fit one request", len(ids), IDsMax)
	}
	before := len(dst)
	dst = append(dst, make([]Ended, len(ids))...)
	out := dst[before:]
	homes := homes{engine: e}
	for i := range ids {
		if _, err := homes.of(ctx, ids[i]); err != nil {
			out[i].Err = asError(err)
		}
	}
	for _, p := range e.data() {
		c := p.newCall()
		c.urgent = true
		var asked []int
		for i, id := range ids {
			if shardID(id) == p.shard {
				c.items.Commit(encode(c.items.Buf(), id.Pos))
				asked = append(asked, i)
			}
		}
		if len(asked) == 0 {
			c.free()
			continue
		}
		if err := p.do(ctx, c); err != nil {
			for _, i := range asked {
				out[i].Err = asError(err)
			}
			continue
		}
		for k, i := range asked {
			out[i] = Ended{State: c.results[k].State, Err: refusal(c.results[k])}
		}
		c.free()
	}
	return dst, nil
}

// PassedOver is the error of a RetryAllDead that met dead jobs whose unique keys are not free: they stay dead, and it went on with the
// others.
type PassedOver struct {
	Count int
	First *Error // why the first of them was not retried
}

func (p *PassedOver) Error() string {
	return fmt.Sprintf("%d of the dead jobs were not retried; the first: %s", p.Count, p.First.Message)
}

// Unwrap returns the error of the first.
func (p *PassedOver) Unwrap() error { return p.First }

// passesOver tells the refusals that concern one dead job alone, whatever becomes of the others.
func passesOver(c queue.Code) bool { return c == queue.CodeKeyHeld || c == queue.CodeKeyElsewhere }

// orNil is p as an error, if there is one.
func (p *PassedOver) orNil() error {
	if p.Count == 0 {
		return nil
	}
	return p
}

func (p *PassedOver) add(id JobID, err *Error) {
	if p.Count++; p.First == nil {
		named := *err
		named.Message = fmt.Sprintf("dead job %v: %s", id, err.Message)
		p.First = &named
	}
}

// RetryAllDead retries a queue's dead jobs, oldest first, up to limit, and tells how many it did and whether there are
// more. It may be cut short by an error: what it did stays done, and calling again goes on. An error that is a *PassedOver did not
// cut it short.
func (e *Engine) RetryAllDead(ctx context.Context, name string, limit int) (int, bool, error) {
	return e.allDead(ctx, name, limit, queue.AppendRetryDead)
}

// DiscardAllDead throws a queue's dead jobs away; it counts as RetryAllDead does.
func (e *Engine) DiscardAllDead(ctx context.Context, name string, limit int) (int, bool, error) {
	return e.allDead(ctx, name, limit, queue.AppendDiscardDead)
}

func (e *Engine) allDead(ctx context.Context, name string, limit int, encode func([]byte, queue.Pos) []byte) (int, bool, error) {
	if limit < 1 || limit > BulkMax {
		return 0, false, invalid("limit", "is %d; it must lie between 1 and %d", limit, BulkMax)
	}
	rt, err := e.existing(ctx, name)
	if err != nil {
		return 0, false, err
	}
	count := 0
	over := new(PassedOver)
	var asked []home
	for {
		at := slices.IndexFunc(rt.all, func(h home) bool { return !slices.Contains(asked, h) })
		if at < 0 {
			return count, false, over.orNil()
		}
		h := rt.all[at]
		done, more, last, err := e.allDeadOn(ctx, h, limit-count, encode, over)
		if count += done; err != nil {
			return count, true, err
		}
		if more {
			return count, true, over.orNil()
		}
		if rt, err = e.newerRoute(ctx, rt, h, last); err != nil {
			return count, true, err
		}
		asked = append(asked, h)
	}
}

// allDeadOn is allDead on one of a queue's homes, and returns the last page of them. With a limit of 0 it tells whether there is any.
func (e *Engine) allDeadOn(ctx context.Context, h home, limit int, encode func([]byte, queue.Pos) []byte, over *PassedOver) (int, bool, *findings, error) {
	var cursor queue.Cursor
	count := 0
	for {
		// One row over the limit tells whether there is more.
		f, err := e.ask(ctx, &query{
			Kind: queryRows, Shard: h.pump.shard, Queue: h.id, State: queue.StateDead, Cursor: cursor, Limit: min(limit-count+1, queue.ListMax),
		})
		if err != nil {
			return count, true, nil, err
		}
		infos, next := f.Rows[:min(len(f.Rows), limit-count)], f.Cursor
		more := len(f.Rows) > len(infos)
		done, err := e.deadBatch(ctx, h.pump, infos, encode, over)
		count += done
		switch {
		case err != nil:
			return count, true, f, err
		case more && (count == limit || over.Count >= BulkMax):
			return count, true, f, nil
		case more: // some of the page stay dead
			next = queue.Cursor{Pos: infos[len(infos)-1].Pos}
		case next == (queue.Cursor{}):
			return count, false, f, nil
		}
		cursor = next
	}
}

// deadBatch sends one command for a page of dead jobs. Jobs that someone else dealt with meanwhile do not count; nor do those whose unique
// keys are not free, which are noted in over.
func (e *Engine) deadBatch(ctx context.Context, p *pump, infos []queue.JobInfo, encode func([]byte, queue.Pos) []byte, over *PassedOver) (int, error) {
	if len(infos) == 0 {
		return 0, nil
	}
	c := p.newCall()
	c.urgent = true
	for i := range infos {
		c.items.Commit(encode(c.items.Buf(), infos[i].Pos))
	}
	if err := p.do(ctx, c); err != nil {
		return 0, err
	}
	defer c.free()
	done := 0
	for i, r := range c.results {
		err := refusal(r)
		switch {
		case err == nil:
			done++
		case passesOver(r.Code):
			over.add(JobID{Shard: uint16(p.shard), Pos: infos[i].Pos}, err)
		case r.Code != queue.CodeNoJob && r.Code != queue.CodeWrongState:
			return done, err
		}
	}
	return done, nil
}

// existing returns a queue's route, or why there is none.
func (e *Engine) existing(ctx context.Context, name string) (*route, error) {
	if rt := e.routes.byName(name); rt != nil {
		return rt, nil
	}
	if !cluster.ValidQueueName(name) {
		return nil, badQueueName("queue", name)
	}
	if e.clustered() { // another node may have made it a moment ago
		known := false
		if err := e.readCatalog(ctx, func() { _, known = e.catalog.catalog.Queue(name) }); err != nil {
			return nil, err
		}
		if known {
			return e.ensureQueue(ctx, name)
		}
	}
	return nil, &Error{
		Code: CodeNotFound, Reason: ReasonQueueNotFound, Field: "queue",
		Message: "there is no queue \"" + name + "\"; enqueue a job into it or configure it to make it",
	}
}
