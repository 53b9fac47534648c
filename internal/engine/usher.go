package engine

import (
	"context"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// usher knows the calls that are under way to leaders' nodes, to end those whose node leads no more and does not answer.
type usher struct {
	mu     sync.Mutex
	last   uint64           // REQUIRES: mu
	guests map[uint64]guest // REQUIRES: mu
	parked map[uint64]int   // REQUIRES: mu; fetches that wait at each other node
}

// guest is one call.
type guest struct {
	shard shard.ID
	node  uint64
	end   context.CancelFunc
}

func (u *usher) enter(id shard.ID, node uint64, end context.CancelFunc) (ticket uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last++
	u.guests[u.last] = guest{id, node, end}
	return u.last
}

func (u *usher) leave(ticket uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.guests, ticket)
}

// park counts a fetch that is going to wait at a node, or says why it may not.
func (u *usher) park(node uint64) *Error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.parked[node] >= FarFetchesMax {
		return newError(CodeResourceExhausted, ReasonOverloaded,
			"as many fetches of this node wait at node %d as may (%d); connect workers to other nodes, or use fewer connections with more jobs each", node, FarFetchesMax)
	}
	u.parked[node]++
	return nil
}

func (u *usher) unpark(node uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.parked[node]--; u.parked[node] == 0 {
		delete(u.parked, node)
	}
}

// watchLeaders is the usher's goroutine. A node that lost the lead and lives answers at once; one that is dead is noticed by its
// connection only after it was silent for a while, and the shard has another leader before.
func (e *Engine) watchLeaders() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		moved := e.host.Moved()
		e.usher.sweep(func(g guest) bool {
			l, _ := e.host.LeadershipOf(g.shard)
			return l.Leading || l.Leader != 0 && uint64(l.Leader) != g.node
		})
		select {
		case <-moved:
		case <-e.background.Done():
			return
		}
		timer.Reset(movedGrace)
		select {
		case <-timer.C:
		case <-e.background.Done():
			return
		}
	}
}

// sweep ends the calls that are in vain.
func (u *usher) sweep(vain func(guest) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, g := range u.guests {
		if vain(g) {
			g.end()
		}
	}
}
