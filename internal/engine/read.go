package engine

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Job returns a job as it is now: every operation acknowledged before the call shows.
func (e *Engine) Job(ctx context.Context, id JobID) (JobDetail, error) {
	p := e.pump(shardID(id))
	if p == nil {
		return JobDetail{}, errNoJob()
	}
	spec, hasSpec, err := e.spec(id)
	if err != nil {
		return JobDetail{}, err
	}
	var info queue.JobInfo
	var found bool
	if err := e.host.Read(ctx, p.shard, func() {
		info, found = p.machine.Job(id.Pos, spec.Queue, spec.Priority)
	}); err != nil {
		return JobDetail{}, hostError(err)
	}
	if !found {
		return JobDetail{}, errNoJob()
	}
	d := JobDetail{Info: info, ID: id, Spec: spec, HasSpec: hasSpec}
	e.describe(&d, true)
	return d, nil
}

// spec reads a job's spec from the log. It is false with a zero spec when the payload is damaged or gone: the machine
// may still know the job by its position.
func (e *Engine) spec(id JobID) (Spec, bool, error) {
	_, item, err := e.host.Payload(shardID(id), id.Pos.Index(), id.Pos.Ordinal())
	if errors.Is(err, wal.ErrUnavailable) || errors.Is(err, shard.ErrNoItem) {
		return Spec{}, false, errNoJob()
	}
	if err == nil {
		spec, err := queue.DecodeSpec(item)
		if err != nil { // the position is some other item's, or the item is damaged: the machine tells
			return Spec{}, false, nil
		}
		return spec, true, nil
	}
	if isDamage(err) {
		return Spec{}, false, nil
	}
	return Spec{}, false, hostError(err)
}

// describe adds to a job's hot part what lies in the log. What is damaged there is left out.
func (e *Engine) describe(d *JobDetail, full bool) {
	if rt := e.routes.byID(d.Info.Queue); rt != nil {
		d.QueueName = rt.name
	}
	if !full {
		return
	}
	id := shardID(d.ID)
	if pos := d.Info.ResultPos; pos != 0 {
		if _, item, err := e.host.Payload(id, pos.Index(), pos.Ordinal()); err == nil {
			if contentType, result, err := queue.DecodeAckResult(item); err == nil {
				d.ResultContentType, d.Result = contentType, result
			}
		}
	}
	if pos := d.Info.ProgressPos; pos != 0 {
		if _, item, err := e.host.Payload(id, pos.Index(), pos.Ordinal()); err == nil {
			if _, message, err := queue.DecodeProgress(item); err == nil {
				d.Progress = message
			}
		}
	}
	for _, pos := range d.Info.ErrorPos {
		d.Errors = append(d.Errors, e.attemptError(id, pos))
	}
}

// attemptError reads a kept failure. Position 0 stands for an attempt that ran out of time.
func (e *Engine) attemptError(id shard.ID, pos queue.Pos) AttemptError {
	if pos == 0 {
		return AttemptError{Failure: Failure{Type: "timeout", Message: "the attempt ran out of time"}}
	}
	h, item, err := e.host.Payload(id, pos.Index(), pos.Ordinal())
	if err == nil {
		var f Failure
		if f, err = queue.DecodeFailure(item); err == nil {
			return AttemptError{At: time.UnixMilli(h.Stamp), Failure: f}
		}
	}
	return AttemptError{Failure: Failure{Type: "unreadable", Message: "the error's text could not be read from the log: " + err.Error()}}
}

// List returns a page of a queue's jobs in one state, by priority and age, and the cursor of the next page; it is empty
// after the last. Without Full the payloads are left out.
func (e *Engine) List(ctx context.Context, r ListRequest) ([]JobDetail, string, error) {
	if r.Limit < 1 || r.Limit > queue.ListMax {
		return nil, "", invalid("limit", "is %d; it must lie between 1 and %d", r.Limit, queue.ListMax)
	}
	if r.State < queue.StateScheduled || r.State > queue.StateDiscarded {
		return nil, "", invalid("state", "is %d, which is no state of a job", r.State)
	}
	cursor, ok := parseCursor(r.Cursor)
	if !ok {
		return nil, "", invalid("cursor", "was not given out by a listing; start without one")
	}
	rt, err := e.existing(r.Queue)
	if err != nil {
		return nil, "", err
	}
	infos, cursor, err := e.page(ctx, rt, r.State, cursor, r.Limit)
	if err != nil {
		return nil, "", err
	}
	jobs := make([]JobDetail, 0, len(infos))
	for _, info := range infos {
		d := JobDetail{Info: info, ID: JobID{Shard: uint16(rt.pump.shard), Pos: info.Pos}}
		if d.Spec, d.HasSpec, err = e.spec(d.ID); err != nil {
			d.HasSpec = false // it is listed all the same
		}
		if !r.Full {
			d.Spec.Payload = nil
		}
		e.describe(&d, r.Full)
		jobs = append(jobs, d)
	}
	return jobs, formatCursor(cursor), nil
}

// page reads rows until there are some or the listing ends: the machine's own pages may be short.
func (e *Engine) page(ctx context.Context, rt *route, st State, from queue.Cursor, limit int) ([]queue.JobInfo, queue.Cursor, error) {
	var infos []queue.JobInfo
	for {
		var some []queue.JobInfo
		if err := e.host.Read(ctx, rt.pump.shard, func() {
			some, from = rt.pump.machine.List(rt.id, st, from, limit-len(infos))
		}); err != nil {
			return nil, from, hostError(err)
		}
		infos = append(infos, some...)
		if len(infos) >= limit || from == (queue.Cursor{}) {
			return infos, from, nil
		}
	}
}

var cursorEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

func formatCursor(c queue.Cursor) string {
	if c == (queue.Cursor{}) {
		return ""
	}
	return cursorEncoding.EncodeToString(binary.BigEndian.AppendUint64([]byte{c.Priority}, uint64(c.Pos)))
}

func parseCursor(s string) (queue.Cursor, bool) {
	if s == "" {
		return queue.Cursor{}, true
	}
	b, err := cursorEncoding.DecodeString(s)
	if err != nil || len(b) != 9 || b[0] >= queue.PriorityCount {
		return queue.Cursor{}, false
	}
	return queue.Cursor{Priority: b[0], Pos: queue.Pos(binary.BigEndian.Uint64(b[1:]))}, true
}
