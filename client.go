package beaver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// DefaultAddr is where a server listens unless told otherwise.
const DefaultAddr = "http://127.0.0.1:7400"

const (
	defaultRetryFor = time.Minute
	// retryForMax keeps repeats well within the time that the server remembers a session.
	retryForMax = 10 * time.Minute
)

// Config says how a Client reaches the server. The zero value reaches a server on this machine.
type Config struct {
	// Addr is the URL of the server, or the URLs of nodes of a cluster, separated by commas. Any node serves any request, and
	// from those named the client learns of the others; name more than one, for when the client starts while that one is
	// away. Default DefaultAddr.
	Addr string
	// OnlyAddr keeps the client to the nodes that Addr names. Behind a load balancer, say, the others may be out of reach.
	OnlyAddr bool
	// RetryFor is how long a call goes on while the server cannot be reached; the call's context may end it sooner. Repeats
	// are safe: an enqueue repeated happens once. It counts by the wall clock too, so that a machine that was suspended goes on with no
	// repeat of long ago, which the server could not tell from a new one. At most 10 minutes. Default 1 minute; -1: do not repeat.
	RetryFor time.Duration
	// HTTPClient carries the calls. It must speak HTTP/2, in clear text if Addr is http. Default: a client of the package's
	// own, tuned for streams.
	HTTPClient connect.HTTPClient
	// Logger gets reconnects and other events that no call returns. Default: nothing is logged.
	Logger *slog.Logger
}

// validate fills in the defaults, or says which field is wrong.
func (c *Config) validate() error {
	if c.Addr == "" {
		c.Addr = DefaultAddr
	}
	switch {
	case c.RetryFor == 0:
		c.RetryFor = defaultRetryFor
	case c.RetryFor == -1:
		c.RetryFor = 0
	case c.RetryFor < 0 || c.RetryFor > retryForMax:
		return fmt.Errorf("beaver: Config.RetryFor is %v; use a duration up to %v, or -1 for no repeats", c.RetryFor, retryForMax)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Client talks to a server, or to a cluster of them. It connects when it is first used, and again whenever the connection
// breaks, to another node if there is one. All methods may be called from any goroutine, and it is best to share one Client:
// concurrent enqueues then share their round trips.
type Client struct {
	cfg      Config
	nodes    *nodes
	jobs     beaverv1connect.JobServiceClient
	queues   beaverv1connect.QueueServiceClient
	workers  beaverv1connect.WorkerServiceClient
	node     beaverv1connect.NodeServiceClient
	cluster  beaverv1connect.ClusterServiceClient
	enqueuer *enqueuer
	idle     []*http.Transport // of the package's own making, to be closed
	dialWork func(context.Context) workStream
	clock    clock
}

// NewClient makes a Client. It does not connect yet; see Ping.
func NewClient(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	nodes, err := newNodes(cfg.Addr, cfg.Logger)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, nodes: nodes}
	calls, enqueues, work, probes := cfg.HTTPClient, cfg.HTTPClient, cfg.HTTPClient, cfg.HTTPClient
	if cfg.HTTPClient == nil {
		// A connection each, so that a burst of payloads does not hold up outcomes or a person's question, and nothing a probe.
		calls, enqueues, work, probes = c.newHTTPClient(), c.newHTTPClient(), c.newHTTPClient(), c.newHTTPClient()
	}
	calls, enqueues, work, probes = router{calls}, router{enqueues}, router{work}, router{probes}
	opts := connect.WithClientOptions(
		connect.WithAcceptCompression("gzip", nil, nil), // Payloads are small or compressed by their owner.
		connect.WithReadMaxBytes(readBytesMax),
	)
	c.jobs = beaverv1connect.NewJobServiceClient(calls, nowhere, opts)
	c.queues = beaverv1connect.NewQueueServiceClient(calls, nowhere, opts)
	c.workers = beaverv1connect.NewWorkerServiceClient(calls, nowhere, opts)
	c.node = beaverv1connect.NewNodeServiceClient(calls, nowhere, opts)
	c.cluster = beaverv1connect.NewClusterServiceClient(calls, nowhere, opts)
	workJobs := beaverv1connect.NewJobServiceClient(work, nowhere, opts)
	c.dialWork = c.openWork(func(ctx context.Context) workStream { return workJobs.Work(ctx) })
	c.enqueuer = newEnqueuer(c.openEnqueue(dialEnqueue(enqueues, nowhere, opts)), cfg.RetryFor, cfg.Logger)
	c.prepareNodes(beaverv1connect.NewClusterServiceClient(probes, nowhere, opts), beaverv1connect.NewNodeServiceClient(probes, nowhere, opts))
	return c, nil
}

// prepareNodes gives the nodes what they need of the client, and how to ask in the background.
func (c *Client) prepareNodes(cluster beaverv1connect.ClusterServiceClient, status beaverv1connect.NodeServiceClient) {
	s := c.nodes
	s.fixed = c.cfg.OnlyAddr
	if c.cfg.HTTPClient == nil {
		s.adopt = func(n *node) { n.bare = newBareDialer(n.url.String()) }
	}
	for _, n := range s.all {
		s.adopt(n)
	}
	s.describe = func(ctx context.Context, n *node) (*beaverv1.GetClusterResponse, error) {
		return answerOf(cluster.GetCluster(toNode(ctx, n), connect.NewRequest(&beaverv1.GetClusterRequest{})))
	}
	s.probe = func(ctx context.Context, n *node) (*beaverv1.GetStatusResponse, error) {
		return answerOf(status.GetStatus(toNode(ctx, n), connect.NewRequest(&beaverv1.GetStatusRequest{})))
	}
}

func answerOf[Res any](res *connect.Response[Res], err error) (*Res, error) {
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// Open makes a Client for the server at addr, or the cluster of several with commas between them, and checks that it answers.
func Open(ctx context.Context, addr string) (*Client, error) {
	c, err := NewClient(Config{Addr: addr})
	if err != nil {
		return nil, err
	}
	if err := c.Ping(ctx); err != nil {
		return nil, errors.Join(err, c.Close(ctx))
	}
	return c, nil
}

// Ping returns nil when the server answers and is ready.
func (c *Client) Ping(ctx context.Context) error {
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if !s.Ready {
		return &Error{Code: CodeUnavailable, Message: "the server is not ready: " + s.NotReadyReason}
	}
	return nil
}

// Close waits for the enqueues that are under way, until ctx ends, and disconnects. Workers of this client must be stopped
// before.
func (c *Client) Close(ctx context.Context) error {
	err := c.enqueuer.close(ctx)
	c.nodes.close()
	for _, t := range c.idle {
		t.CloseIdleConnections()
	}
	return err
}

// Addr is the URL of the server, or those of the nodes that Config.Addr named, separated by commas.
func (c *Client) Addr() string { return c.nodes.addr() }
