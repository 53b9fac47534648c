package beaver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver"
	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// doneBefore does what it is asked the first time. After that it has been done.
type doneBefore struct {
	beaverv1connect.UnimplementedClusterServiceHandler
	calls atomic.Int64
}

func (s *doneBefore) answer() error {
	if s.calls.Add(1) == 1 {
		return nil
	}
	return connect.NewError(connect.CodeFailedPrecondition, errors.New("that is so already"))
}

func (s *doneBefore) AddNode(context.Context, *connect.Request[beaverv1.AddNodeRequest]) (*connect.Response[beaverv1.AddNodeResponse], error) {
	return connect.NewResponse(&beaverv1.AddNodeResponse{}), s.answer()
}

func (s *doneBefore) RemoveNode(context.Context, *connect.Request[beaverv1.RemoveNodeRequest]) (*connect.Response[beaverv1.RemoveNodeResponse], error) {
	return connect.NewResponse(&beaverv1.RemoveNodeResponse{}), s.answer()
}

func (s *doneBefore) AddShards(context.Context, *connect.Request[beaverv1.AddShardsRequest]) (*connect.Response[beaverv1.AddShardsResponse], error) {
	return connect.NewResponse(&beaverv1.AddShardsResponse{}), s.answer()
}

// TestMembershipRepeated: the refusal of a repeat does not say that a change of the members was refused, since it may be the doing of the
// first try, whose answer was lost.
func TestMembershipRepeated(t *testing.T) {
	for method, change := range map[string]func(*beaver.Client) error{
		"/AddNode":    func(c *beaver.Client) error { _, err := c.AddNode(t.Context(), "10.0.0.4:7401", 0); return err },
		"/RemoveNode": func(c *beaver.Client) error { return c.RemoveNode(t.Context(), 3) },
		"/AddShards":  func(c *beaver.Client) error { _, err := c.AddShards(t.Context(), 1, 4); return err },
	} {
		t.Run(method[1:], func(t *testing.T) {
			service := &doneBefore{}
			mux := http.NewServeMux()
			mux.Handle(beaverv1connect.NewClusterServiceHandler(service))
			server := httptest.NewUnstartedServer(mux)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			c, err := beaver.NewClient(beaver.Config{Addr: server.URL, OnlyAddr: true, HTTPClient: &loseAnswer{
				Client: &http.Client{Transport: &http.Transport{Protocols: server.Config.Protocols}}, method: method,
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close(t.Context()) }()
			if err := change(c); !errors.Is(err, beaver.ErrOutcomeUnknown) || service.calls.Load() != 2 {
				t.Errorf("after %d calls: %v, want an unknown outcome", service.calls.Load(), err)
			}
			if err := change(c); !errors.Is(err, beaver.ErrFailedPrecondition) {
				t.Errorf("asked again: %v, want the refusal", err)
			}
		})
	}
}
