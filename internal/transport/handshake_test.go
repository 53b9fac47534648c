package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func TestJudge(t *testing.T) {
	good := hello{protocolVersion, forCalls, testCluster, 1, 2}
	yes := func(uint64) bool { return true }
	no := func(uint64) bool { return false }
	for _, c := range []struct {
		name         string
		edit         func(h *hello)
		knows, names func(uint64) bool
		want         verdict
	}{
		{"good", func(*hello) {}, yes, yes, accepted},
		{"version", func(h *hello) { h.version++ }, yes, yes, otherVersion},
		{"version before all else", func(h *hello) { *h = hello{version: 2} }, no, no, otherVersion},
		{"cluster", func(h *hello) { h.cluster++ }, yes, yes, otherCluster},
		{"certificate", func(*hello) {}, yes, no, otherCertificate},
		{"own id", func(h *hello) { h.from = 2 }, yes, yes, ownNode},
		{"not the dialled one", func(h *hello) { h.to = 3 }, yes, yes, otherNode},
		{"stranger", func(*hello) {}, no, yes, stranger},
		{"no purpose", func(h *hello) { h.purpose = 0 }, yes, yes, unknownPurpose},
		{"unknown purpose", func(h *hello) { h.purpose = purposeEnd }, yes, yes, unknownPurpose},
	} {
		h := good
		c.edit(&h)
		if v := h.judge(testCluster, 2, c.knows, c.names); v != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, v, c.want)
		}
	}
}

func TestWelcomeIsChecked(t *testing.T) {
	h := hello{protocolVersion, forMessages, testCluster, 1, 2}
	for _, c := range []struct {
		name string
		w    welcome
		want error
	}{
		{"good", welcome{protocolVersion, accepted, testCluster, 2}, nil},
		{"other version", welcome{protocolVersion + 1, accepted, testCluster, 2}, ErrOtherVersion},
		{"accepted by another cluster", welcome{protocolVersion, accepted, testCluster + 1, 2}, ErrOtherCluster},
		{"accepted by another node", welcome{protocolVersion, accepted, testCluster, 3}, ErrOtherNode},
		{"refused", welcome{protocolVersion, stranger, testCluster, 2}, ErrStranger},
		{"refused by another cluster", welcome{protocolVersion, otherCluster, testCluster + 1, 3}, ErrOtherCluster},
		{"unknown verdict", welcome{protocolVersion, 200, testCluster, 2}, ErrNoPeer},
	} {
		if err := c.w.check(h); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestWrongHandshakes: whatever is wrong, both sides say what, and nothing reaches a handler.
func TestWrongHandshakes(t *testing.T) {
	other, authority := Secret(bytes.Repeat([]byte("other"), 10)), newAuthority(t)
	files1, files := authority.files("one", byURI(testCluster, 1)), authority.files("two", byURI(testCluster, 2))
	for _, c := range []struct {
		name             string
		dialler, dialled func(*Config)
		to               uint64 // whom node 1 takes node 2 for
		unknown          bool   // to node 2
		want             error  // at the dialler
		wantText         string
		wantRemote       string // in the log of the dialled
	}{
		{name: "another cluster", dialled: func(c *Config) { c.Cluster++ }, want: ErrOtherCluster, wantRemote: ErrOtherCluster.Error()},
		{name: "another node", to: 3, want: ErrOtherNode, wantRemote: ErrOtherNode.Error()},
		{name: "a stranger", unknown: true, want: ErrStranger, wantRemote: ErrStranger.Error()},
		{name: "its own id", dialled: func(c *Config) { c.Node = 1 }, want: ErrOwnNode, wantRemote: ErrOwnNode.Error()},
		{
			name: "another secret", dialler: func(c *Config) { c.Security = Secret(testSecret()) }, dialled: func(c *Config) { c.Security = other },
			want: ErrSecurity, wantText: "the other node has another secret", wantRemote: "another secret, cluster or authority",
		},
		{
			name: "another cluster with the secret", dialler: func(c *Config) { c.Security = Secret(testSecret()) },
			dialled: func(c *Config) { c.Security = Secret(testSecret()); c.Cluster++ },
			want:    ErrSecurity, wantText: "of another cluster, 00000000000000ac, and this one of 00000000000000ab", wantRemote: "bad certificate",
		},
		{
			name: "another node with the secret", to: 3, dialler: func(c *Config) { c.Security = Secret(testSecret()) },
			dialled: func(c *Config) { c.Security = Secret(testSecret()) }, want: ErrOtherNode, wantRemote: ErrOtherNode.Error(),
		},
		{
			name: "security at the dialler only", dialler: func(c *Config) { c.Security = other },
			want: errBareThere, wantText: "the other one has neither", wantRemote: errBareHere.Error(),
		},
		{
			name: "security at the dialled only", dialled: func(c *Config) { c.Security = other },
			want: errBareHere, wantText: "this one has neither", wantRemote: errBareThere.Error(),
		},
		{
			name: "a secret at the dialler, certificates at the dialled", dialler: func(c *Config) { c.Security = other }, dialled: func(c *Config) { c.Security = files },
			want: ErrSecurity, wantText: "this node has a secret, and the other one certificates", wantRemote: "bad certificate",
		},
		{
			name: "certificates at the dialler, a secret at the dialled", dialler: func(c *Config) { c.Security = files1 }, dialled: func(c *Config) { c.Security = other },
			want: ErrSecurity, wantText: "this node has certificates of an authority, and the other one a secret", wantRemote: "bad certificate",
		},
		{
			name: "certificates of two authorities", dialler: func(c *Config) { c.Security = files1 },
			dialled: func(c *Config) { c.Security = newAuthority(t).files("foreign", byURI(testCluster, 2)) },
			want:    ErrSecurity, wantText: "not of this cluster's authority", wantRemote: "bad certificate",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, h1, h2, logs := newPipes(), newRecord(), newRecord(), newLogs()
			one := p.node(t, 1, h1, c.dialler)
			two := p.node(t, 2, h2, func(config *Config) {
				config.Logger = logs.logger()
				if c.dialled != nil {
					c.dialled(config)
				}
			})
			if !c.unknown && two.config.Node == 2 {
				setPeer(t, two, 1, "node-1")
			}
			to := uint64(2)
			if c.to != 0 {
				to = c.to
			}
			setPeer(t, one, to, "node-2")
			one.Send(to, 1, []*raftpb.Message{heartbeat(1)})
			err := h1.failure()
			var handshake *HandshakeError
			if !errors.As(err, &handshake) || !handshake.Dialled || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.wantText) {
				t.Errorf("the dialler says %q, want %v with %q", err, c.want, c.wantText)
			}
			if text := logs.await("refused a connection"); !strings.Contains(text, c.wantRemote) {
				t.Errorf("the dialled says %q, want %q", text, c.wantRemote)
			}
			if two.Stats().Refused == 0 || len(h2.arrived()) > 0 || h2.ups() > 0 || h1.ups() > 0 {
				t.Errorf("something happened: %+v, %+v, %+v", two.Stats(), h1, h2)
			}
		})
	}
}

// TestCertificateOfAnotherNode: a member cannot pass itself off as another member.
func TestCertificateOfAnotherNode(t *testing.T) {
	p, h1, h2, logs := newPipes(), newRecord(), newRecord(), newLogs()
	secure := func(c *Config) { c.Security, c.Logger = Secret(testSecret()), logs.logger() }
	one, two := p.node(t, 1, h1, secure), p.node(t, 2, h2, secure)
	setPeer(t, two, 3, "node-3")
	one.identity.Store(&identity{testCluster, 3}) // it keeps its certificate
	setPeer(t, one, 2, "node-2")
	one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
	err := h1.failure()
	if !errors.Is(err, ErrOtherCertificate) {
		t.Errorf("the dialler says %v", err)
	}
	if text := logs.await("refused a connection"); !strings.Contains(text, ErrOtherCertificate.Error()) {
		t.Errorf("the dialled says %q", text)
	}
}

// TestDialledUnderAnotherName: and it is not taken for another one either.
func TestDialledUnderAnotherName(t *testing.T) {
	p, h1, h2 := newPipes(), newRecord(), newRecord()
	secure := func(c *Config) { c.Security = Secret(testSecret()) }
	one, two := p.node(t, 1, h1, secure), p.node(t, 2, h2, secure)
	two.identity.Store(&identity{testCluster, 3}) // it keeps its certificate
	setPeer(t, two, 1, "node-1")
	setPeer(t, one, 3, "node-2")
	one.Send(3, 1, []*raftpb.Message{heartbeat(1)})
	if err := h1.failure(); !errors.Is(err, ErrOtherCertificate) {
		t.Errorf("the dialler says %v", err)
	}
}

// TestNoPeer: what speaks another protocol gets nothing.
func TestNoPeer(t *testing.T) {
	h, logs := newRecord(), newLogs()
	p := newPipes()
	p.node(t, 2, h, func(c *Config) { c.Logger = logs.logger() })
	c, err := p.dial(t.Context(), "node-2")
	if err != nil {
		t.Fatal(err)
	}
	request := "GET / HTTP/1.1\r\nHost: beaver.example\r\nAccept: */*\r\n\r\n"
	if _, err := io.WriteString(c, request[:helloBytes]); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(c); len(answer) > 0 {
		t.Fatalf("it was answered %q", answer)
	}
	if text := logs.await("refused a connection"); !strings.Contains(text, ErrNoPeer.Error()) {
		t.Fatal(text)
	}
}

// TestDiallingNoPeer: and what answers in another protocol is not talked to.
func TestDiallingNoPeer(t *testing.T) {
	p, h := newPipes(), newRecord()
	l := p.listen("node-2")
	one := p.node(t, 1, h, nil)
	setPeer(t, one, 2, "node-2")
	one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.ReadFull(c, make([]byte, helloBytes))
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
		_ = c.Close()
	}()
	err = h.failure()
	if !errors.Is(err, ErrNoPeer) {
		t.Fatal(err)
	}
}

func TestInsecureIsLocal(t *testing.T) {
	for address, want := range map[net.Addr]bool{
		&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}:   true,
		&net.TCPAddr{IP: net.IPv4(127, 9, 9, 9)}:   true,
		&net.TCPAddr{IP: net.IPv6loopback}:         true,
		&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}:    false,
		&net.TCPAddr{IP: net.IPv4zero}:             false,
		&net.TCPAddr{IP: net.IPv6unspecified}:      false,
		&net.TCPAddr{}:                             false,
		&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}:   false,
		&net.UnixAddr{Name: "socket", Net: "unix"}: true,
		pipeAddr("node-1"):                         true,
	} {
		if local(address) != want {
			t.Errorf("%v %v: local is not %v", address.Network(), address, want)
		}
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nobody uses it
	if _, err := New(Config{Cluster: 1, Node: 1, Listener: l}, newRecord()); !errors.Is(err, ErrSecurity) {
		t.Errorf("a listener for everyone without security: %v", err)
	}
	// The listener says that it is local, and the connections are not.
	p, h, logs := newPipes(), newRecord(), newLogs()
	far := farAway{p.listen("node-2")}
	two, err := New(Config{Cluster: testCluster, Node: 2, Listener: far, Logger: logs.logger()}, newRecord())
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close() //nolint:errcheck // a listener in memory
	one := p.node(t, 1, h, func(c *Config) {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			c, err := p.dial(ctx, address)
			return farConn{c}, err
		}
	})
	setPeer(t, one, 2, "node-2")
	setPeer(t, two, 1, "node-1")
	one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
	err = h.failure()
	if !errors.Is(err, errNotLocal) {
		t.Errorf("the dialler says %v", err)
	}
	if text := logs.await("refused a connection"); !strings.Contains(text, errNotLocal.Error()) {
		t.Errorf("the dialled says %q", text)
	}
}

type farAway struct{ *pipeListener }

func (f farAway) Accept() (net.Conn, error) {
	c, err := f.pipeListener.Accept()
	if err != nil {
		return nil, err
	}
	return farConn{c}, nil
}

type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

func FuzzHandshake(f *testing.F) {
	f.Add(hello{protocolVersion, forCalls, testCluster, 1, 2}.append(nil))
	f.Add(welcome{protocolVersion, stranger, testCluster, 2}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHello(b); err == nil && h.purpose != purposeEnd && !bytes.Equal(h.append(nil), b) {
			t.Fatalf("%x is read as %+v", b, h)
		}
		if w, err := decodeWelcome(b); err == nil && b[13]|b[14]|b[15] == 0 && !bytes.Equal(w.append(nil), b) {
			t.Fatalf("%x is read as %+v", b, w)
		}
		// Nothing but the whole hello of a known node gets anywhere.
		in := struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard}
		h, err := receive(in, testCluster, 2, func(h hello) verdict {
			return h.judge(testCluster, 2, func(node uint64) bool { return node == 1 }, func(uint64) bool { return true })
		})
		if err == nil && (h.version != protocolVersion || h.cluster != testCluster || h.from != 1 || h.to != 2) {
			t.Fatalf("%+v was accepted", h)
		}
	})
}
