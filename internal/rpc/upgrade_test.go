package rpc

import (
	"bufio"
	"bytes"
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

// FuzzUpgradedReceive: whatever a client sends, its stream ends, and takes no more memory than came.
func FuzzUpgradedReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02\x10\x01\x02\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x7f\xff\xffshort"))
	f.Add([]byte("\x00\xff\xff\xff\xff"))
	f.Add([]byte("\x07\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &upgradedConn{in: bufio.NewReader(bytes.NewReader(data)), cancel: func() {}, readMax: RequestBytesDefault}
		for n := 0; ; n++ {
			if err := c.Receive(new(streamRequest)); err != nil {
				break
			}
			if n*envelopeBytes > len(data) {
				t.Fatalf("%d messages from %d bytes", n, len(data))
			}
		}
		if cap(c.body) > 2*(len(data)+upgradeStepBytes) {
			t.Errorf("%d bytes of memory for %d", cap(c.body), len(data))
		}
	})
}
