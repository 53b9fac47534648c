package beaver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver"
	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// leaderless has no leader for the shard of one job, but for the last of some calls.
type leaderless struct {
	beaverv1connect.UnimplementedJobServiceHandler
	until, calls int
	asked        [][]string
}

func (s *leaderless) RetryDead(_ context.Context, req *connect.Request[beaverv1.DeadRequest]) (*connect.Response[beaverv1.DeadResponse], error) {
	s.calls++
	s.asked = append(s.asked, req.Msg.GetIds())
	res := &beaverv1.DeadResponse{}
	for i, id := range req.Msg.GetIds() {
		switch {
		case id == "lives":
			res.Errors = append(res.Errors, &beaverv1.JobError{Index: uint32(i), Code: "failed_precondition", Message: "it is not dead"})
		case id == "away" && s.calls < s.until:
			res.Errors = append(res.Errors, &beaverv1.JobError{Index: uint32(i), Code: "unavailable", Message: "nobody leads the shard"})
		}
	}
	return connect.NewResponse(res), nil
}

// TestDeadRepeated: the jobs of a call whose shard has no leader at the moment are asked for again, and no others.
func TestDeadRepeated(t *testing.T) {
	for _, tc := range []struct {
		name  string
		once  bool
		calls int
		want  error
	}{
		{"repeated", false, 3, nil},
		{"not repeated", true, 1, beaver.ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			service := &leaderless{until: 3}
			mux := http.NewServeMux()
			mux.Handle(beaverv1connect.NewJobServiceHandler(service))
			server := httptest.NewUnstartedServer(mux)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			cfg := beaver.Config{Addr: server.URL, OnlyAddr: true}
			if tc.once {
				cfg.RetryFor = -1
			}
			c, err := beaver.NewClient(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close(t.Context()) }()
			errs, err := c.RetryDead(t.Context(), "dead", "away", "lives")
			if err != nil || errs[0] != nil || !errors.Is(errs[2], beaver.ErrFailedPrecondition) {
				t.Fatalf("%v, %v", errs, err)
			}
			if (errs[1] != nil) != (tc.want != nil) || tc.want != nil && !errors.Is(errs[1], tc.want) || service.calls != tc.calls {
				t.Errorf("after %d calls %v, want %v", service.calls, errs[1], tc.want)
			}
			for _, asked := range service.asked[1:] {
				if len(asked) != 1 || asked[0] != "away" {
					t.Errorf("asked again: %v", asked)
				}
			}
		})
	}
}
