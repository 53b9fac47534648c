package engine

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Job returns a job as it is now: every operation acknowledged before the call shows.
func (e *Engine) Job(ctx context.Context, id JobID) (JobDetail, error) {
	if _, err := e.home(ctx, id); err != nil {
		return JobDetail{}, err
	}
	f, err := e.ask(ctx, &query{Kind: queryJob, Shard: shardID(id), Pos: id.Pos})
	if err != nil {
		return JobDetail{}, err
	}
	e.nameQueue(f.Job)
	return *f.Job, nil
}

// jobHere answers queryJob.
func (e *Engine) jobHere(ctx context.Context, p *pump, q *query) (*findings, error) {
	id := JobID{Shard: uint16(p.shard), Pos: q.Pos}
	spec, hasSpec, err := e.specHere(ctx, id)
	if err != nil {
		return nil, err
	}
	var info queue.JobInfo
	var found bool
	if err := e.host.Read(ctx, p.shard, func() {
		info, found = p.machine.Job(id.Pos, spec.Queue, spec.Priority)
	}); err != nil {
		return nil, hostError(err)
	}
	if !found {
		return nil, errNoJob()
	}
	d := JobDetail{Info: info, ID: id, Spec: spec, HasSpec: hasSpec}
	e.describe(&d, true)
	return &findings{Job: &d}, nil
}

// specHere is spec on the node that leads the shard: only its log certainly has every job.
func (e *Engine) specHere(ctx context.Context, id JobID) (Spec, bool, error) {
	if e.clustered() {
		if err := e.host.Read(ctx, shardID(id), func() {}); err != nil {
			return Spec{}, false, hostError(err)
		}
	}
	return e.spec(id)
}

// placeHere answers queryPlace. A job whose payload is damaged has no place; the machine finds it by its position, if at all.
func (e *Engine) placeHere(ctx context.Context, p *pump, q *query) (*findings, error) {
	spec, _, err := e.specHere(ctx, JobID{Shard: uint16(p.shard), Pos: q.Pos})
	if err != nil {
		return nil, err
	}
	return &findings{Queue: spec.Queue, Priority: spec.Priority}, nil
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
	e.nameQueue(d)
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

// nameQueue adds the queue's name, if this node knows it.
func (e *Engine) nameQueue(d *JobDetail) {
	if rt := e.routes.byID(d.Info.Queue); rt != nil {
		d.QueueName = rt.name
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
	at, cursor, ok := parseCursor(r.Cursor)
	if !ok {
		return nil, "", invalid("cursor", "was not given out by a listing; start without one")
	}
	rt, err := e.existing(ctx, r.Queue)
	if err != nil {
		return nil, "", err
	}
	homes := rt.all
	here := slices.IndexFunc(homes, func(h home) bool { return h.pump.shard == at.shard && (h.id == at.id || at.id == 0) })
	if here < 0 && at != (place{}) {
		return nil, "", invalid("cursor", "is of another queue; start without one")
	}
	here = max(here, 0)
	for ; ; here++ { // one home after the other, and never an empty page before the last
		h := homes[here]
		f, err := e.ask(ctx, &query{
			Kind: queryList, Shard: h.pump.shard, Queue: h.id, State: r.State, Cursor: cursor, Limit: r.Limit, Full: r.Full,
		})
		if err != nil {
			return nil, "", err
		}
		if newer, err := e.newerRoute(ctx, rt, h, f); err != nil {
			return nil, "", err
		} else if newer != rt {
			rt, homes = newer, newer.all
			here = slices.Index(homes, h)
		}
		for i := range f.Jobs {
			e.nameQueue(&f.Jobs[i])
		}
		next, last := f.Cursor, here == len(homes)-1
		switch {
		case len(homes) == 1:
			return f.Jobs, formatCursor(place{}, next), nil
		case next != (queue.Cursor{}):
			return f.Jobs, formatCursor(h.place(), next), nil
		case last:
			return f.Jobs, "", nil
		case len(f.Jobs) > 0:
			return f.Jobs, formatCursor(homes[here+1].place(), queue.Cursor{}), nil
		}
		cursor = queue.Cursor{}
	}
}

// listHere answers queryList. What goes to another node is cut where it gets too large, and goes on from there.
func (e *Engine) listHere(ctx context.Context, p *pump, q *query) (*findings, error) {
	page, err := e.pageHere(ctx, p, q)
	if err != nil {
		return nil, err
	}
	infos := page.Rows
	jobs := make([]JobDetail, 0, len(infos))
	bytes := 0
	for _, info := range infos {
		d := JobDetail{Info: info, ID: JobID{Shard: uint16(p.shard), Pos: info.Pos}}
		if d.Spec, d.HasSpec, err = e.spec(d.ID); err != nil {
			d.HasSpec = false // it is listed all the same
		}
		if !q.Full {
			d.Spec.Payload = nil
		}
		e.describe(&d, q.Full)
		jobs = append(jobs, d)
		if bytes += d.bytes(); q.From != 0 && bytes > farListBytesMax && len(jobs) < len(infos) {
			return &findings{Jobs: jobs, Cursor: cursorAfter(q.State, &info), Closed: page.Closed}, nil
		}
	}
	return &findings{Jobs: jobs, Cursor: page.Cursor, Closed: page.Closed}, nil
}

// bytes is about how long a job is that is sent to another node.
func (d *JobDetail) bytes() int {
	n := len(d.Spec.Payload) + len(d.Result) + len(d.Progress)
	for i := range d.Errors {
		n += len(d.Errors[i].Message) + len(d.Errors[i].Stack)
	}
	return n
}

// pageHere reads rows until there are some or the listing ends: the machine's own pages may be short.
func (e *Engine) pageHere(ctx context.Context, p *pump, q *query) (*findings, error) {
	limit := min(q.Limit, queue.ListMax)
	f := &findings{Cursor: q.Cursor}
	for {
		var some []queue.JobInfo
		if err := e.host.Read(ctx, p.shard, func() {
			some, f.Cursor = p.machine.List(q.Queue, q.State, f.Cursor, limit-len(f.Rows))
			info, _ := p.machine.Queue(q.Queue)
			f.Closed = info.Settings.Closed
		}); err != nil {
			return nil, hostError(err)
		}
		f.Rows = append(f.Rows, some...)
		if len(f.Rows) >= limit || f.Cursor == (queue.Cursor{}) {
			return f, nil
		}
	}
}

var cursorEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// place names one of a queue's homes. An id of 0 is any that the queue has on the shard.
type place struct {
	shard shard.ID
	id    queue.QueueID
}

func (h home) place() place { return place{h.pump.shard, h.id} }

// The lengths of a cursor: without the home, with its shard alone as it was once, and with its shard and id.
const (
	cursorBytes        = 1 + 8
	cursorAtShardBytes = cursorBytes + 2
	cursorAtHomeBytes  = cursorAtShardBytes + 4
)

// formatCursor writes where a listing goes on: on which of a queue's homes, when it has several, and where there.
func formatCursor(at place, c queue.Cursor) string {
	if at == (place{}) && c == (queue.Cursor{}) {
		return ""
	}
	b := binary.BigEndian.AppendUint64([]byte{c.Priority}, uint64(c.Pos))
	if at != (place{}) {
		b = binary.BigEndian.AppendUint16(b, uint16(at.shard))
		b = binary.BigEndian.AppendUint32(b, uint32(at.id))
	}
	return cursorEncoding.EncodeToString(b)
}

func parseCursor(s string) (at place, c queue.Cursor, ok bool) {
	if s == "" {
		return at, c, true
	}
	b, err := cursorEncoding.DecodeString(s)
	if err != nil || len(b) != cursorBytes && len(b) != cursorAtShardBytes && len(b) != cursorAtHomeBytes || b[0] >= queue.PriorityCount {
		return at, c, false
	}
	c = queue.Cursor{Priority: b[0], Pos: queue.Pos(binary.BigEndian.Uint64(b[1:]))}
	if len(b) >= cursorAtShardBytes {
		at.shard = shard.ID(binary.BigEndian.Uint16(b[cursorBytes:]))
	}
	if len(b) == cursorAtHomeBytes {
		at.id = queue.QueueID(binary.BigEndian.Uint32(b[cursorAtShardBytes:]))
	}
	return at, c, true
}
