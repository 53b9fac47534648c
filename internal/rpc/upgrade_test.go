package rpc

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
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

// TestLeaderInDetail: an error names the node that leads, for programs.
func TestLeaderInDetail(t *testing.T) {
	c := toConnect(&engine.Error{Code: engine.CodeUnavailable, Reason: engine.ReasonNotLeader, Message: "node 3 leads", Leader: 3})
	v, err := c.Details()[0].Value()
	if info, ok := v.(*beaverv1.ErrorInfo); err != nil || !ok || info.GetLeaderNodeId() != 3 || info.GetReason() != engine.ReasonNotLeader {
		t.Errorf("%v, %v", v, err)
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
		var in streamRequest
		for n := 0; ; n++ {
			if err := c.Receive(&in); err != nil {
				break
			}
			if n*envelopeBytes > len(data) {
				t.Fatalf("%d messages from %d bytes", n, len(data))
			}
		}
		if got := cap(c.body) + cap(in.data); got > 2*(len(data)+upgradeStepBytes) {
			t.Errorf("%d bytes of memory for %d", got, len(data))
		}
	})
}

// TestUpgradedReceiveOwns: messages that follow each other in one buffer leave nothing of the one before.
func TestUpgradedReceiveOwns(t *testing.T) {
	var wire []byte
	messages := []*beaverv1.EnqueueStreamRequest{
		{Session: make([]byte, 16), Sequence: 1, Atomic: true, Jobs: []*beaverv1.NewJob{fullJob(), fullJob()}},
		{Sequence: 2, Jobs: []*beaverv1.NewJob{{Queue: "b", Payload: make([]byte, 2*upgradeBytesKept)}}},
		{Sequence: 3, Jobs: []*beaverv1.NewJob{{Queue: "c", Payload: []byte("3")}}},
	}
	for _, m := range messages {
		data := mustMarshal(t, m)
		wire = append(binary.BigEndian.AppendUint32(append(wire, 0), uint32(len(data))), data...)
	}
	c := &upgradedConn{in: bufio.NewReader(bytes.NewReader(wire)), cancel: func() {}, readMax: RequestBytesDefault}
	var in streamRequest
	for _, m := range messages {
		if err := c.Receive(&in); err != nil || in.err != nil {
			t.Fatal(err, in.err)
		}
		jobs := in.request.Jobs
		if in.request.Sequence != m.GetSequence() || in.request.Atomic != m.GetAtomic() || in.hasSession != (len(m.GetSession()) > 0) || len(jobs) != len(m.GetJobs()) {
			t.Fatalf("got %+v, want %v", in.request, m)
		}
		for i := range jobs {
			if jobs[i].Queue != m.GetJobs()[i].GetQueue() || !bytes.Equal(jobs[i].Spec.Payload, m.GetJobs()[i].GetPayload()) {
				t.Errorf("message %d, job %d: %+v", m.GetSequence(), i, jobs[i])
			}
		}
	}
	if cap(in.data) > upgradeBytesKept {
		t.Errorf("a small message left a buffer of %d bytes", cap(in.data))
	}
}

// BenchmarkUpgradedReceive takes messages of 128 jobs of 1 KiB from a connection; a figure is of one message.
func BenchmarkUpgradedReceive(b *testing.B) {
	m := &beaverv1.EnqueueStreamRequest{Sequence: 1}
	for range 128 {
		m.Jobs = append(m.Jobs, &beaverv1.NewJob{Queue: "bench", Kind: "bench", Payload: make([]byte, 1<<10)})
	}
	data := mustMarshal(b, m)
	wire := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
	source := bytes.NewReader(wire)
	c := &upgradedConn{in: bufio.NewReader(source), cancel: func() {}, readMax: RequestBytesDefault}
	var in streamRequest
	b.ReportAllocs()
	for b.Loop() {
		source.Reset(wire)
		if err := c.Receive(&in); err != nil || in.err != nil {
			b.Fatal(err, in.err)
		}
	}
}
