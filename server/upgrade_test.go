package server

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// bare is a client's side of an upgraded connection, byte by byte.
type bare struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// upgrade asks for a bare stream and fails unless it gets one.
func upgrade(t *testing.T, n *testNode, procedure string) *bare {
	t.Helper()
	conn, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it first
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := &bare{t: t, conn: conn, in: bufio.NewReader(conn)}
	b.write("POST " + procedure + " HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: beaver-stream\r\nContent-Length: 0\r\n\r\n")
	res, err := http.ReadResponse(b.in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Date") == "" {
		t.Fatalf("upgrade: %+v, %v", res, err)
	}
	return b
}

func (b *bare) write(s string) {
	b.t.Helper()
	if _, err := io.WriteString(b.conn, s); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bare) send(flags byte, message []byte) {
	b.t.Helper()
	b.write(string(append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(message))), message...)))
}

func (b *bare) sendProto(m proto.Message) {
	b.t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(0, data)
}

func (b *bare) receive() (flags byte, message []byte) {
	b.t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(b.in, head[:]); err != nil {
		b.t.Fatal(err)
	}
	message = make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, err := io.ReadFull(b.in, message); err != nil {
		b.t.Fatal(err)
	}
	return head[0], message
}

func (b *bare) wantEnd(text string) {
	b.t.Helper()
	flags, message := b.receive()
	if flags != 2 || !strings.Contains(string(message), text) {
		b.t.Errorf("the stream goes on with flags %d, %q; want its end with %q", flags, message, text)
	}
	if _, err := b.in.ReadByte(); err != io.EOF {
		b.t.Errorf("after the end: %v; want the connection closed", err)
	}
}

func oneJob(sequence uint64) *beaverv1.EnqueueStreamRequest {
	return &beaverv1.EnqueueStreamRequest{Sequence: sequence, Jobs: []*beaverv1.NewJob{{Queue: "q", Payload: []byte("x")}}}
}

func TestUpgradedEnqueueStream(t *testing.T) {
	n := newTestNode(t, Options{})
	b := upgrade(t, n, beaverv1connect.JobServiceEnqueueStreamProcedure)
	b.sendProto(oneJob(1))
	flags, message := b.receive()
	var answer beaverv1.EnqueueStreamResponse
	if err := proto.Unmarshal(message, &answer); err != nil || flags != 0 || answer.GetThrough() != 1 || len(answer.GetIds()) != 10 {
		t.Fatalf("answer: flags %d, %v, %v", flags, &answer, err)
	}
	b.send(2, []byte("{}"))
	b.wantEnd("{}")
}

func TestUpgradedStreamRefusals(t *testing.T) {
	n := newTestNode(t, Options{RequestBytesMax: 1 << 20})
	enqueue := beaverv1connect.JobServiceEnqueueStreamProcedure
	for _, tt := range []struct {
		name, procedure, want string
		say                   func(*bare)
	}{
		{"flags", enqueue, "envelope flags 7 are not understood", func(b *bare) { b.send(7, nil) }},
		{"size", enqueue, "at most 1048576 are taken", func(b *bare) { b.write("\x00\x7f\xff\xff\xff") }},
		{"not protobuf", enqueue, "invalid_argument", func(b *bare) { b.send(0, []byte("\xff\xff\xff")) }},
		{"no jobs", enqueue, "want at least one job", func(b *bare) { b.sendProto(&beaverv1.EnqueueStreamRequest{Sequence: 1}) }},
		{"no hello", beaverv1connect.JobServiceWorkProcedure, "the first message of a stream says who the worker is", func(b *bare) { b.sendProto(&beaverv1.WorkRequest{}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := upgrade(t, n, tt.procedure)
			tt.say(b)
			b.wantEnd(tt.want)
		})
	}
}

// TestUpgradeOfACall: a path that is no stream is not upgraded.
func TestUpgradeOfACall(t *testing.T) {
	n := newTestNode(t, Options{})
	req, err := http.NewRequest(http.MethodPost, n.url+beaverv1connect.JobServiceEnqueueProcedure, strings.NewReader(`{"queue":"q"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "beaver-stream")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // only the status counts
	if res.StatusCode != http.StatusOK {
		t.Errorf("status %s; want the call answered as any other", res.Status)
	}
}

// TestCloseEndsUpgradedStreams: a client that says nothing hears that the node stops.
func TestCloseEndsUpgradedStreams(t *testing.T) {
	n := newTestNode(t, Options{})
	b := upgrade(t, n, beaverv1connect.JobServiceEnqueueStreamProcedure)
	b.sendProto(oneJob(1))
	b.receive()
	closed := make(chan error, 1)
	go func() { closed <- n.Close(t.Context()) }()
	flags, message := b.receive()
	if flags != 2 || !strings.Contains(string(message), "the node is stopping") {
		t.Errorf("flags %d, %q; want the end, for the node stops", flags, message)
	}
	_ = b.conn.Close() // the server need not wait for us
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
