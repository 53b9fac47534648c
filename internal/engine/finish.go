package engine

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/beaver-raft/beaver/internal/queue"
)

// Finish ends attempts and appends one answer per outcome, in order, to dst. Outcomes are independent: each is refused
// or done by itself. Nothing of them is retained after Finish returns.
func (e *Engine) Finish(ctx context.Context, worker WorkerID, outcomes []Outcome, dst []Ended) ([]Ended, error) {
	switch {
	case len(outcomes) == 0:
		return dst, invalid("outcomes", "is empty; give 1 to %d outcomes", FinishMax)
	case len(outcomes) > FinishMax:
		return dst, tooLarge("outcomes", "has %d items; at most %d fit one request", len(outcomes), FinishMax)
	}
	if w := e.workers.get(worker); w != nil {
		w.hear()
	}
	before := len(dst)
	dst = append(dst, make([]Ended, len(outcomes))...)
	if err := e.perShard(ctx, outcomes, dst[before:]); err != nil {
		return dst[:before], err
	}
	return dst, nil
}

// finishLeg is one command's share of a Finish: the outcomes of one shard from a range of the request.
type finishLeg struct {
	pump   *pump
	call   *call
	lo, hi int
	err    error
}

// perShard sends outcomes to their shards, in commands of an entry's worth, and collects the answers. An error is
// returned when nothing was done at all and no other shard would do better; otherwise each outcome has its own.
func (e *Engine) perShard(ctx context.Context, outcomes []Outcome, out []Ended) error {
	var few [4]finishLeg
	legs := few[:0]
	homes := homes{engine: e}
	for i := range outcomes {
		o := &outcomes[i]
		p, err := homes.of(ctx, o.ID)
		if err != nil {
			out[i].Err = asError(err)
			continue
		}
		if err := checkOutcome(o); err != nil {
			out[i].Err = err
			continue
		}
		l := findLeg(legs, p)
		if l == nil || l.call.items.Size() >= gatherBytes {
			c := p.newCall()
			c.urgent, c.ends = true, true
			legs = append(legs, finishLeg{pump: p, call: c, lo: i})
			l = &legs[len(legs)-1]
		}
		encodeOutcome(l.call, o)
		l.hi = i + 1
	}
	if len(legs) == 1 && allMine(out) {
		l := &legs[0]
		if l.err = l.pump.do(ctx, l.call); l.err != nil && !ofOneShard(l.err) {
			return l.err
		}
		scatter(l, outcomes, out)
		if l.err == nil {
			l.call.free()
		}
		return nil
	}
	for i := range legs {
		legs[i].err = legs[i].pump.submit(legs[i].call)
	}
	for i := range legs {
		l := &legs[i]
		if l.err == nil {
			l.err = l.pump.wait(ctx, l.call)
		}
		scatter(l, outcomes, out)
		if l.err == nil {
			l.call.free()
		}
	}
	return nil
}

// findLeg returns a pump's newest leg.
func findLeg(legs []finishLeg, p *pump) *finishLeg {
	for i := len(legs) - 1; i >= 0; i-- {
		if legs[i].pump == p {
			return &legs[i]
		}
	}
	return nil
}

func allMine(out []Ended) bool {
	for i := range out {
		if out[i].Err != nil {
			return false
		}
	}
	return true
}

// scatter writes a leg's answers to its outcomes: those of its range that are its shard's and not refused before.
func scatter(l *finishLeg, outcomes []Outcome, out []Ended) {
	next := 0
	for i := l.lo; i < l.hi; i++ {
		if out[i].Err != nil || shardID(outcomes[i].ID) != l.pump.shard {
			continue
		}
		if l.err != nil {
			out[i].Err = asError(l.err)
			continue
		}
		r := l.call.results[next]
		next++
		out[i] = Ended{State: r.State, Err: refusal(r)}
	}
}

func encodeOutcome(c *call, o *Outcome) {
	buf := c.items.Buf()
	switch o.Kind {
	case OutcomeAck:
		buf = queue.AppendAck(buf, o.ID.Pos, o.Token, o.ContentType, o.Result)
	case OutcomeFail:
		buf = queue.AppendFail(buf, o.ID.Pos, o.Token, &o.Failure)
	case OutcomeRelease:
		buf = queue.AppendRelease(buf, o.ID.Pos, o.Token)
	}
	c.items.Commit(buf)
}

// checkOutcome names the first field of an outcome that breaks a limit.
func checkOutcome(o *Outcome) *Error {
	f := &o.Failure
	switch {
	case o.Err != nil:
		return o.Err
	case o.Token == 0:
		return invalid("token", "is missing; give the token that came with the job: it names the lease")
	case o.Kind > OutcomeRelease:
		return invalid("kind", "is %d; want ack, fail or release", o.Kind)
	case o.Kind == OutcomeRelease:
		return nil
	case o.Kind == OutcomeAck && len(o.Result) > queue.ResultBytesMax:
		return tooLarge("result", "is %d bytes long; at most %d are kept, so store it elsewhere and put a reference here", len(o.Result), queue.ResultBytesMax)
	case o.Kind == OutcomeAck && len(o.ContentType) > queue.ContentTypeMax:
		return tooLarge("content_type", "is %d bytes long; at most %d are kept", len(o.ContentType), queue.ContentTypeMax)
	case o.Kind == OutcomeAck && !utf8.ValidString(o.ContentType):
		return invalid("content_type", "is not valid UTF-8")
	case o.Kind == OutcomeAck:
		return nil
	case len(f.Type) > queue.ErrorTypeBytesMax:
		return tooLarge("failure.type", "is %d bytes long; at most %d are kept", len(f.Type), queue.ErrorTypeBytesMax)
	case len(f.Message) > queue.ErrorTextBytesMax:
		return tooLarge("failure.message", "is %d bytes long; at most %d are kept", len(f.Message), queue.ErrorTextBytesMax)
	case len(f.Stack) > queue.ErrorStackBytesMax:
		return tooLarge("failure.stack", "is %d bytes long; at most %d are kept", len(f.Stack), queue.ErrorStackBytesMax)
	case f.DelayMillis < 0 || f.DelayMillis > queue.DelayMillisMax:
		return invalid("failure.delay", "is %d ms; it must lie between 0 and %d", f.DelayMillis, int64(queue.DelayMillisMax))
	}
	return nil
}

// Extend makes a lease end d from now, or when the attempt's timeout is over, if that is earlier, and returns when that is.
func (e *Engine) Extend(ctx context.Context, id JobID, t Token, d time.Duration) (time.Time, error) {
	millis := d.Milliseconds()
	if millis < 1 || millis > queue.LeaseMillisMax {
		return time.Time{}, invalid("duration", "is %v; it must lie between 1 ms and %v", d, queue.LeaseMillisMax*time.Millisecond)
	}
	p, err := e.home(ctx, id)
	if err != nil {
		return time.Time{}, err
	}
	c := p.newCall()
	c.urgent = true
	c.items.Commit(queue.AppendExtend(c.items.Buf(), id.Pos, t, millis))
	if err := p.do(ctx, c); err != nil {
		return time.Time{}, err
	}
	refused, deadline := refusal(c.results[0]), time.UnixMilli(int64(c.results[0].At))
	c.free()
	if refused != nil {
		return time.Time{}, refused
	}
	return deadline, nil
}

// Progress records how far an attempt has come.
func (e *Engine) Progress(ctx context.Context, id JobID, t Token, percent int, message string) error {
	switch {
	case percent < 0 || percent > 100:
		return invalid("percent", "is %d; it must lie between 0 and 100", percent)
	case len(message) > queue.ProgressBytesMax:
		return tooLarge("message", "is %d bytes long; at most %d are kept", len(message), queue.ProgressBytesMax)
	}
	_, err := e.onJob(ctx, id, func(dst []byte) []byte {
		return queue.AppendProgress(dst, id.Pos, t, uint8(percent), message)
	})
	return err
}

// onJob sends one command about a job through its shard's log. A refusal is an error.
func (e *Engine) onJob(ctx context.Context, id JobID, encode func(dst []byte) []byte) (queue.Result, error) {
	p, err := e.home(ctx, id)
	if err != nil {
		return queue.Result{}, err
	}
	c := p.newCall()
	c.urgent = true
	c.items.Add(encode)
	if err := p.do(ctx, c); err != nil {
		return queue.Result{}, err
	}
	r := c.results[0]
	c.free()
	if err := refusal(r); err != nil {
		return r, err
	}
	return r, nil
}
