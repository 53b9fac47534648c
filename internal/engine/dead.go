package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
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

// RetryAllDead retries a queue's dead jobs, on each of its homes oldest first, from where a call before it ended; after is empty for the first.
// It looks at no more than limit of them, tells how many it retried, and where the next call is to go on: nowhere if that is empty. It
// may be cut short by an error: what it did stays done, and calling again goes on. An error that is a *PassedOver did not cut it short.
func (e *Engine) RetryAllDead(ctx context.Context, name, after string, limit int) (count int, next string, err error) {
	return e.allDead(ctx, name, after, limit, queue.AppendRetryDead)
}

// DiscardAllDead throws a queue's dead jobs away; it counts as RetryAllDead does.
func (e *Engine) DiscardAllDead(ctx context.Context, name, after string, limit int) (count int, next string, err error) {
	return e.allDead(ctx, name, after, limit, queue.AppendDiscardDead)
}

func (e *Engine) allDead(ctx context.Context, name, after string, limit int, encode func([]byte, queue.Pos) []byte) (int, string, error) {
	if limit < 1 || limit > BulkMax {
		return 0, "", invalid("limit", "is %d; it must lie between 1 and %d", limit, BulkMax)
	}
	s, ok := parseSweep(after)
	if !ok {
		return 0, "", invalid("cursor", "was not given out by a call of this kind; start without one")
	}
	rt, err := e.existing(ctx, name)
	if err != nil {
		return 0, "", err
	}
	count := 0
	over := new(PassedOver)
	for {
		h, found := s.home(rt)
		if !found {
			return count, "", over.orNil()
		}
		done, more, last, err := e.allDeadOn(ctx, h, s, limit-count-over.Count, encode, over)
		if count += done; err != nil {
			return count, after, err
		}
		if more {
			s.asked = slices.DeleteFunc(s.asked, func(p place) bool { return !slices.ContainsFunc(rt.all, func(h home) bool { return h.place() == p }) })
			return count, s.format(), over.orNil()
		}
		if rt, err = e.newerRoute(ctx, rt, h, last); err != nil {
			return count, after, err
		}
		s.asked, s.at, s.pos = append(s.asked, h.place()), place{}, 0
	}
}

// allDeadOn is allDead on one of a queue's homes, and returns the last page of them. When there is more, the sweep says behind which job. With
// a limit of 0 it tells whether there is any.
func (e *Engine) allDeadOn(
	ctx context.Context, h home, s *sweep, limit int, encode func([]byte, queue.Pos) []byte, over *PassedOver,
) (count int, more bool, f *findings, err error) {
	s.at = h.place()
	for before := over.Count; ; {
		left := limit - count - (over.Count - before)
		// One row over the limit tells whether there is more.
		f, err = e.ask(ctx, &query{
			Kind: queryRows, Shard: h.pump.shard, Queue: h.id, State: queue.StateDead, Cursor: queue.Cursor{Pos: s.pos}, Limit: min(left+1, queue.ListMax),
		})
		if err != nil {
			return count, true, nil, err
		}
		infos := f.Rows[:min(len(f.Rows), left)]
		done, err := e.deadBatch(ctx, h.pump, infos, encode, over)
		count += done
		if err != nil {
			return count, true, f, err
		}
		if len(infos) > 0 {
			s.pos = infos[len(infos)-1].Pos
		}
		more := len(f.Rows) > len(infos)
		switch {
		case more && count+over.Count-before >= limit:
			return count, true, f, nil
		case !more && f.Cursor == (queue.Cursor{}):
			return count, false, f, nil
		case !more:
			s.pos = f.Cursor.Pos
		}
	}
}

// sweep is how far one has come that goes through all homes of a queue, whose homes may change between its calls.
type sweep struct {
	at    place     // the home that it is at
	pos   queue.Pos // behind which job there; 0: at the first
	asked []place   // the homes that it is done with
}

const (
	placeBytes = 2 + 4
	sweepBytes = 8 + placeBytes
	// sweepAskedMax bounds the homes of a sweep's cursor: all partitions that a queue can have and can have had.
	sweepAskedMax = cluster.PartitionsMax + cluster.FormersMax
)

// home is where the sweep goes on: at the home where it was, unless the queue has left that, else at one that was not asked.
func (s *sweep) home(rt *route) (home, bool) {
	if at := slices.IndexFunc(rt.all, func(h home) bool { return h.place() == s.at }); at >= 0 {
		return rt.all[at], true
	}
	s.pos = 0
	at := slices.IndexFunc(rt.all, func(h home) bool { return !slices.Contains(s.asked, h.place()) })
	if at < 0 {
		return home{}, false
	}
	return rt.all[at], true
}

func (s *sweep) format() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(s.pos))
	for _, p := range append([]place{s.at}, s.asked...) {
		b = binary.BigEndian.AppendUint16(b, uint16(p.shard))
		b = binary.BigEndian.AppendUint32(b, uint32(p.id))
	}
	return cursorEncoding.EncodeToString(b)
}

// parseSweep reads what format has written; an empty text is a sweep that begins.
func parseSweep(text string) (*sweep, bool) {
	s := new(sweep)
	if text == "" {
		return s, true
	}
	b, err := cursorEncoding.DecodeString(text)
	if err != nil || len(b) < sweepBytes || len(b) > sweepBytes+sweepAskedMax*placeBytes || (len(b)-sweepBytes)%placeBytes != 0 {
		return nil, false
	}
	s.pos = queue.Pos(binary.BigEndian.Uint64(b))
	for i := 8; i < len(b); i += placeBytes {
		s.asked = append(s.asked, place{shard.ID(binary.BigEndian.Uint16(b[i:])), queue.QueueID(binary.BigEndian.Uint32(b[i+2:]))})
	}
	s.at, s.asked = s.asked[0], s.asked[1:]
	return s, true
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
