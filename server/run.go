package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
)

// Times of a run that asks the others whether it may begin.
const (
	// beginWait is how long an answer is waited for: the other side looks for a sign of life, which takes a ping's time and a half.
	beginWait = 1500 * time.Millisecond
	// leaveWait is how long a run of the same node may still seem to live. It has the node's place until its connections are found dead.
	leaveWait = 4 * time.Second
)

// runs are the newest run of each other node that was heard of. It is known in memory only: a node tells about itself from time to time.
type runs struct {
	mu     sync.Mutex
	newest map[uint64]founding.Run // REQUIRES: mu
}

// judge says why a run cannot be beside what is known, or is empty; one that has begun is known from then on.
func (r *runs) judge(run *founding.Run) (refusal string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.newest[run.Node]
	if ok {
		if refusal = run.After(&known); refusal != "" {
			return refusal
		}
	}
	if run.Begun && (ok || len(r.newest) < cluster.NodesMax) {
		if r.newest == nil {
			r.newest = make(map[uint64]founding.Run)
		}
		r.newest[run.Node] = *run
	}
	return ""
}

// prune forgets the runs of nodes that were removed, whose ids nobody has again.
func (r *runs) prune(removed func(node uint64) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.newest, func(node uint64, _ founding.Run) bool { return removed(node) })
}

// mayRun answers another node's run.
func (p *peers) mayRun(ctx context.Context, run *founding.Run) founding.Message {
	own := p.membership()
	if own == nil || own.Cluster != run.Cluster || own.Node == run.Node {
		return founding.Message{Refused: "this node cannot tell", Later: true}
	}
	if refusal := p.knownRuns.judge(run); refusal != "" {
		p.logger.Warn("a run of a node is refused", "node", run.Node, "addr", run.Address, "err", refusal)
		return founding.Message{Run: run, Refused: refusal}
	}
	if !run.Begun && p.transport.Talks(ctx, run.Node) {
		at := p.addressOf(run.Node)
		p.logger.Warn("a second process wants to run as a node that is running", "node", run.Node, "addr", run.Address, "running_at", at)
		return founding.Message{Run: run, Later: true, Refused: fmt.Sprintf("node %d is running already, at %s: is this a copy of its data directory? "+
			"An id is for one process. To move the node, stop it there first; to have one more, start it with an empty data directory and --join", run.Node, at)}
	}
	return founding.Message{Run: run}
}

// addressOf is where a peer is.
func (p *peers) addressOf(node uint64) string {
	for _, s := range p.transport.Stats().Peers {
		if s.Node == node {
			return s.Address
		}
	}
	return "an unknown address"
}

// begin counts a run of this node, before it takes part in anything. If the directory was of the cluster before, the others are asked first
// whether they know of a later run, or of a process that runs as this node. Nobody can be asked who does not answer: what this finds out
// early, the leaders' heartbeats find out late (shard.LostLogError), unless they were elected since.
//
// A run that there is no room to count begins all the same, since workers make room by what they end. It is nobody's business then: the next
// one has its number.
func (p *peers) begin(ctx context.Context, way founding.Way, record *founding.Record, members map[uint64]string) error {
	count, err := founding.ReadRuns(p.fs, p.dir)
	if err != nil {
		return err
	}
	p.run = founding.Run{Cluster: record.Cluster, Node: record.Node, Address: p.options.Advertise, Count: count + 1}
	_, _ = rand.Read(p.run.Nonce[:]) // never fails
	if way == founding.Return {
		addresses := slices.Collect(maps.Values(members))
		if j := p.options.Join; j != "" && !slices.Contains(addresses, j) {
			addresses = append(addresses, j)
		}
		if err := p.allowed(ctx, addresses); err != nil {
			return err
		}
	}
	err = founding.WriteRuns(p.fs, p.dir, p.run.Count)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		p.logger.Warn("the disk is full, and this run of the node is not counted: until it is started again, others cannot tell an older copy of its directory", "err", err)
		return nil
	}
	p.run.Begun = err == nil
	return err
}

// allowed asks whether this run may begin. Where another one seems to live, it asks again until that would be found dead.
func (p *peers) allowed(ctx context.Context, addresses []string) error {
	for until := time.Now().Add(leaveWait); ; {
		refusals := make(chan *founding.StartError, len(addresses))
		later := make(chan *founding.StartError, len(addresses)) // what may pass
		var asked sync.WaitGroup
		for _, address := range addresses {
			asked.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, beginWait)
				defer cancel()
				answer, _, err := p.introduce(ctx, address, founding.Message{Run: &p.run})
				switch {
				case err != nil || answer.Run == nil || answer.Refused == "":
				case answer.Later:
					later <- refusedRun(address, answer)
				default:
					refusals <- refusedRun(address, answer)
				}
			})
		}
		asked.Wait()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("asking whether another process runs as node %d: %w", p.run.Node, ctx.Err())
		case len(refusals) > 0:
			return <-refusals
		case len(later) == 0:
			return nil
		}
		why := <-later
		if time.Now().After(until) {
			return why
		}
		p.await("another process runs as this node: waiting for its end")
		if err := p.rest(ctx, askPauseMin); err != nil {
			return err
		}
	}
}

func refusedRun(address string, answer *founding.Message) *founding.StartError {
	return &founding.StartError{Reason: fmt.Sprintf("the node at %s says: %s", address, answer.Refused)}
}

// tellRun tells a node of this run. If that knows of a later one, this one ends.
func (p *peers) tellRun(address string) {
	if !p.run.Begun {
		return
	}
	answer, _, err := p.introduce(p.ctx, address, founding.Message{Run: &p.run})
	if err != nil || answer.Run == nil || answer.Refused == "" || answer.Later {
		return
	}
	unfit := refusedRun(address, answer)
	p.mu.Lock()
	first := p.unfit == nil
	if first {
		p.unfit = unfit
		close(p.superseded)
	}
	p.mu.Unlock()
	if first {
		p.fatal(unfit)
	}
}
