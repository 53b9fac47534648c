package beaver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
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

// TestBareTLS: a TLS server gets its streams over HTTP/2 when it does not speak HTTP/1.1, and is asked only once for more.
func TestBareTLS(t *testing.T) {
	for _, tt := range []struct {
		name                   string
		offers                 []string // what the server speaks
		alert                  bool     // it fails handshakes with another alert
		bare, ordinary, denied bool
	}{
		{name: "HTTP/1.1", offers: []string{"h2", "http/1.1"}, bare: true},
		{name: "neither", bare: true},
		{name: "HTTP/2 alone", offers: []string{"h2-alone"}, ordinary: true, denied: true}, // "h2" is let pass by Go's own servers
		{name: "another alert", offers: []string{"http/1.1"}, alert: true, ordinary: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Upgrade", upgradeProtocol)
				w.WriteHeader(http.StatusSwitchingProtocols)
			}))
			var handshakes atomic.Int64
			s.TLS = &tls.Config{NextProtos: tt.offers, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				handshakes.Add(1)
				if tt.alert {
					return nil, errors.New("no")
				}
				return nil, nil
			}}
			s.Config.ErrorLog = log.New(io.Discard, "", 0)
			s.StartTLS()
			defer s.Close()
			s.TLS.NextProtos = tt.offers // StartTLS adds to an empty one
			d := newBareDialer(s.URL)
			d.tls.RootCAs = x509.NewCertPool()
			d.tls.RootCAs.AddCert(s.Certificate())
			for range 2 {
				var opened bool
				stream := newEitherStream(t.Context(), d, "/p", func(context.Context) ordinary {
					opened = true
					return nil
				})
				if err := stream.connect(); err != nil || opened != tt.ordinary || (stream.bare != nil) != tt.bare {
					t.Errorf("bare %v, over HTTP/2 %v, %v; want %v, %v", stream.bare != nil, opened, err, tt.bare, tt.ordinary)
				}
				if stream.bare != nil {
					_ = stream.bare.CloseResponse()
				}
			}
			if d.denied.Load() != tt.denied || tt.denied && handshakes.Load() != 1 {
				t.Errorf("after two streams: denied %v, %d handshakes; want %v", d.denied.Load(), handshakes.Load(), tt.denied)
			}
		})
	}
}

// TestBareTLSCertificate: a certificate that is not trusted is not HTTP/2's business: the error says what is wrong.
func TestBareTLSCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := newBareDialer(s.URL).dial(t.Context(), "/p")
	if _, ok := errors.AsType[unreachedError](err); !ok || !strings.Contains(err.Error(), "certificate") || errors.Is(err, errNoUpgrade) {
		t.Errorf("dial: %v", err)
	}
}
