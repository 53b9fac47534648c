package beaver

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestEndOf: the end of a bare stream is what it would be over HTTP/2: io.EOF, or an error that came over the wire.
func TestEndOf(t *testing.T) {
	if err := endOf([]byte("{}")); !errors.Is(err, io.EOF) {
		t.Errorf("a good end: %v", err)
	}
	err := endOf([]byte(`{"error":{"code":"not_found","message":"gone","details":[{"type":"beaver.v1.ErrorInfo","value":"CgtXT1JLRVJfTE9TVA"}]}}`))
	if !connect.IsWireError(err) {
		t.Errorf("%v did not come over the wire", err)
	}
	if e := asError(err); e == nil || e.Code != CodeNotFound || e.Reason != reasonWorkerLost || e.Message != "gone" {
		t.Errorf("the error is %+v", e)
	}
	if e := asError(endOf([]byte(`{"error":{"code":"brand_new","message":"m"}}`))); e == nil || e.Code != CodeUnknown {
		t.Errorf("a code of a newer server: %+v", e)
	}
	if e := asError(endOf([]byte("nonsense"))); e == nil || e.Code != CodeInternal {
		t.Errorf("nonsense: %+v", e)
	}
}

func FuzzEndOf(f *testing.F) {
	f.Add([]byte("{}"))
	f.Add([]byte(`{"error":{"code":"not_found","message":"gone","details":[{"type":"beaver.v1.ErrorInfo","value":"CgtXT1JLRVJfTE9TVA"}]}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		if endOf(message) == nil {
			t.Error("an end is no error")
		}
	})
}

// FuzzBareReceive: whatever the server sends, a bare stream ends, and takes no more memory than came.
func FuzzBareReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x02\x08\x01\x02\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x03\xff\xff\xffshort"))
	f.Add([]byte("\x00\xff\xff\xff\xff"))
	f.Add([]byte("\x07\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &bareStream{in: bufio.NewReader(bytes.NewReader(data))}
		for n := 0; ; n++ {
			m := new(beaverv1.EnqueueStreamResponse)
			if err := s.receive(m); err != nil {
				break
			}
			if n*envelopeBytes > len(data) {
				t.Fatalf("%d messages from %d bytes", n, len(data))
			}
		}
		if cap(s.body) > 2*(len(data)+bareBufferBytes) {
			t.Errorf("%d bytes of memory for %d", cap(s.body), len(data))
		}
	})
}

// TestUpgradeAnswers: what answers an upgrade with something else is asked no more, and what breaks is.
func TestUpgradeAnswers(t *testing.T) {
	for answer, want := range map[string]struct{ denied, ok bool }{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: beaver-stream\r\n\r\n": {ok: true},
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n":              {denied: true},
		"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n":      {},
		"\x00\x00\x12\x04\x00\x00\x00\x00\x00 and other settings\r\n\r\n":    {denied: true},
		"HTTP/1.1 101 Switching Protocols\r\nUpg":                            {},
		"": {},
	} {
		client, server := net.Pipe()
		go func() {
			_, _ = http.ReadRequest(bufio.NewReader(server)) // what it says is of no matter
			_, _ = io.WriteString(server, answer)            // the client may have heard enough
			if !want.ok {
				_ = server.Close()
			}
		}()
		s := &bareStream{conn: client, in: bufio.NewReader(client)}
		err := s.upgrade("test", "/p")
		if (err == nil) != want.ok || errors.Is(err, errNoUpgrade) != want.denied {
			t.Errorf("%q: %v", answer, err)
		}
		_, _ = client.Close(), server.Close()
	}
}
