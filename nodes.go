package beaver

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const (
	// learnEvery is how often a client that is in use asks who is in the cluster.
	learnEvery = 30 * time.Second
	// learnAgain is how soon it asks when a node failed it; while one does, it waits twice as long each time.
	learnAgain = 500 * time.Millisecond
)

// node is one server of the cluster, as a client knows it.
type node struct {
	url   *url.URL
	named bool        // in Config.Addr, and not learned
	bare  *bareDialer // nil: streams are ordinary ones

	// REQUIRES: nodes.mu.
	id      uint64 // 0: not known yet
	down    bool   // it failed, and has not answered since
	retires bool   // it is drained, or leaves the cluster

	// REQUIRES: nodes.mu. See nodes.silence.
	question *question // the one under way; nil: none
	heard    time.Time // when the last one that was answered was put
}

// newNode returns the node at an address with or without a scheme; nil: it is none.
func newNode(addr, scheme string) *node {
	if !strings.Contains(addr, "://") {
		addr = scheme + "://" + addr
	}
	u, err := url.Parse(strings.TrimSuffix(addr, "/"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil
	}
	return &node{url: u}
}

// nodes are the servers that a client may use: those it was told of, and those it learned of from them. Any node serves any
// request, so that the choice is about reach and load, and never about right or wrong.
//
// Invariant: a node that failed is not used while another is up, until it answers a probe, which no caller waits for.
//
// Nothing runs while the client is idle: who uses a node starts the goroutine that learns, when it is time to, and who waits for one
// for long the goroutine that asks whether it is there. They ask for no longer than describeMax, probeAnswerMax and stallProbeMax, and
// end before close returns.
type nodes struct {
	fixed  bool // to those it was told of
	logger *slog.Logger
	// describe asks a node for its cluster, and probe for itself.
	describe func(context.Context, *node) (*beaverv1.GetClusterResponse, error)
	probe    func(context.Context, *node) (*beaverv1.GetStatusResponse, error)
	adopt    func(*node) // makes a node ready for use

	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu       sync.Mutex
	all      []*node // the named ones first
	home     *node   // where calls go that no node is better for; nil: not chosen yet
	leaders  map[uint16]uint64
	learning bool
	next     time.Time // when to learn again
	again    time.Duration
}

// newNodes reads a list of addresses, separated by commas.
func newNodes(list string, logger *slog.Logger) (*nodes, error) {
	s := &nodes{logger: logger, again: learnAgain, adopt: func(*node) {}}
	for addr := range strings.SplitSeq(list, ",") {
		n := newNode(strings.TrimSpace(addr), "http")
		if n == nil {
			return nil, fmt.Errorf("beaver: Config.Addr %q is not a URL like %s, or several with commas between them", list, DefaultAddr)
		}
		n.named = true
		if s.find(n.url) == nil {
			s.all = append(s.all, n)
		}
	}
	if len(s.all) > nodesMax {
		return nil, fmt.Errorf("beaver: Config.Addr names %d nodes; name at most %d: the others are learned from them", len(s.all), nodesMax)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// addr is the list that newNodes reads.
func (s *nodes) addr() string {
	var list []string
	for _, n := range s.all {
		if n.named {
			list = append(list, n.url.String())
		}
	}
	return strings.Join(list, ",")
}

// find returns the node at a URL, or nil.
//
// REQUIRES: s.mu.
func (s *nodes) find(u *url.URL) *node {
	for _, n := range s.all {
		if n.url.String() == u.String() {
			return n
		}
	}
	return nil
}

// forStream chooses a node for a stream: any that is up, so that streams spread over the nodes. One that follows another stream stays at the
// node of that, if it is up still: it was there to say that the other one is over. nil: it follows none.
func (s *nodes) forStream(last *node) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learnLocked()
	if last != nil && !last.down && !last.retires && slices.Contains(s.all, last) {
		return last
	}
	return s.anyLocked(false)
}

// forCall chooses a node for a call: the leader of the shard whose job it is about, which saves a hop; else always the same,
// while it is up, which saves connections.
func (s *nodes) forCall(id JobID) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learnLocked()
	if shard, ok := id.shard(); ok && s.leaders[shard] != 0 {
		leader := s.leaders[shard]
		for _, n := range s.all {
			if n.id == leader && !n.down {
				return n
			}
		}
	}
	if s.home == nil || s.home.down || s.home.retires {
		s.home = s.anyLocked(false)
	}
	return s.home
}

// forOperator chooses a node for a call that is about the node itself: the first of those named that is up.
func (s *nodes) forOperator() *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learnLocked()
	for _, n := range s.all {
		if n.named && !n.down {
			return n
		}
	}
	return s.anyLocked(true)
}

// anyLocked returns a random node of the best there are: those up that stay, those up, or all.
//
// REQUIRES: s.mu.
func (s *nodes) anyLocked(named bool) *node {
	var best []*node
	for _, good := range []func(*node) bool{
		func(n *node) bool { return !n.down && !n.retires },
		func(n *node) bool { return !n.down },
		func(*node) bool { return true },
	} {
		for _, n := range s.all {
			if good(n) && (n.named || !named) {
				best = append(best, n)
			}
		}
		if len(best) > 0 {
			break
		}
	}
	return best[rand.N(len(best))]
}

// works says that a node answered.
func (s *nodes) works(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.down = false
}

// failed says that a node did not answer, or cannot serve now.
func (s *nodes) failed(n *node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !n.down {
		n.down, s.again = true, learnAgain
		if soon := time.Now().Add(learnAgain); s.next.After(soon) {
			s.next = soon
		}
	}
}

// use makes the client learn if it is time to.
func (s *nodes) use() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learnLocked()
}

// close ends what runs in the background.
func (s *nodes) close() {
	s.mu.Lock()
	s.cancel() // under the mutex: nothing is begun after
	s.mu.Unlock()
	s.group.Wait()
}
