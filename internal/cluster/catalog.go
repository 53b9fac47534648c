package cluster

import (
	"encoding/binary"
	"iter"

	"github.com/tidwall/btree"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Queue is a queue's record. Records are immutable: a change makes a new one.
type Queue struct {
	ID   queue.QueueID
	Name string
	Place
	Version  uint64 // grows with every change of Settings or Place that its homes have to take in, from 1
	Settings queue.Settings
}

// WorkerInfo is what a worker says of itself.
type WorkerInfo struct {
	Name        string
	Host        string
	PID         int
	Version     string
	Labels      []string
	Queues      []string
	Concurrency int
}

// Worker is a registered worker's record. Records are immutable.
type Worker struct {
	ID         queue.WorkerID
	Registered queue.Millis
	Info       WorkerInfo
}

// Code is the outcome of one command.
type Code uint8

// The outcomes. Every code but CodeOK changed nothing.
const (
	CodeOK          Code = iota
	CodeExists           // the queue was there (Result.Queue), the cluster has its id or its shards already, or another node is in the way
	CodeNotFound         // no such queue, worker or node
	CodeLimit            // QueuesMax (of all, or of a shard), WorkersMax, NodesMax or FormersMax is reached, or the last node would leave
	CodeMalformed        // the command does not decode or breaks a limit
	CodeMoving           // the queue moves already, or lives elsewhere (Result.Queue)
	CodePartitioned      // the queue has several partitions (Result.Queue)
)

// Result is the outcome of one command.
type Result struct {
	Code   Code
	Worker queue.WorkerID
	Queue  Queue
}

// Catalog is the state. The zero value is not usable; see New.
type Catalog struct {
	id         ID
	applied    uint64
	now        queue.Millis
	lastQueue  queue.QueueID
	lastWorker queue.WorkerID
	lastNode   shard.NodeID
	queues     *btree.Map[string, *Queue]
	workers    *btree.Map[uint64, *Worker]
	nodes      *btree.Map[uint64, *Node]
	preferred  *btree.Map[uint64, uint64] // leaders, by shard
	growths    []Growth                   // by shard; never changed in place

	homes  map[uint16]int // partitions of queues per shard; derived, only looked up
	berths map[uint16]int // the same, and those that have left it; derived, only looked up
	moved  int            // queues that moved once; derived
	odd    int            // queues whose records are not plain; derived
	sum    uint64         // the records' hashes, XORed
}

// New makes an empty catalog.
func New() *Catalog {
	return &Catalog{
		queues:  btree.NewMap[string, *Queue](0),
		workers: btree.NewMap[uint64, *Worker](0),
		nodes:   btree.NewMap[uint64, *Node](0),

		preferred: btree.NewMap[uint64, uint64](0),
		homes:     make(map[uint16]int),
		berths:    make(map[uint16]int),
	}
}

// ID is the cluster's id; zero until it was drawn.
func (c *Catalog) ID() ID { return c.id }

// Now is the catalog's clock: the highest stamp applied.
func (c *Catalog) Now() queue.Millis { return c.now }

// Applied is the index of the last entry applied.
func (c *Catalog) Applied() uint64 { return c.applied }

// Queue finds a queue by name.
func (c *Catalog) Queue(name string) (Queue, bool) {
	q, ok := c.queues.Get(name)
	if !ok {
		return Queue{}, false
	}
	return *q, true
}

// Queues yields all queues by name.
func (c *Catalog) Queues() iter.Seq[*Queue] {
	return func(yield func(*Queue) bool) {
		c.queues.Scan(func(_ string, q *Queue) bool { return yield(q) })
	}
}

// QueueCount is how many queues there are.
func (c *Catalog) QueueCount() int { return c.queues.Len() }

// Worker finds a worker by id.
func (c *Catalog) Worker(id queue.WorkerID) (Worker, bool) {
	w, ok := c.workers.Get(uint64(id))
	if !ok {
		return Worker{}, false
	}
	return *w, true
}

// Workers yields all registered workers by id.
func (c *Catalog) Workers() iter.Seq[*Worker] {
	return func(yield func(*Worker) bool) {
		c.workers.Scan(func(_ uint64, w *Worker) bool { return yield(w) })
	}
}

// WorkerCount is how many workers are registered.
func (c *Catalog) WorkerCount() int { return c.workers.Len() }

// Fingerprint is a running hash of the state.
func (c *Catalog) Fingerprint() uint64 {
	b := make([]byte, 0, 48)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.id))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.now))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.lastQueue))
	b = binary.LittleEndian.AppendUint64(b, uint64(c.lastWorker))
	b = binary.LittleEndian.AppendUint64(b, c.sum)
	if c.lastNode != 0 { // as it was before there were nodes
		b = binary.LittleEndian.AppendUint64(b, uint64(c.lastNode))
	}
	return hash(b)
}

func (c *Catalog) putQueue(q *Queue) {
	old, replaced := c.queues.Set(q.Name, q)
	if replaced {
		c.sum ^= old.hash()
		c.count(old, -1)
	}
	c.sum ^= q.hash()
	c.count(q, 1)
}

// count adds a queue to what is derived of all, or takes it out.
func (c *Catalog) count(q *Queue, by int) {
	c.moved += by * min(1, len(q.Formers))
	if !q.plain() {
		c.odd += by
	}
	for _, s := range q.Home.Shards {
		c.homes[s] += by
		c.berths[s] += by
	}
	for i := range q.Formers {
		for _, s := range q.Formers[i].Shards {
			c.berths[s] += by
		}
	}
}

func (c *Catalog) putWorker(w *Worker) {
	c.workers.Set(uint64(w.ID), w)
	c.sum ^= w.hash()
}

func (q *Queue) hash() uint64  { return hash(appendQueue([]byte{'q'}, q)) }
func (w *Worker) hash() uint64 { return hash(appendWorker([]byte{'w'}, w)) }

// hash is FNV-1a with a finisher that spreads the last bytes over all bits, so that XORed records do not cancel.
func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
