package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/beaver-raft/beaver"
)

// demoCutMin is for how long a node is cut off at least after the others serve its queues.
const demoCutMin = 2 * time.Second

// clusterDemo is one run on three nodes.
type clusterDemo struct {
	demoStage
	fleet  *fleet
	homes  map[string]int           // the shard of each queue
	hurt   map[uint64]bool          // the nodes that had their trouble
	fenced map[beaver.JobID]string  // the jobs whose attempt was lost with its worker, and how
	took   map[string]time.Duration // per trouble: until the queues concerned stored jobs again
	times  []demoFact               // other times worth telling
	events []demoEvent
}

// demoEvent is something that was done to the cluster.
type demoEvent struct {
	name string
	at   time.Time
}

// event notes that something is done to a node now.
func (d *clusterDemo) event(format string, args ...any) time.Time {
	e := demoEvent{fmt.Sprintf(format, args...), time.Now()}
	d.events = append(d.events, e)
	return e.at
}

func runClusterDemo(ctx context.Context, opts demoOptions) (err error) {
	if err := canFreeze(); err != nil {
		return err
	}
	d := &clusterDemo{
		demoStage: demoStage{demoOptions: opts, poll: 25 * time.Millisecond},
		homes:     make(map[string]int), hurt: make(map[uint64]bool), fenced: make(map[beaver.JobID]string), took: make(map[string]time.Duration),
	}
	if err := d.prepare(); err != nil {
		return err
	}
	defer func() {
		d.workers.abandon()
		if d.fleet != nil {
			d.fleet.close()
		}
		err = errors.Join(err, d.cleanUp(err))
	}()
	if err := d.launch(ctx); err != nil {
		return err
	}
	if err := d.run(ctx, d.trouble); err != nil {
		return err
	}
	if err := d.check(ctx); err != nil {
		return err
	}
	return d.fleet.stopAll()
}

// launch founds the cluster, gives each of its shards a queue, and starts the workers.
func (d *clusterDemo) launch(ctx context.Context) (err error) {
	if d.fleet, err = newFleet(ctx, d.dir, d.log, true); err != nil {
		return err
	}
	if d.client, err = beaver.NewClient(beaver.Config{Addr: d.fleet.urls()}); err != nil {
		return err
	}
	info, err := d.client.Cluster(ctx)
	if err != nil {
		return err
	}
	d.workers = demoWorkers{exe: d.fleet.nodes[1].exe, addr: d.fleet.urls(), root: d.root, log: d.log, runs: filepath.Join(d.dir, "attempts")}
	keep := len(d.files) + demoBatchJobs
	for i := 1; i < len(info.Shards); i++ {
		name := fmt.Sprintf("%s-%d", demoQueue, i)
		q, err := d.client.ConfigureQueue(ctx, name, beaver.QueueSettings{KeepEnded: &keep})
		if err != nil {
			return err
		}
		d.homes[name] = q.Shard
		d.workers.queues = append(d.workers.queues, name)
	}
	d.say("%d files below %s are the jobs, in %d queues on 3 nodes; data and logs are in %s", len(d.files), d.root, len(d.homes), d.dir)
	return d.workers.start()
}

// trouble is what happens while the jobs are done. Each kind begins when a share of them is done, and the next part of the files is
// only given to the producer then.
func (d *clusterDemo) trouble(ctx context.Context) error {
	for _, step := range []struct {
		after, release float64
		happens        func(context.Context) error
	}{
		{0.12, 0.35, d.killLeader},
		{0.35, 0.65, d.cutOffLeader},
		{0.60, 0.85, d.replaceNode},
		{0.80, 1, d.restartAll},
	} {
		d.feed.release(step.release)
		if err := d.awaitCompleted(ctx, int(step.after*float64(len(d.files)))); err != nil {
			return err
		}
		if err := step.happens(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leader chooses a node that leads queues and had no trouble yet, and says which queues.
func (d *clusterDemo) leader(ctx context.Context) (*fleetNode, []string, error) {
	info, err := d.client.Cluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range info.Shards {
		if n := d.fleet.nodes[s.LeaderNodeID]; n != nil && !d.hurt[n.id] {
			if queues := d.ledBy(info, n.id); len(queues) > 0 {
				d.hurt[n.id] = true
				return n, queues, nil
			}
		}
	}
	return nil, nil, errors.New("no other node leads a queue")
}

// ledBy are the queues of the shards that a node leads.
func (d *clusterDemo) ledBy(info *beaver.ClusterInfo, node uint64) []string {
	var queues []string
	for _, q := range d.workers.queues {
		if slices.Contains(leaders(info)[node], d.homes[q]) {
			queues = append(queues, q)
		}
	}
	return queues
}

// store enqueues the next file, to see that a queue serves.
func (d *clusterDemo) store(ctx context.Context, queue string) error {
	path, err := d.feed.takeNow()
	if err != nil {
		return err
	}
	_, err = d.client.Enqueue(ctx, beaver.Job{Queue: queue, Kind: demoKind, JSON: digestArgs{Path: path}})
	return err
}

// storesAgain waits until each of the queues has stored a job after a moment, and writes it down.
func (d *clusterDemo) storesAgain(ctx context.Context, what string, event time.Time, queues []string) (time.Duration, error) {
	took, err := servesAgain(ctx, event, queues, d.store)
	d.took[what] = max(d.took[what], took)
	return took.Round(time.Millisecond), err
}

// fence writes down which jobs a worker holds that was killed or frozen: these, and no others, may run again.
func (d *clusterDemo) fence(ctx context.Context, worker uint64, why string) error {
	for _, q := range d.workers.queues {
		for job, err := range d.client.Jobs(ctx, beaver.JobFilter{Queue: q, State: beaver.StateRunning}) {
			if err != nil {
				return fmt.Errorf("list the running jobs: %w", err)
			}
			if job.WorkerID == worker {
				d.fenced[job.ID] = why
			}
		}
	}
	return nil
}

// killLeader kills a leader and a worker, waits until the others serve its queues, and starts both again.
func (d *clusterDemo) killLeader(ctx context.Context) error {
	n, queues, err := d.leader(ctx)
	if err != nil {
		return err
	}
	worker, err := d.workerID(ctx, demoKilled)
	if err != nil {
		return err
	}
	d.say("kill -9 of node %d (pid %d), which leads %s, and of worker %s", n.id, n.pid(), strings.Join(queues, " and "), demoKilled)
	event := d.event("node %d was killed", n.id)
	n.kill()
	d.workers.kill()
	took, err := d.storesAgain(ctx, "leader killed", event, queues)
	if err != nil {
		return err
	}
	d.say("all of its queues stored jobs again after %v", took)
	if err := d.fence(ctx, worker, fmt.Sprintf("worker %s was killed with node %d", demoKilled, n.id)); err != nil {
		return err
	}
	ready, err := n.start(ctx)
	if err != nil {
		return err
	}
	if err := d.workers.restart(); err != nil {
		return err
	}
	if _, err := d.fleet.whole(ctx, d.fleet.other(n.id).id); err != nil {
		return err
	}
	d.say("node %d is back: ready after %v, and nothing behind", n.id, ready.Round(time.Millisecond))
	return nil
}

// cutOffLeader cuts a leader off from its peers, though not from the clients, and freezes a worker until it is given up.
func (d *clusterDemo) cutOffLeader(ctx context.Context) error {
	n, queues, err := d.leader(ctx)
	if err != nil {
		return err
	}
	worker, err := d.workerID(ctx, demoFrozen)
	if err != nil {
		return err
	}
	d.say("cut node %d, which leads %s, off from its peers, and freeze worker %s", n.id, strings.Join(queues, " and "), demoFrozen)
	event := d.event("node %d was cut off", n.id)
	d.fleet.network.isolate(n.id)
	if err := d.workers.freeze(); err != nil {
		return err
	}
	took, err := d.storesAgain(ctx, "leader cut off", event, queues)
	if err != nil {
		return err
	}
	d.say("all of its queues stored jobs again after %v", took)
	if err := d.fence(ctx, worker, fmt.Sprintf("worker %s was frozen until it was given up", demoFrozen)); err != nil {
		return err
	}
	if err := d.mustNotAnswer(ctx, n, queues[0]); err != nil {
		return err
	}
	if err := d.awaitGivenUp(ctx, demoFrozen); err != nil {
		return err
	}
	if err := d.workers.thaw(); err != nil {
		return err
	}
	d.fleet.network.heal()
	healed := d.event("the cut was healed")
	if _, err := d.fleet.whole(ctx, d.fleet.other(n.id).id); err != nil {
		return err
	}
	d.say("the cut is healed after %v; node %d was nothing behind %v later", healed.Sub(event).Round(time.Millisecond), n.id, time.Since(healed).Round(time.Millisecond))
	return nil
}

// mustNotAnswer checks that a node that is cut off tells nothing of a queue, since what it knows may be old.
func (d *clusterDemo) mustNotAnswer(ctx context.Context, n *fleetNode, queue string) error {
	client, err := beaver.NewClient(beaver.Config{Addr: n.url(), OnlyAddr: true, RetryFor: -1})
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, demoCutMin)
	defer cancel()
	q, err := client.Queue(asking, queue)
	closing := client.Close(ctx)
	switch {
	case err == nil:
		return fmt.Errorf("node %d is cut off, and yet it says that %d jobs of %s are done", n.id, q.CompletedTotal, queue)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	d.say("node %d itself answers nothing about %s, for it may be out of date", n.id, queue)
	return closing
}

// replaceNode has a node lose its disk, and puts a new one in its place.
func (d *clusterDemo) replaceNode(ctx context.Context) error {
	n, queues, err := d.leader(ctx)
	if err != nil {
		return err
	}
	d.say("kill -9 of node %d, which leads %s, and its disk is lost", n.id, strings.Join(queues, " and "))
	event := d.event("node %d was killed and its disk lost", n.id)
	n.kill()
	if err := n.wipe(); err != nil {
		return err
	}
	took, err := d.storesAgain(ctx, "leader and its disk lost", event, queues)
	if err != nil {
		return err
	}
	d.say("all of its queues stored jobs again after %v", took)
	if err := n.launch(); err != nil {
		return err
	}
	select {
	case <-n.exited:
	case <-time.After(fleetWaitMax):
		return fmt.Errorf("node %d lost its disk, and is not refused", n.id)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if n.kill(); n.exitErr == nil {
		return fmt.Errorf("node %d lost its disk, and ends as if nothing was wrong", n.id)
	}
	d.say("started with its old name and an empty disk, node %d is refused; beaver cluster replace", n.id)
	began := time.Now()
	fresh, err := d.fleet.join(ctx, n.id)
	if err != nil {
		return err
	}
	if _, err := d.fleet.until(ctx, fresh.id, "the new node has taken the place", func(info *beaver.ClusterInfo) bool {
		for _, o := range info.Nodes {
			if o.ID == n.id && o.State != "removed" || o.ID == fresh.id && o.State != "active" {
				return false
			}
		}
		return wholeCluster(info)
	}); err != nil {
		return err
	}
	whole := time.Since(began).Round(time.Millisecond)
	d.times = append(d.times, demoFact{"node replaced → all jobs on three nodes", whole})
	d.say("node %d has taken its place with all jobs after %v", fresh.id, whole)
	return nil
}

// restartAll restarts all nodes gracefully, one after the other.
func (d *clusterDemo) restartAll(ctx context.Context) error {
	d.say("rolling restart")
	for _, id := range d.fleet.running() {
		n := d.fleet.nodes[id]
		info, err := d.fleet.whole(ctx, id)
		if err != nil {
			return err
		}
		queues := d.ledBy(info, id)
		event := d.event("node %d was restarted", n.id)
		stopped := make(chan time.Duration, 1)
		go func() {
			n.stop()
			stopped <- time.Since(event)
		}()
		took, err := d.storesAgain(ctx, "node restarted", event, queues)
		stopping := <-stopped
		if err != nil {
			return err
		}
		if n.exitErr != nil {
			return fmt.Errorf("node %d did not stop well: %w", id, n.exitErr)
		}
		if _, err := n.start(ctx); err != nil {
			return err
		}
		led := "no queue"
		if len(queues) > 0 {
			led = strings.Join(queues, " and ")
		}
		d.say("node %d, which led %s, stopped within %v and is back after %v; no queue of these waited longer than %v",
			id, led, stopping.Round(time.Millisecond), time.Since(event).Round(time.Millisecond), took)
	}
	_, err := d.fleet.whole(ctx, d.fleet.running()[0])
	return err
}
