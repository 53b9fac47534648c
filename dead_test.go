package beaver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
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
			cfg := beaver.Config{}
			if tc.once {
				cfg.RetryFor = -1
			}
			c := clientOf(t, service, cfg)
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

// clientOf returns a client of a server that serves jobs so.
func clientOf(t *testing.T, service beaverv1connect.JobServiceHandler, cfg beaver.Config) *beaver.Client {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(beaverv1connect.NewJobServiceHandler(service))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	cfg.Addr, cfg.OnlyAddr = server.URL, true
	c, err := beaver.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// paged answers a retry of all dead jobs with one page after the other, and says for which it was asked.
type paged struct {
	beaverv1connect.UnimplementedJobServiceHandler
	pages  []*beaverv1.DeadResponse
	tokens []string
}

func (s *paged) RetryDead(_ context.Context, req *connect.Request[beaverv1.DeadRequest]) (*connect.Response[beaverv1.DeadResponse], error) {
	s.tokens = append(s.tokens, req.Msg.GetPageToken())
	return connect.NewResponse(s.pages[len(s.tokens)-1]), nil
}

// TestRetryAllDeadGoesOn: a retry of all dead jobs of a queue takes page after page, also when nothing of one was retried, and says how many were
// left. Servers that have no pages begin anew each time.
func TestRetryAllDeadGoesOn(t *testing.T) {
	held := []*beaverv1.JobError{{Code: "failed_precondition", Reason: "UNIQUE_KEY_HELD", Message: "job x holds the key"}}
	for name, c := range map[string]struct {
		pages  []*beaverv1.DeadResponse
		tokens []string
		count  int
		says   string // empty: nothing was left
	}{
		"nothing left": {[]*beaverv1.DeadResponse{{Count: 3, More: true, NextPageToken: "a"}, {Count: 1}}, []string{"", "a"}, 4, ""},
		"some left": {
			[]*beaverv1.DeadResponse{{PassedOver: 2, Errors: held, More: true, NextPageToken: "a"}, {Count: 1, PassedOver: 1, Errors: held, More: true, NextPageToken: "b"}, {Count: 2}},
			[]string{"", "a", "b"},
			3, "3 jobs stay dead, since their unique keys are not free; the first, job x",
		},
		"one left": {[]*beaverv1.DeadResponse{{Count: 1, PassedOver: 1, Errors: held}}, []string{""}, 1, "job x holds the key"},
		"an older server": {
			[]*beaverv1.DeadResponse{{Count: 2, PassedOver: 2, Errors: held, More: true}, {Count: 1, PassedOver: 3, Errors: held}},
			[]string{"", ""},
			3, "3 jobs stay dead",
		},
		"an older server that cannot go on": {[]*beaverv1.DeadResponse{{PassedOver: 2, Errors: held, More: true}}, []string{""}, 0, "2 jobs stay dead"},
	} {
		t.Run(name, func(t *testing.T) {
			service := &paged{pages: c.pages}
			n, err := clientOf(t, service, beaver.Config{}).RetryAllDead(t.Context(), "mail")
			if n != c.count || !slices.Equal(service.tokens, c.tokens) {
				t.Errorf("%d jobs by the pages %q", n, service.tokens)
			}
			if (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, beaver.ErrUniqueKeyHeld) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("it says %v, want %q", err, c.says)
			}
		})
	}
}
