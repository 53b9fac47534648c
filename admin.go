package beaver

import (
	"context"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// Queues returns all queues.
func (c *Client) Queues(ctx context.Context) ([]*QueueInfo, error) {
	res, err := call(ctx, c, c.queues.ListQueues, &beaverv1.ListQueuesRequest{})
	if err != nil {
		return nil, err
	}
	queues := make([]*QueueInfo, len(res.GetQueues()))
	for i, q := range res.GetQueues() {
		queues[i] = queueInfoOf(q)
	}
	return queues, nil
}

// Queue returns one queue, or ErrNotFound.
func (c *Client) Queue(ctx context.Context, name string) (*QueueInfo, error) {
	res, err := call(ctx, c, c.queues.GetQueue, &beaverv1.GetQueueRequest{Name: name})
	if err != nil {
		return nil, err
	}
	return queueInfoOf(res.GetQueue()), nil
}

// ConfigureQueue makes a queue, or changes the settings that are given.
func (c *Client) ConfigureQueue(ctx context.Context, name string, s QueueSettings) (*QueueInfo, error) {
	settings, err := s.proto()
	if err != nil {
		return nil, err
	}
	res, err := call(ctx, c, c.queues.ConfigureQueue, &beaverv1.ConfigureQueueRequest{Name: name, Settings: settings})
	if err != nil {
		return nil, err
	}
	return queueInfoOf(res.GetQueue()), nil
}

// PauseQueue stops the hand-out of a queue's jobs. What runs goes on, and enqueues are taken.
func (c *Client) PauseQueue(ctx context.Context, name string) error {
	_, err := c.ConfigureQueue(ctx, name, QueueSettings{Paused: new(true)})
	return err
}

// ResumeQueue starts the hand-out again.
func (c *Client) ResumeQueue(ctx context.Context, name string) error {
	_, err := c.ConfigureQueue(ctx, name, QueueSettings{Paused: new(false)})
	return err
}

// MoveQueue gives a queue another home. New jobs go there from now on; those in the old home finish there, and are handed out first. The
// move ends by itself; until then the queue says where it comes from, and how many jobs are left there.
func (c *Client) MoveQueue(ctx context.Context, name string, shard int) (*QueueInfo, error) {
	res, err := call(ctx, c, c.queues.MoveQueue, &beaverv1.MoveQueueRequest{Name: name, Shard: uint32(shard)})
	if err != nil {
		return nil, err
	}
	return queueInfoOf(res.GetQueue()), nil
}

// Workers returns all workers that the server knows.
func (c *Client) Workers(ctx context.Context) ([]*WorkerInfo, error) {
	res, err := call(ctx, c, c.workers.ListWorkers, &beaverv1.ListWorkersRequest{})
	if err != nil {
		return nil, err
	}
	workers := make([]*WorkerInfo, len(res.GetWorkers()))
	for i, w := range res.GetWorkers() {
		workers[i] = workerInfoOf(w)
	}
	return workers, nil
}

// SignalWorker asks a worker to go quiet, to stop, or to run again.
func (c *Client) SignalWorker(ctx context.Context, id uint64, s WorkerState) error {
	state, err := s.proto()
	if err != nil {
		return err
	}
	_, err = call(ctx, c, c.workers.SignalWorker, &beaverv1.SignalWorkerRequest{WorkerId: id, State: state})
	return err
}

// Status returns the status of a node: the first of those that Config.Addr names which can be reached.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	res, err := call(ofOperator(ctx), c, c.node.GetStatus, &beaverv1.GetStatusRequest{})
	if err != nil {
		return nil, err
	}
	return statusOf(res), nil
}
