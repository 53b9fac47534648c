package beaver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// fakeCluster is nodes that a client may ask, each at http://<name>.
type fakeCluster struct {
	mu        sync.Mutex
	members   []*beaverv1.ClusterNode
	shards    []*beaverv1.ClusterShard
	down      map[string]bool // refuse connections
	strangers map[string]bool // are of another cluster
	stalled   map[string]bool // do not answer
	describes int
	probes    map[string]int
}

const fakeClusterID = "00000000000000aa"

func newFakeCluster(names ...string) *fakeCluster {
	f := &fakeCluster{down: map[string]bool{}, strangers: map[string]bool{}, stalled: map[string]bool{}, probes: map[string]int{}}
	for i, name := range names {
		f.members = append(f.members, &beaverv1.ClusterNode{Id: uint64(i + 1), State: "active", PublicAddress: name})
	}
	return f
}

var errRefused = &net.OpError{Op: "dial", Err: errors.New("connection refused")}

func (f *fakeCluster) describe(_ context.Context, n *node) (*beaverv1.GetClusterResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.describes++
	if f.down[n.url.Host] {
		return nil, errRefused
	}
	return &beaverv1.GetClusterResponse{ClusterId: fakeClusterID, Nodes: f.members, Shards: f.shards}, nil
}

func (f *fakeCluster) probe(ctx context.Context, n *node) (*beaverv1.GetStatusResponse, error) {
	name := n.url.Host
	f.mu.Lock()
	f.probes[name]++
	stalled := f.stalled[name]
	f.mu.Unlock()
	if stalled {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	res := &beaverv1.GetStatusResponse{ClusterId: fakeClusterID, Ready: true}
	for _, m := range f.members {
		if m.GetPublicAddress() == name {
			res.NodeId = m.GetId()
		}
	}
	if f.strangers[name] {
		res.ClusterId = "00000000000000bb"
	}
	if f.down[name] {
		return nil, errRefused
	}
	return res, nil
}

func (f *fakeCluster) set(name string, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[name] = down
}

func (f *fakeCluster) stall(name string, stalled bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled[name] = stalled
}

func (f *fakeCluster) probed(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.probes[name]
}

func (f *fakeCluster) nodes(t *testing.T, addr string) *nodes {
	t.Helper()
	s, err := newNodes(addr, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.describe, s.probe = f.describe, f.probe
	t.Cleanup(s.close)
	return s
}

// picks are the nodes that streams go to.
func picks(s *nodes) map[string]bool {
	seen := map[string]bool{}
	for range 200 {
		seen[s.forStream(nil).url.Host] = true
	}
	return seen
}

func wantPicks(t *testing.T, s *nodes, want string) {
	t.Helper()
	got := picks(s)
	for name := range strings.SplitSeq(want, " ") {
		if !got[name] {
			t.Errorf("streams go to %v, and not to %s", got, name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("streams go to %v, too", got)
	}
}

// TestNodesLearn: from one node a client learns of those that serve and that it can reach as members of the same cluster.
func TestNodesLearn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster("a", "b", "0.0.0.0:7400", "[::]:7400", "stranger", "unreachable", "gone", "joins", "", "drained")
		f.strangers["stranger"], f.down["unreachable"] = true, true
		f.members[6].State, f.members[7].State, f.members[9].State = "removed", "joining", "draining"
		s := f.nodes(t, "a")
		s.use()
		synctest.Wait()
		wantPicks(t, s, "a b")
		s.failed(s.find(newNode("a", "http").url))
		wantPicks(t, s, "b")
		s.failed(s.find(newNode("b", "http").url))
		wantPicks(t, s, "drained")

		// Nobody asks while nobody uses it.
		asked := f.describes
		time.Sleep(time.Hour)
		if f.describes != asked {
			t.Errorf("an idle client asked %d times", f.describes-asked)
		}
		s.use()
		synctest.Wait()
		wantPicks(t, s, "a b")
		f.mu.Lock()
		f.members[1].State = "removed"
		f.mu.Unlock()
		time.Sleep(2 * learnEvery)
		s.use()
		synctest.Wait()
		wantPicks(t, s, "a")
	})
}

// TestNodesDown: a node that failed gets nothing until it answers again, and is not asked more and more often meanwhile.
func TestNodesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster("a", "b", "c")
		f.set("b", true)
		s := f.nodes(t, "a,b,c")
		s.use()
		synctest.Wait()
		began := f.probes["b"]
		const minutes = 60
		for range minutes * 60 {
			time.Sleep(time.Second)
			if s.forStream(nil).url.Host == "b" {
				t.Fatal("a stream goes to a node that is down")
			}
		}
		if got := f.probes["b"] - began; got < minutes || got > 3*minutes {
			t.Errorf("it was probed %d times in %d minutes", got, minutes)
		}
		f.set("b", false)
		time.Sleep(2 * learnEvery)
		s.use()
		synctest.Wait()
		wantPicks(t, s, "a b c")
		s.failed(s.find(newNode("c", "http").url))
		time.Sleep(2 * learnAgain)
		s.use()
		synctest.Wait()
		wantPicks(t, s, "a b c")
	})
}

// TestNodesForCall: a call about a job goes to the leader of its shard, while that is up, and any other always to the same node.
func TestNodesForCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster("a", "b", "c")
		f.shards = []*beaverv1.ClusterShard{{Id: 1, LeaderNodeId: 2}, {Id: 2, LeaderNodeId: 3}}
		s := f.nodes(t, "a")
		s.use()
		synctest.Wait()
		home := s.forCall("").url.Host
		for range 100 {
			if got := s.forCall("").url.Host; got != home {
				t.Fatalf("a call goes to %s, after %s", got, home)
			}
		}
		one, two := jobIDFromWire(wireID(1, 7)), jobIDFromWire(wireID(2, 7))
		if b, c := s.forCall(one).url.Host, s.forCall(two).url.Host; b != "b" || c != "c" {
			t.Errorf("calls about jobs go to %s and %s, want b and c", b, c)
		}
		s.failed(s.forCall(one))
		if got := s.forCall(one).url.Host; got == "b" {
			t.Error("a call goes to a leader that is down")
		}
		if got := s.forOperator().url.Host; got != "a" {
			t.Errorf("an operator's call goes to %s, and only a is named", got)
		}
	})
}

// fakeHTTP is servers without a network. Each answers GetJob and CancelJob.
type fakeHTTP struct {
	beaverv1connect.UnimplementedJobServiceHandler
	mu    sync.Mutex
	fails map[string]error // by host: what the connection, or the server, fails with
	lose  map[string]bool  // the answer is lost
	asked []string
}

func (f *fakeHTTP) Do(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.Contains(r.URL.Path, "JobService") {
		return nil, errRefused // what goes on in the background is not looked at here
	}
	name := r.URL.Host
	f.asked = append(f.asked, name)
	err := f.fails[name]
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return nil, op
	}
	_, h := beaverv1connect.NewJobServiceHandler(f, connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if err != nil {
				return nil, err
			}
			return next(ctx, req)
		}
	})))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if f.lose[name] {
		return nil, io.ErrUnexpectedEOF
	}
	return w.Result(), nil
}

func (f *fakeHTTP) CancelJob(context.Context, *connect.Request[beaverv1.CancelJobRequest]) (*connect.Response[beaverv1.CancelJobResponse], error) {
	return connect.NewResponse(&beaverv1.CancelJobResponse{State: beaverv1.JobState_JOB_STATE_CANCELLED}), nil
}

// TestCallsMove: what a call does when the node that it goes to first does not serve it.
func TestCallsMove(t *testing.T) {
	stopping := connect.NewError(connect.CodeUnavailable, errors.New("the node is stopping"))
	for name, c := range map[string]struct {
		fails map[string]error
		lose  map[string]bool
		retry time.Duration
		asked string // in order; the first is a
		code  Code   // empty: it goes well
		waits bool   // it takes time
	}{
		"all well":               {asked: "a"},
		"unreachable":            {fails: map[string]error{"a": errRefused}, asked: "a b"},
		"unreachable, no repeat": {fails: map[string]error{"a": errRefused}, retry: -1, asked: "a b"},
		"stopping":               {fails: map[string]error{"a": stopping}, asked: "a b"},
		"stopping, no repeat":    {fails: map[string]error{"a": stopping}, retry: -1, asked: "a", code: CodeUnavailable},
		"lost":                   {lose: map[string]bool{"a": true}, asked: "a b"},
		"lost, no repeat":        {lose: map[string]bool{"a": true}, retry: -1, asked: "a", code: CodeUnavailable},
		"refused":                {fails: map[string]error{"a": connect.NewError(connect.CodeNotFound, errors.New("no such job"))}, asked: "a", code: CodeNotFound},
		"aborted stays":          {fails: map[string]error{"a": connect.NewError(connect.CodeAborted, errors.New("again"))}, asked: "a a", waits: true, code: CodeAborted},
		"all down":               {fails: map[string]error{"a": errRefused, "b": stopping}, asked: "a b", waits: true, code: CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeHTTP{fails: c.fails, lose: c.lose}
				client, err := NewClient(Config{Addr: "a,b", HTTPClient: f, RetryFor: c.retry})
				if err != nil {
					t.Fatal(err)
				}
				client.nodes.home = client.nodes.all[0]
				client.nodes.next = time.Now().Add(time.Hour) // learning is not looked at here
				began := time.Now()
				_, err = client.Cancel(t.Context(), "x")
				e, _ := errors.AsType[*Error](err)
				if c.code == "" && err != nil || c.code != "" && (e == nil || e.Code != c.code) {
					t.Errorf("%v, want %q", err, c.code)
				}
				if took := time.Since(began); (took > 0) != c.waits {
					t.Errorf("it took %v", took)
				}
				if got := strings.Join(f.asked, " "); got != c.asked && !(c.waits && strings.HasPrefix(got, c.asked)) {
					t.Errorf("asked %s, want %s", got, c.asked)
				}
				if err := client.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestStreamsMove: the stream after one that broke goes to another node, and one that the client ended says nothing of its node.
func TestStreamsMove(t *testing.T) {
	for name, c := range map[string]struct {
		end   error
		moves bool
	}{
		"stopping":  {connect.NewWireError(connect.CodeUnavailable, errors.New("the node is stopping")), true},
		"broken":    {io.ErrUnexpectedEOF, true},
		"unreached": {errRefused, true},
		"replaced":  {connect.NewWireError(connect.CodeAborted, errors.New("another stream")), false},
		"refused":   {connect.NewWireError(connect.CodeInvalidArgument, errors.New("wrong")), false},
		"ended":     {io.EOF, false},
		"silent":    {nil, true},
		"cancelled": {context.Canceled, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeEnqueues(t)
				f := newFakeCluster("a", "b")
				client := &Client{nodes: f.nodes(t, "a,b")}
				client.nodes.next = time.Now().Add(time.Hour)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				stream := client.openEnqueue(fake.dial)(ctx).(*watchedEnqueue)
				s := <-fake.streams
				switch {
				case c.end == nil:
					cancel(errSilent)
				case errors.Is(c.end, context.Canceled):
					cancel(nil)
				default:
					s.end <- c.end
				}
				if _, err := stream.Receive(); err == nil {
					t.Error("the stream goes on")
				}
				if down := stream.node.down; down != c.moves {
					t.Errorf("the node is taken for down: %v, want %v", down, c.moves)
				}
			})
		})
	}
}

// TestAddr reads lists of nodes.
func TestAddr(t *testing.T) {
	for in, want := range map[string]string{
		"localhost:7400":                     "http://localhost:7400",
		"a:1, https://b:2/ ,http://c:3/x/":   "http://a:1,https://b:2,http://c:3/x",
		"a:1,a:1,http://a:1":                 "http://a:1",
		"":                                   DefaultAddr,
		"a:1,":                               "",
		",":                                  "",
		"a:1,ftp://b":                        "",
		strings.Repeat("a,", nodesMax) + "a": "http://a",
		manyAddrs(nodesMax + 1):              "",
	} {
		c, err := NewClient(Config{Addr: in})
		if want == "" {
			if err == nil || !strings.HasPrefix(err.Error(), "beaver: Config.Addr") {
				t.Errorf("%q: %v", in, err)
			}
			continue
		}
		if err != nil || c.Addr() != want {
			t.Errorf("%q is %q, %v; want %q", in, c.Addr(), err, want)
		}
	}
}

func manyAddrs(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("n%d", i))
	}
	return strings.Join(list, ",")
}
