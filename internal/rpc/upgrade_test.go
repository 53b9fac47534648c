package rpc

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver/internal/engine"
)

func TestEndMessage(t *testing.T) {
	if got := string(endMessage(nil)); got != "{}" {
		t.Errorf("the end without an error is %s", got)
	}
	for _, tt := range []struct {
		err  error
		code connect.Code
		text string
	}{
		{&engine.Error{Code: engine.CodeUnavailable, Reason: "STOPPING", Message: "the node is stopping"}, connect.CodeUnavailable, "the node is stopping"},
		{connect.NewError(connect.CodeResourceExhausted, errors.New("too large")), connect.CodeResourceExhausted, "too large"},
	} {
		var end struct {
			Error struct {
				Code, Message string
				Details       []struct{ Type, Value string }
			}
		}
		if err := json.Unmarshal(endMessage(tt.err), &end); err != nil {
			t.Fatal(err)
		}
		if end.Error.Code != tt.code.String() || end.Error.Message != tt.text {
			t.Errorf("the end says %+v; want %v, %q", end.Error, tt.code, tt.text)
		}
		if len(end.Error.Details) != 1 || !strings.HasSuffix(end.Error.Details[0].Type, "ErrorInfo") {
			t.Errorf("details: %+v", end.Error.Details)
		}
	}
}
