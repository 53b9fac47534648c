package beaver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

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
	// Addr is the URL of the server. Default DefaultAddr.
	Addr string
	// RetryFor is how long a call goes on while the server cannot be reached; the call's context may end it sooner. Repeats
	// are safe: an enqueue repeated happens once. At most 10 minutes. Default 1 minute; -1: do not repeat.
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
	if !strings.Contains(c.Addr, "://") {
		c.Addr = "http://" + c.Addr
	}
	c.Addr = strings.TrimSuffix(c.Addr, "/")
	u, err := url.Parse(c.Addr)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("beaver: Config.Addr %q is not a URL like %s", c.Addr, DefaultAddr)
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

// Client talks to a server. It connects when it is first used, and again whenever the connection breaks. All methods may be
// called from any goroutine, and it is best to share one Client: concurrent enqueues then share their round trips.
type Client struct {
	cfg      Config
	jobs     beaverv1connect.JobServiceClient
	queues   beaverv1connect.QueueServiceClient
	workers  beaverv1connect.WorkerServiceClient
	node     beaverv1connect.NodeServiceClient
	cluster  beaverv1connect.ClusterServiceClient
	enqueuer *enqueuer
	idle     []*http.Transport // of the package's own making, to be closed
	openWork func(context.Context) workStream
}

// NewClient makes a Client. It does not connect yet; see Ping.
func NewClient(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg}
	calls, enqueues, work := cfg.HTTPClient, cfg.HTTPClient, cfg.HTTPClient
	if cfg.HTTPClient == nil {
		// A connection each, so that a burst of payloads does not hold up outcomes or a person's question.
		calls, enqueues, work = c.newHTTPClient(), c.newHTTPClient(), c.newHTTPClient()
	}
	opts := connect.WithClientOptions(
		connect.WithAcceptCompression("gzip", nil, nil), // Payloads are small or compressed by their owner.
		connect.WithReadMaxBytes(readBytesMax),
	)
	c.jobs = beaverv1connect.NewJobServiceClient(calls, cfg.Addr, opts)
	c.queues = beaverv1connect.NewQueueServiceClient(calls, cfg.Addr, opts)
	c.workers = beaverv1connect.NewWorkerServiceClient(calls, cfg.Addr, opts)
	c.node = beaverv1connect.NewNodeServiceClient(calls, cfg.Addr, opts)
	c.cluster = beaverv1connect.NewClusterServiceClient(calls, cfg.Addr, opts)
	openEnqueue := dialEnqueue(enqueues, cfg.Addr, opts)
	workJobs := beaverv1connect.NewJobServiceClient(work, cfg.Addr, opts)
	c.openWork = func(ctx context.Context) workStream { return workJobs.Work(ctx) }
	if cfg.HTTPClient == nil {
		openEnqueue, c.openWork = preferBare(cfg.Addr, openEnqueue, c.openWork)
	}
	c.enqueuer = newEnqueuer(openEnqueue, cfg.RetryFor, cfg.Logger)
	return c, nil
}

// Open makes a Client for the server at addr and checks that it answers.
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
	for _, t := range c.idle {
		t.CloseIdleConnections()
	}
	return err
}

// Addr is the URL of the server.
func (c *Client) Addr() string { return c.cfg.Addr }
