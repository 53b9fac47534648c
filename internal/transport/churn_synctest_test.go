package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// TestChurn: three nodes send and call, while connections break, fall silent, and peers are removed, moved and made known again. What
// arrives is in order, no call is served twice or said not to be when it was, and every goroutine ends.
func TestChurn(t *testing.T) {
	seeds := uint64(4)
	if text := os.Getenv("BEAVER_SEEDS"); text != "" {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChurn(t, seed)
				for range 1000 {
					c.step()
				}
				c.finish()
			})
		})
	}
}

type churn struct {
	t       *testing.T
	chance  *rand.Rand
	p       *pipes
	nodes   []*Transport
	records []*record
	sent    uint64
	calls   sync.WaitGroup

	mu     sync.Mutex
	served map[uint64]int
}

func newChurn(t *testing.T, seed uint64) *churn {
	c := &churn{t: t, chance: rand.New(rand.NewPCG(seed, 1)), p: newPipes(), served: map[uint64]int{}}
	security := Insecure()
	if c.chance.IntN(2) == 0 {
		security = Secret(testSecret())
	}
	for i := range uint64(3) {
		r := newRecord()
		r.serve = c.serve
		c.records = append(c.records, r)
		c.nodes = append(c.nodes, c.p.node(t, i+1, r, func(config *Config) { config.Security = security }))
	}
	for i := range c.nodes {
		c.know(i)
	}
	return c
}

func (c *churn) know(i int) {
	for to := range uint64(3) {
		if to != uint64(i) {
			setPeer(c.t, c.nodes[i], to+1, fmt.Sprintf("node-%d", to+1))
		}
	}
}

func (c *churn) serve(ctx context.Context, _ uint64, _ uint8, body []byte) ([]byte, error) {
	id := binary.LittleEndian.Uint64(body)
	c.mu.Lock()
	c.served[id]++
	c.mu.Unlock()
	select {
	case <-time.After(time.Duration(id%200) * time.Millisecond):
		return body, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *churn) step() {
	i, to := c.chance.IntN(3), uint64(c.chance.IntN(3)+1)
	switch n := c.chance.IntN(100); {
	case n < 60:
		for range c.chance.IntN(20) {
			c.sent++
			c.nodes[i].Send(to, uint16(c.sent%3), []*raftpb.Message{appendOf(c.sent, make([]byte, c.chance.IntN(8_000)))})
			c.nodes[i].SendTransfer(to, 1, uint8(c.sent), binary.LittleEndian.AppendUint64(nil, c.sent))
		}
	case n < 85:
		c.call(c.nodes[i], to)
	case n < 88:
		c.p.cut()
	case n < 89:
		c.p.silent.Store(true)
	case n < 92:
		c.p.silent.Store(false)
	case n < 93:
		c.nodes[i].RemovePeer(to)
	case n < 94:
		if to != uint64(i+1) {
			setPeer(c.t, c.nodes[i], to, "nowhere")
		}
	default:
		c.know(i)
	}
	time.Sleep(time.Duration(c.chance.IntN(100)) * time.Millisecond)
}

// call makes a call whose body says which it is, and compares what its end says with what happened.
func (c *churn) call(from *Transport, to uint64) {
	c.sent++
	id, budget := c.sent, time.Duration(c.chance.IntN(5000))*time.Millisecond
	body := append(binary.LittleEndian.AppendUint64(nil, id), make([]byte, c.chance.IntN(100_000))...)
	c.calls.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), budget)
		defer cancel()
		answer, err := from.Call(ctx, to, 1, body)
		time.Sleep(10 * time.Second) // whatever is still under way arrives or is cut
		c.mu.Lock()
		defer c.mu.Unlock()
		switch n := c.served[id]; {
		case n > 1:
			c.t.Errorf("call %d was served %d times", id, n)
		case err == nil && (n != 1 || len(answer) != len(body)):
			c.t.Errorf("call %d was served %d times and has an answer of %d bytes", id, n, len(answer))
		case errors.Is(err, ErrUnreachable) && n != 0:
			c.t.Errorf("call %d was served, and its end is %v", id, err)
		case err != nil && !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrUnknownOutcome):
			c.t.Errorf("call %d: %v", id, err)
		}
	})
}

func (c *churn) finish() {
	c.p.silent.Store(false)
	c.calls.Wait()
	for i := range c.nodes {
		c.know(i)
	}
	time.Sleep(30 * time.Second)
	synctest.Wait()
	for i, r := range c.records {
		last := map[uint64]uint64{}
		for _, m := range r.messages {
			index := m.message.Entries[0].GetIndex()
			if index <= last[m.from] || m.shard != uint16(index%3) {
				c.t.Fatalf("node %d got message %d of node %d after %d", i+1, index, m.from, last[m.from])
			}
			last[m.from] = index
		}
		clear(last)
		for _, k := range r.chunks {
			index := binary.LittleEndian.Uint64(k.data)
			if index <= last[k.from] || k.kind != uint8(index) {
				c.t.Fatalf("node %d got chunk %d of node %d after %d", i+1, index, k.from, last[k.from])
			}
			last[k.from] = index
		}
		if len(r.messages) < 50 || len(r.chunks) < 50 {
			c.t.Errorf("node %d got %d messages and %d chunks: this tests little", i+1, len(r.messages), len(r.chunks))
		}
	}
	for i := range c.nodes { // all is well again
		for to := range uint64(3) {
			if to != uint64(i) && !c.nodes[i].Send(to+1, 9, []*raftpb.Message{heartbeat(1)}) {
				c.t.Errorf("node %d cannot send to node %d", i+1, to+1)
			}
		}
	}
	synctest.Wait()
	for i, r := range c.records {
		if n := len(r.messages); n < 2 || r.messages[n-1].shard != 9 || r.messages[n-2].shard != 9 {
			c.t.Errorf("node %d was not reached after all was well", i+1)
		}
	}
}
