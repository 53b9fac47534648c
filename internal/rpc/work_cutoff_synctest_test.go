package rpc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// TestWorkEndsWhenCutOff: a stream whose node is cut off does not keep its worker, though that fetches nothing: what the worker says
// is answered as far as it can be, and the end of the stream has it go to another node. Other refusals end no stream.
func TestWorkEndsWhenCutOff(t *testing.T) {
	outcomes := &beaverv1.WorkRequest{OutcomesSequence: 1, Outcomes: []*beaverv1.Outcome{
		{Id: lease(1).ID.String(), Token: 1}, {Id: lease(1).ID.String(), Token: 2},
	}}
	for name, tt := range map[string]struct {
		say    *beaverv1.WorkRequest
		reason string
		want   string
	}{
		"outcome":       {outcomes, engine.ReasonCutOff, "ask another node"},
		"heartbeat":     {holds(0, 1), engine.ReasonCutOff, "ask another node"},
		"other refusal": {outcomes, engine.ReasonNotLeader, ""},
	} {
		t.Run(name, func(t *testing.T) {
			transitBubble(t, &beaverv1.WorkRequest{Complete: true}, func(e *transitEngine, c *transitConn) string {
				e.refuses = &engine.Error{Code: engine.CodeUnavailable, Reason: tt.reason, Message: "ask another node"}
				c.in <- tt.say
				synctest.Wait()
				time.Sleep(time.Second)
				if tt.say == outcomes && c.refused.Load() != 1 {
					t.Errorf("%d outcomes were refused, want 1", c.refused.Load())
				}
				return tt.want
			})
		})
	}
}

// Finish refuses the second outcome, if it is to refuse something.
func (e *transitEngine) Finish(_ context.Context, _ engine.WorkerID, o []engine.Outcome, dst []engine.Ended) ([]engine.Ended, error) {
	ended := make([]engine.Ended, len(o))
	if len(ended) > 1 {
		ended[1].Err = e.refuses
	}
	return append(dst, ended...), nil
}

// Heartbeat refuses as Finish does.
func (e *transitEngine) Heartbeat(context.Context, engine.WorkerID, []engine.LeaseRef) (engine.HeartbeatReply, error) {
	if e.refuses != nil {
		return engine.HeartbeatReply{}, e.refuses
	}
	return engine.HeartbeatReply{}, nil
}
