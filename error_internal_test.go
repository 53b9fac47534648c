package beaver

import (
	"errors"
	"testing"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestErrorDetail: what the server says beside code and message is in the Error.
func TestErrorDetail(t *testing.T) {
	wire := connect.NewError(connect.CodeUnavailable, errors.New("node 3 leads the shard"))
	detail, err := connect.NewErrorDetail(&beaverv1.ErrorInfo{Reason: "NOT_LEADER", Field: "jobs[1]", LeaderNodeId: 3})
	if err != nil {
		t.Fatal(err)
	}
	wire.AddDetail(detail)
	if e := asError(wire); e.Code != CodeUnavailable || e.Reason != "NOT_LEADER" || e.Field != "jobs[1]" || e.Leader != 3 {
		t.Errorf("%+v", e)
	}
}
