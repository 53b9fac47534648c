package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// introducing starts a transport that knows no cluster, and answers introductions with what it knows of the other side.
func introducing(t *testing.T, node uint64, h Handler, security Security) (*Transport, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(Config{
		Node: node, Listener: listener, Security: security,
		Introduce: func(_ context.Context, from Introduced, body []byte) ([]byte, error) {
			if string(body) == "refuse" {
				return nil, errors.New("refused")
			}
			return fmt.Appendf(nil, "%s: 1 %v, 2 %v", body, from.Names(1), from.Names(2)), nil
		},
	}, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr, listener.Addr().String()
}

// TestIntroductions: nodes that know no cluster introduce themselves, get an identity, and are peers.
func TestIntroductions(t *testing.T) {
	a := newAuthority(t)
	for name, c := range map[string]struct {
		one, two Security
		want     string
	}{
		"insecure": {Insecure(), Insecure(), "hello: 1 true, 2 true"},
		"secret":   {Secret(testSecret()), Secret(testSecret()), "hello: 1 true, 2 true"},
		"files":    {a.files("one", byName("node-1.beaver")), a.files("two", byURI(testCluster, 2)), "hello: 1 true, 2 false"},
	} {
		t.Run(name, func(t *testing.T) {
			h1, h2 := newRecord(), newRecord()
			one, address1 := introducing(t, 1, h1, c.one)
			two, address2 := introducing(t, 2, h2, c.two)
			answer, by, err := one.Introduce(t.Context(), address2, []byte("hello"))
			if err != nil || string(answer) != c.want || !by.Names(2) {
				t.Fatalf("%q, %v", answer, err)
			}
			if _, _, err := one.Introduce(t.Context(), address2, []byte("refuse")); err == nil {
				t.Fatal("a refusal has an answer")
			}
			if _, _, err := one.Introduce(t.Context(), address2, make([]byte, IntroductionBytesMax)); err == nil {
				t.Fatal("an answer over the limit was sent")
			}
			if _, _, err := one.Introduce(t.Context(), address2, make([]byte, IntroductionBytesMax+1)); !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			if err := one.SetPeer(2, address2); err == nil {
				t.Fatal("a node that does not know who it is took a peer")
			}
			for node, tr := range map[uint64]*Transport{1: one, 2: two} {
				if err := tr.Identify(testCluster, node); err != nil {
					t.Fatal(err)
				}
				if err := tr.Identify(testCluster, node); err == nil {
					t.Fatal("an identity was given twice")
				}
			}
			setPeer(t, one, 2, address2)
			setPeer(t, two, 1, address1)
			one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
			h2.until(func() bool { return len(h2.messages) == 1 })
			if answer, _, err := two.Introduce(t.Context(), address1, []byte("again")); err != nil || !bytes.HasPrefix(answer, []byte("again")) {
				t.Fatalf("%q, %v", answer, err)
			}
		})
	}
}

// TestStrangersAreNotIntroduced: whoever lacks the secret, or asks a node that expects nobody, gets no answer.
func TestStrangersAreNotIntroduced(t *testing.T) {
	_, address := introducing(t, 1, newRecord(), Secret(testSecret()))
	stranger, _ := introducing(t, 2, newRecord(), Secret(bytes.Repeat([]byte("another secret"), 5)))
	if _, _, err := stranger.Introduce(t.Context(), address, []byte("hello")); !errors.Is(err, ErrSecurity) {
		t.Fatal(err)
	}
	_, closed := tcp(t, 3, newRecord(), Insecure())
	plain, _ := introducing(t, 2, newRecord(), Insecure())
	if _, _, err := plain.Introduce(t.Context(), closed, []byte("hello")); err == nil {
		t.Fatal("a node that expects nobody answered")
	}
}

// TestOnlyOneHasSecurity: over real connections too, a node that introduces itself is told which of both sides lacks security, whatever it
// wanted to say. What talks neither way is no peer.
func TestOnlyOneHasSecurity(t *testing.T) {
	files := newAuthority(t).files("two", byName("node-2.beaver"))
	for name, c := range map[string]struct {
		one, two Security
		want     error
	}{
		"secret there":       {Insecure(), Secret(testSecret()), errBareHere},
		"certificates there": {Insecure(), files, errBareHere},
		"secret here":        {Secret(testSecret()), Insecure(), errBareThere},
	} {
		t.Run(name, func(t *testing.T) {
			one, _ := introducing(t, 1, newRecord(), c.one)
			_, address := introducing(t, 2, newRecord(), c.two)
			for _, body := range [][]byte{[]byte("hello"), nil, make([]byte, IntroductionBytesMax)} {
				if _, _, err := one.Introduce(t.Context(), address, body); !errors.Is(err, c.want) || !errors.Is(err, ErrSecurity) {
					t.Errorf("%d bytes: %v", len(body), err)
				}
			}
		})
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for _, security := range []Security{Insecure(), Secret(testSecret())} {
		tr, _ := introducing(t, 1, newRecord(), security)
		if _, _, err := tr.Introduce(t.Context(), web.Listener.Addr().String(), []byte("hello")); !errors.Is(err, ErrNoPeer) {
			t.Errorf("a web server: %v", err)
		}
	}
}

// TestUnknownIdentityTakesNoPeer: before a node knows who it is, what would be a peer is refused.
func TestUnknownIdentityTakesNoPeer(t *testing.T) {
	for name, security := range map[string]Security{"insecure": Insecure(), "secret": Secret(testSecret())} {
		t.Run(name, func(t *testing.T) {
			_, address := introducing(t, 1, newRecord(), security)
			h := newRecord()
			two, _ := tcp(t, 2, h, security)
			setPeer(t, two, 1, address)
			two.Send(1, 1, []*raftpb.Message{heartbeat(1)})
			if err := h.failure(); name == "insecure" && !errors.Is(err, ErrOtherCluster) || err == nil {
				t.Fatal(err)
			}
		})
	}
}
