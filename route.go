package beaver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// nowhere is the address in requests until it is known which node they go to.
const nowhere = "http://beaver.invalid"

type nodeKey struct{}

// toNode makes the calls of a context go to a node.
func toNode(ctx context.Context, n *node) context.Context {
	return context.WithValue(ctx, nodeKey{}, n)
}

type operatorKey struct{}

// ofOperator makes the calls of a context go to a node that Config.Addr names: they are about the node itself.
func ofOperator(ctx context.Context) context.Context {
	return context.WithValue(ctx, operatorKey{}, true)
}

func isOperator(ctx context.Context) bool { return ctx.Value(operatorKey{}) != nil }

// chooseNode chooses the node for a call.
func (c *Client) chooseNode(ctx context.Context, req any) *node {
	if isOperator(ctx) {
		return c.nodes.forOperator()
	}
	if r, ok := req.(interface{ GetId() string }); ok {
		return c.nodes.forCall(JobID(r.GetId()))
	}
	return c.nodes.forCall("")
}

// router sends each request to the node of its context.
type router struct{ connect.HTTPClient }

// Do implements connect.HTTPClient.
func (r router) Do(req *http.Request) (*http.Response, error) {
	n, ok := req.Context().Value(nodeKey{}).(*node)
	if !ok {
		return nil, errors.New("beaver: a request without a node")
	}
	routed := req.WithContext(req.Context())
	u := *n.url
	u.Path += req.URL.Path
	u.RawQuery = req.URL.RawQuery
	routed.URL, routed.Host = &u, ""
	return r.HTTPClient.Do(routed)
}

// openEnqueue opens enqueue streams to a node that is up, one after the other.
func (c *Client) openEnqueue(ordinary func(context.Context) enqueueStream) func(context.Context) nodeStream {
	var n *node
	return func(ctx context.Context) nodeStream {
		n = c.nodes.forStream(n)
		ctx = toNode(ctx, n)
		w := watched{ctx: ctx, nodes: c.nodes, node: n}
		if n.bare == nil {
			return &watchedEnqueue{ordinary(ctx), w}
		}
		return &watchedEnqueue{bareEnqueue(ctx, n.bare, ordinary), w}
	}
}

// openWork opens a Work stream to a node that is up.
func (c *Client) openWork(ordinary func(context.Context) workStream) func(context.Context) workStream {
	return func(ctx context.Context) workStream {
		n := c.nodes.forStream(nil)
		ctx = toNode(ctx, n)
		w := watched{ctx: ctx, nodes: c.nodes, node: n}
		if n.bare == nil {
			return &watchedWork{ordinary(ctx), w}
		}
		return &watchedWork{bareWork(ctx, n.bare, ordinary), w}
	}
}

// watched tells how a node does by what becomes of a stream.
type watched struct {
	ctx   context.Context // the stream's
	nodes *nodes
	node  *node
	good  bool // Receive's
}

// sent takes note of what Send returned.
func (w *watched) sent(err error) {
	switch {
	case errors.Is(err, errTooOld): // nothing was sent
		return
	case err != nil && w.ctx.Err() == nil:
		w.nodes.failed(w.node)
		return
	}
	w.nodes.use()
}

// received takes note of what Receive returned.
func (w *watched) received(err error) {
	switch {
	case err == nil:
		if !w.good {
			w.good = true
			w.nodes.works(w.node)
		}
	case w.ctx.Err() != nil && !errors.Is(context.Cause(w.ctx), errSilent):
		// The client ended it.
	case errors.Is(err, io.EOF):
		// The server did what it was asked for.
	case !connect.IsWireError(err) || asError(err).Code == CodeUnavailable:
		w.nodes.failed(w.node)
	}
}

type watchedEnqueue struct {
	enqueueStream
	watched
}

func (s *watchedEnqueue) silence(ctx context.Context) (heard time.Time, silent bool) {
	return s.nodes.silence(ctx, s.node, false)
}

func (s *watchedEnqueue) Send(m *enqueueMessage) error {
	err := s.enqueueStream.Send(m)
	s.sent(err)
	return err
}

func (s *watchedEnqueue) Receive() (*beaverv1.EnqueueStreamResponse, error) {
	m, err := s.enqueueStream.Receive()
	s.received(err)
	return m, err
}

type watchedWork struct {
	workStream
	watched
}

func (s *watchedWork) Send(m *beaverv1.WorkRequest) error {
	err := s.workStream.Send(m)
	s.sent(err)
	return err
}

func (s *watchedWork) Receive() (*beaverv1.WorkResponse, error) {
	m, err := s.workStream.Receive()
	s.received(err)
	return m, err
}
