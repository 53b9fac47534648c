package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/freeport"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/rpc"
)

// TestNobodyComesBeforeTheFounders: a new catalog knows no nodes until its first leader has recorded the founders. Whoever asks for a place
// or wishes for something before that is told to ask again, and comes behind them.
func TestNobodyComesBeforeTheFounders(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("0123456789abcdef", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	address, newcomer := freeport.Address(t), freeport.Address(t)
	s := &Server{opts: Options{
		DataDir: t.TempDir(), Listen: listenNowhere, Shards: 1, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		Peers: PeerOptions{Bootstrap: fmt.Sprintf("1=%s", address), Node: 1, SecretFile: secret},
	}.withDefaults()}
	s.logger, s.watch, s.front = s.opts.Logger, newWatch(nil), rpc.New(rpc.Options{Logger: s.opts.Logger})
	p, err := s.openPeers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	options := s.engineOptions()
	if err := p.configure(t.Context(), &options); err != nil {
		t.Fatal(err)
	}
	options.Hosted = func(h *host.Host) { p.ran(); p.host.Store(h) } // and no keeper that would record the founder before we ask
	options.Joined = nil                                             // nor a wait for it
	e, err := engine.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(e.Close(context.Background()), p.close()); err != nil {
			t.Error(err)
		}
	}()

	join := &founding.Join{Nonce: cluster.Nonce{4}, Address: newcomer, Version: "test"}
	if answer := p.admit(t.Context(), join); answer.Joined != nil || !answer.Later || answer.Refused != errNotFounded.Error() {
		t.Errorf("a node that comes before the founder is known: %+v", answer)
	}
	for _, w := range []wish{{Kind: wishAdd, Address: newcomer}, {Kind: wishGrow, Count: 1}} {
		if g := p.grant(t.Context(), &w); !g.Later || g.Refused != errNotFounded.Error() {
			t.Errorf("wish %q before the founder is known: %+v", w.Kind, g)
		}
	}
	p.keeper.turn()
	answer := p.admit(t.Context(), join)
	if answer.Joined == nil || answer.Joined.Node != 2 || len(answer.Joined.Members) != 1 || answer.Joined.Members[0].Address != address {
		t.Errorf("a node that comes when the founder is known: %+v", answer)
	}
}

// TestFoundersAreNamedAtOnce: whoever finds a new cluster's node ready is told of all its founders.
func TestFoundersAreNamedAtOnce(t *testing.T) {
	for _, count := range []int{1, 3} {
		var list []string
		for i := range count {
			list = append(list, fmt.Sprintf("%d=%s", i+1, freeport.Address(t)))
		}
		options := make([]Options, count)
		for i := range options {
			options[i] = Options{
				DataDir: t.TempDir(), Listen: listenNowhere, Shards: 1, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
				Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1)},
			}
		}
		nodes := openTogether(t, options...)
		for i, n := range nodes {
			about, err := n.peers.Describe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(about.Nodes) != count {
				t.Errorf("node %d of %d says at once: %v", i+1, count, about.Nodes)
			}
		}
		closeAll(t, nodes...)
	}
}
