package engine

import (
	"context"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// serveCommands carries out the commands that another node forwards: they join the desk's own, and the answer goes out when all have
// theirs. When ctx ends nobody reads it any more: what was not proposed by then is not.
//
// What comes by a connection of an earlier era is refused: it may have waited here for as long as this node stood still, and the node that
// sent it has long told its caller that it does not know.
func (e *Engine) serveCommands(ctx context.Context, r *reader) ([]byte, *Error) {
	received := e.opts.Watch.Reading(time.Now())
	if era := EraOf(ctx); era != 0 && e.opts.Watch.Era(received) != era {
		return nil, ErrStoodStill()
	}
	id, count := r.commands()
	d := e.deskOf(id)
	if d == nil {
		return nil, errNoShard(id)
	}
	calls := make([]*call, 0, count)
	for range count {
		c := d.newCall()
		r.command(c)
		if !c.urgent {
			c.received = received
		}
		calls = append(calls, c)
	}
	if !r.end() {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded commands do not decode")
	}
	failed := make([]*Error, count)
	for i, c := range calls {
		failed[i] = e.admit(d, c)
	}
	answer := startAnswer()
	for i, c := range calls {
		if failed[i] == nil {
			if err := d.wait(ctx, c); err != nil {
				failed[i] = asError(err)
			}
		}
		answer = appendCommandAnswer(answer, c, failed[i])
		if failed[i] == nil {
			c.free()
		}
	}
	return answer, nil
}

// admit submits a command of another node, if it is one.
func (e *Engine) admit(d *desk, c *call) *Error {
	if d.shard != catalogShard {
		for i := range c.items.Len() {
			item := c.items.Item(i)
			if !queue.Forwardable(item) {
				return newError(CodeInvalidArgument, ReasonMalformed, "item %d is no command that is forwarded", i)
			}
			if queue.BatchVersion(item) > max(c.items.Version, shard.BatchVersionFirst) { // replicas would not agree on what it is
				return newError(CodeInvalidArgument, ReasonMalformed, "item %d needs a batch of a later version than its command says", i)
			}
		}
	}
	if !c.urgent && e.host.Full() {
		return errDiskFull()
	}
	return d.submitHere(c)
}
