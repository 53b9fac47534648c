package beaver

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// stallBubble runs a test with a client of nodes a and b, whose streams are the fake's.
func stallBubble(t *testing.T, test func(t *testing.T, cluster *fakeCluster, fake *fakeEnqueues, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		cluster, fake := newFakeCluster("a", "b"), newFakeEnqueues(t)
		c := &Client{nodes: cluster.nodes(t, "a,b")}
		c.nodes.next = time.Now().Add(time.Hour) // learning is not looked at before a node fails
		c.enqueuer = newEnqueuer(c.openEnqueue(fake.dial), 10*time.Minute, slog.New(slog.DiscardHandler))
		t.Cleanup(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = c.enqueuer.close(ctx)
		})
		test(t, cluster, fake, c)
	})
}

// at is the name of the node that a fake stream goes to.
func (s *fakeEnqueueStream) at() string {
	n, _ := s.ctx.Value(nodeKey{}).(*node)
	return n.url.Host
}

// TestEnqueueLeavesStalledNode: what a node that stands still owes is asked of another one with the same session and sequence, and the
// stalled one gets nothing until it answers a probe.
func TestEnqueueLeavesStalledNode(t *testing.T) {
	stallBubble(t, func(t *testing.T, cluster *fakeCluster, fake *fakeEnqueues, c *Client) {
		first := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "first"})
		s := <-fake.streams
		stalled := s.at()
		cluster.stall(stalled, true)
		one := <-s.requests
		time.Sleep(time.Second)
		second := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "second"})
		two := <-s.requests
		before := time.Now().Add(-time.Second)

		next := <-fake.streams
		if took := time.Since(before); took < stallAfter+stallProbeMax || took > stallAfter+stallProbeMax+backoffMin {
			t.Errorf("it took %v to leave, want %v", took, stallAfter+stallProbeMax)
		}
		if next.at() == stalled {
			t.Fatal("the next stream goes to the stalled node again")
		}
		oneAgain, twoAgain := <-next.requests, <-next.requests
		if string(oneAgain.GetSession()) != string(one.GetSession()) || oneAgain.GetSequence() != one.GetSequence() || twoAgain.GetSequence() != two.GetSequence() {
			t.Errorf("sent again as %v and %v, were %v and %v", oneAgain, twoAgain, one, two)
		}
		next.answer(1, oneAgain, twoAgain)
		for i, ch := range []<-chan enqueued{first, second} {
			if got := <-ch; got.err != nil || got.id != jobIDFromWire(wireID(1, uint64(i+1))) {
				t.Errorf("job %d: %v", i, got)
			}
		}
		synctest.Wait()
		select {
		case s.answers <- &beaverv1.EnqueueStreamResponse{Through: two.GetSequence()}:
			t.Error("somebody listens to the stalled node still")
		default:
		}

		for range 60 {
			time.Sleep(time.Second)
			if got := c.nodes.forStream(nil).url.Host; got == stalled {
				t.Fatal("a stream goes to the stalled node")
			}
		}
		cluster.stall(stalled, false)
		time.Sleep(2 * learnEvery)
		c.nodes.use()
		synctest.Wait()
		wantPicks(t, c.nodes, "a b")
	})
}

// TestEnqueueWaitsForNode: a node that says it is there is waited for as long as it owes an answer for less than answerMax, and is
// not asked without end.
func TestEnqueueWaitsForNode(t *testing.T) {
	stallBubble(t, func(t *testing.T, cluster *fakeCluster, fake *fakeEnqueues, c *Client) {
		slow := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-fake.streams
		m := <-s.requests
		time.Sleep(stallAfter - time.Millisecond)
		if got := cluster.probed(s.at()); got != 0 {
			t.Errorf("%d probes before %v", got, stallAfter)
		}
		time.Sleep(5*stallAfter + 2*time.Millisecond)
		if got := cluster.probed(s.at()); got != 6 {
			t.Errorf("%d probes in %v, want one each %v", got, 6*stallAfter, stallAfter)
		}
		s.answer(1, m)
		if got := <-slow; got.err != nil {
			t.Error(got.err)
		}

		// It is idle for a while, and then stands still.
		time.Sleep(time.Minute)
		if got := cluster.probed(s.at()); got != 6 {
			t.Errorf("a node that owes nothing was probed %d times", got-6)
		}
		hung := goEnqueue(t.Context(), c, Job{Queue: "q"})
		<-s.requests
		before := time.Now()
		next := <-fake.streams // it answers probes, and nothing else
		if took := time.Since(before); took < answerMax || took > answerMax+backoffMin {
			t.Errorf("a node that answers probes was left after %v, want %v", took, answerMax)
		}
		next.answer(2, <-next.requests)
		if got := <-hung; got.err != nil {
			t.Error(got.err)
		}
	})
}

// TestStallAfterProbe: a node that stands still just after it answered a probe is found out by the next one, whoever asked.
func TestStallAfterProbe(t *testing.T) {
	stallBubble(t, func(t *testing.T, cluster *fakeCluster, fake *fakeEnqueues, c *Client) {
		owed := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-fake.streams
		<-s.requests
		n, _ := s.ctx.Value(nodeKey{}).(*node)
		time.Sleep(stallAfter / 2)
		if _, silent := c.nodes.silence(t.Context(), n, false); silent {
			t.Error("a node that answers is taken for silent")
		}
		cluster.stall(s.at(), true)
		before := time.Now()
		next := <-fake.streams
		if took := time.Since(before); took > stallAfter+stallProbeMax+backoffMin {
			t.Errorf("it took %v to leave", took)
		}
		next.answer(1, <-next.requests)
		if got := <-owed; got.err != nil {
			t.Error(got.err)
		}
	})
}

// TestEnqueueStaysAtNode: a stream that the server ends with a word of its own is followed by one to the same node, which is there, and not
// by one to a node that may stand still.
func TestEnqueueStaysAtNode(t *testing.T) {
	stallBubble(t, func(t *testing.T, _ *fakeCluster, fake *fakeEnqueues, c *Client) {
		got := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-fake.streams
		first := s.at()
		for range 20 {
			<-s.requests
			s.end <- connect.NewWireError(connect.CodeAborted, errors.New("the outcome is not known"))
			if s = <-fake.streams; s.at() != first {
				t.Fatalf("the next stream goes to %s, after %s", s.at(), first)
			}
		}
		<-s.requests
		s.end <- connect.NewWireError(connect.CodeUnavailable, errors.New("the node is stopping"))
		if s = <-fake.streams; s.at() == first {
			t.Errorf("the next stream goes to %s, which is stopping", first)
		}
		s.answer(1, <-s.requests)
		if got := <-got; got.err != nil {
			t.Error(got.err)
		}
	})
}

// stallingHTTP is servers of which some answer no call, or after a while.
type stallingHTTP struct {
	fakeHTTP
	slow map[string]time.Duration // by host; negative: never
}

func (f *stallingHTTP) Do(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	slow := f.slow[r.URL.Host]
	f.mu.Unlock()
	if slow == 0 {
		return f.fakeHTTP.Do(r)
	}
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.Host)
	f.mu.Unlock()
	var answer <-chan time.Time
	if slow > 0 {
		answer = time.After(slow)
	}
	select {
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-answer:
	}
	f.mu.Lock()
	f.asked = f.asked[:len(f.asked)-1] // fakeHTTP notes it
	f.mu.Unlock()
	return f.fakeHTTP.Do(r)
}

// TestCallsLeaveStalledNode: what a call does when the node that it goes to first does not answer it.
func TestCallsLeaveStalledNode(t *testing.T) {
	for name, c := range map[string]struct {
		addr    string
		slow    time.Duration // of node a; negative: never
		stalled bool          // a answers no probe either
		down    bool          // b
		call    func(context.Context, *Client) error
		asked   string
		took    time.Duration
		code    Code
	}{
		"stalled":            {addr: "a,b", slow: -1, stalled: true, asked: "a b", took: stallAfter + stallProbeMax},
		"slow":               {addr: "a,b", slow: 5 * time.Second, asked: "a", took: 5 * time.Second},
		"slow, after no one": {addr: "a,b", slow: 2500 * time.Millisecond, stalled: true, asked: "a", took: 2500 * time.Millisecond},
		"deaf":               {addr: "a,b", slow: -1, asked: "a", took: time.Minute, code: CodeUnavailable},
		"alone":              {addr: "a", slow: -1, stalled: true, asked: "a", took: time.Minute, code: CodeUnavailable},
		"alone up":           {addr: "a,b", slow: -1, stalled: true, down: true, asked: "a", took: time.Minute, code: CodeUnavailable},
		"the caller leaves": {addr: "a,b", slow: -1, stalled: true, asked: "a", took: stallAfter + stallProbeMax/2, code: CodeDeadlineExceeded, call: func(ctx context.Context, c *Client) error {
			ctx, cancel := context.WithTimeout(ctx, stallAfter+stallProbeMax/2)
			defer cancel()
			_, err := c.Cancel(ctx, "x")
			return err
		}},
		"about another node": {addr: "a", slow: -1, stalled: true, asked: "a", took: time.Minute, code: CodeUnavailable, call: func(ctx context.Context, c *Client) error {
			learned := newNode("b", "http")
			c.nodes.all = append(c.nodes.all, learned)
			_, err := c.Cancel(ofOperator(ctx), "x")
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &stallingHTTP{slow: map[string]time.Duration{"a": c.slow}}
				client, err := NewClient(Config{Addr: c.addr, HTTPClient: f})
				if err != nil {
					t.Fatal(err)
				}
				cluster := newFakeCluster("a", "b")
				client.nodes.describe, client.nodes.probe = cluster.describe, cluster.probe
				cluster.stall("a", c.stalled)
				client.nodes.home = client.nodes.all[0]
				client.nodes.next = time.Now().Add(time.Hour)
				if c.down {
					client.nodes.all[1].down = true
				}
				if c.call == nil {
					c.call = func(ctx context.Context, c *Client) error {
						_, err := c.Cancel(ctx, "x")
						return err
					}
				}
				began := time.Now()
				err = c.call(t.Context(), client)
				e, _ := errors.AsType[*Error](err)
				if c.code == "" && err != nil || c.code != "" && (e == nil || e.Code != c.code) {
					t.Errorf("%v, want %q", err, c.code)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if got := strings.Join(f.asked, " "); got != c.asked {
					t.Errorf("asked %s, want %s", got, c.asked)
				}
				if err := client.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestOneQuestion: however many callers wait for a node, it is asked once at a time whether it is there, and no more often than each
// stallAfter.
func TestOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newFakeCluster("a", "b")
		s := cluster.nodes(t, "a,b")
		n := s.all[0]
		var callers sync.WaitGroup
		// It ends between two questions: one that has just been asked would count below, or not.
		ctx, cancel := context.WithTimeout(t.Context(), 10*stallAfter+stallAfter/2)
		defer cancel()
		for i := range 1000 {
			time.Sleep(time.Millisecond)
			callers.Go(func() {
				err := s.whileThere(ctx, n, false, func(ctx context.Context) error {
					<-ctx.Done()
					return connect.NewError(connect.CodeUnavailable, io.ErrUnexpectedEOF)
				})
				if errors.Is(err, errSilent) {
					t.Errorf("caller %d left a node that is there", i)
				}
			})
		}
		callers.Wait()
		if got := cluster.probed("a"); got < 9 || got > 10 {
			t.Errorf("%d probes in %v", got, 10*stallAfter)
		}

		cluster.stall("a", true)
		before, probes := time.Now(), cluster.probed("a")
		for range 1000 {
			callers.Go(func() {
				err := s.whileThere(t.Context(), n, false, func(ctx context.Context) error {
					<-ctx.Done()
					return ctx.Err()
				})
				if !errors.Is(err, errSilent) {
					t.Errorf("a call to a stalled node ended with %v", err)
				}
			})
		}
		callers.Wait()
		if took := time.Since(before); took > stallAfter+stallProbeMax {
			t.Errorf("it took %v to leave", took)
		}
		if got := cluster.probed("a") - probes; got != 1 {
			t.Errorf("%d probes of a stalled node, want 1", got)
		}
	})
}
