//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// exitRefused is the status of the program when the state of what it was told to change does not allow that.
const exitRefused = 5

// spread gives a queue another number of partitions, more or fewer.
func (s *storm) spread() bool {
	name := s.drawQueue(spreadQueues())
	count := 1 + s.rng.IntN(s.shards-1)
	if count >= len(s.record.homes(name)) {
		count++
	}
	return s.rehome(name, "queues", "set", name, "--partitions", fmt.Sprint(count))
}

// move gives a queue of one partition another home.
func (s *storm) move() bool {
	name := s.drawQueue(plainQueues())
	to := 1 + s.rng.IntN(s.shards-1)
	if to >= s.record.homes(name)[0] {
		to++
	}
	return s.rehome(name, "queues", "move", name, "--to", fmt.Sprint(to))
}

// drawQueue draws a queue: mostly one that has not moved of late, if there is one, and half of the time one whose jobs have unique keys.
// A queue that has jobs moves for longer than most storms last.
func (s *storm) drawQueue(names []string) string {
	prefer := func(kind func(string) bool) {
		if some := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !kind(name) }); len(some) > 0 {
			names = some
		}
	}
	if s.rng.IntN(8) > 0 {
		prefer(func(name string) bool { return !s.record.movedLately(name) })
	}
	if s.rng.IntN(2) > 0 {
		prefer(isUnique)
	}
	return names[s.rng.IntN(len(names))]
}

// movedLately reports whether a queue moved less than a quarter of an hour ago.
func (r *recorder) movedLately(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.tenures[name]
	return len(all) > 1 && r.now() < all[len(all)-1].first+15*time.Minute
}

// storedLately reports whether clients may still repeat what shards answered before a moment, of jobs of a queue.
func (r *recorder) storedLately(name string, shards []int, before time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l, id := range r.ids {
		parsed, err := queue.ParseJobID(string(id))
		if err != nil || r.jobs[l].queue != name || !slices.Contains(shards, int(parsed.Shard)) {
			continue
		}
		if slices.ContainsFunc(r.log.Of(l), func(op history.Operation) bool {
			return op.Kind == history.Enqueue && op.Return <= before && r.now() < op.Call+10*time.Minute
		}) {
			return true
		}
	}
	return false
}

// rehome has a command give a queue other homes, half of the time while something else goes wrong. It happened when new jobs go to other
// shards; that it is refused while the queue moves is expected.
func (s *storm) rehome(name string, args ...string) bool {
	q := s.readQueue(name)
	if q == nil {
		return false
	}
	before, moves, began := q.Shards, len(q.MovingFromShards) > 0, s.record.now()
	beside, during := fault{}, ""
	if s.rng.IntN(2) == 0 {
		beside = s.drawFault(func(f *fault) bool { return f.beside })
		during = ", during " + beside.name
	}
	addrs, outcome := s.addrs(), make(chan error, 1)
	go func() { outcome <- s.persist(addrs, args) }()
	if beside.run != nil {
		if beside.run() {
			s.happened[beside.name]++
		} else {
			s.missed[beside.name]++
		}
	}
	err := <-outcome
	if q = s.readQueue(name); q == nil {
		return false
	}
	changed, refused := !slices.Equal(q.Shards, before), stillMoves(err)
	if changed && refused { // the answer got lost, and its repeat found the queue moving
		err = s.persist(addrs, args)
		refused = stillMoves(err)
	}
	if changed {
		s.record.moved(name, q.Shards, began, s.record.now())
	}
	if refused {
		during += ", refused"
	}
	s.t.Logf("           %s: from shards %v to %v%s", strings.Join(args, " "), before, q.Shards, during)
	switch {
	case refused && moves && !changed:
		s.refused++
	case err != nil:
		s.record.violate("%s, which moves: %t, moved: %t: %v", name, moves, changed, err)
	case len(q.MovingFromShards) == 0 && s.record.storedLately(name, before, began):
		s.record.violate("%s has moved at once from shards %v, and jobs were sent there a moment before", name, before)
	case !changed || len(q.MovingFromShards) > 0 && !slices.Equal(q.MovingFromShards, before):
		s.record.violate("%s is said to be on other shards than %v, and it is on %v, and moves from %v", name, before, q.Shards, q.MovingFromShards)
	}
	return changed
}

// stillMoves reports whether a command was refused since its queue moves, or was moved just now.
func stillMoves(err error) bool {
	exit, _ := errors.AsType[*exec.ExitError](err)
	return exit != nil && exit.ExitCode() == exitRefused && (strings.Contains(err.Error(), "still moving") || strings.Contains(err.Error(), "just now"))
}

// persist runs a command until it is done or refused: it may be said again, and what happens to the cluster does not go on for ever.
func (s *storm) persist(addrs string, args []string) error {
	deadline := time.Now().Add(healMax)
	for {
		err := s.runAt(addrs, args...)
		exit, _ := errors.AsType[*exec.ExitError](err)
		if err == nil || exit != nil && exit.ExitCode() == exitRefused || time.Now().After(deadline) || pause(s.ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

// readQueue reads a queue, as soon as that is possible.
func (s *storm) readQueue(name string) (q *beaver.QueueInfo) {
	s.until("the queue "+name+" can be read", func(*beaver.ClusterInfo) bool {
		return s.operator(s.addrs(), 5*time.Second, func(ctx context.Context, c *beaver.Client) (err error) {
			q, err = c.Queue(ctx, name)
			return err
		}) == nil
	})
	return q
}
