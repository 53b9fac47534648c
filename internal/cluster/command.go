package cluster

import (
	"encoding/binary"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// The types of commands; the values are stored and never change their meaning.
const (
	commandInit      = 1
	commandCreate    = 2
	commandConfigure = 3
	commandPause     = 4
	commandRegister  = 5
	commandRemove    = 6
	commandFound     = 7
	commandExpect    = 8
	commandJoin      = 9
	commandMove      = 10
	commandAnnounce  = 11
	commandPrefer    = 12
	commandGrow      = 13
	commandRelocate  = 14
	commandOpened    = 15
	commandSettled   = 16

	commandCreateSpread  = 17
	commandSpread        = 18
	commandSpreadOpened  = 19
	commandSpreadSettled = 20

	commandEmptied = 21
)

// BatchVersion is the version of the batch that a command needs: those of the first version are what every machine knows.
func BatchVersion(command []byte) uint8 {
	if len(command) > 0 && command[0] >= commandEmptied {
		return shard.BatchVersion
	}
	return shard.BatchVersionFirst
}

// ID names a cluster for ever: a random number drawn at its first start. 0 is none.
type ID uint64

// AppendInit encodes: this is the cluster's id. The first one wins.
func AppendInit(dst []byte, id ID) []byte {
	dst = append(dst, commandInit)
	return binary.LittleEndian.AppendUint64(dst, uint64(id))
}

// AppendCreateQueue encodes: make a queue with its home on a shard. An existing one is left as it is.
func AppendCreateQueue(dst []byte, name string, shard uint16, s *queue.Settings) []byte {
	dst = append(dst, commandCreate)
	dst = appendText(dst, name)
	dst = binary.AppendUvarint(dst, uint64(shard))
	return AppendSettings(dst, s)
}

// AppendConfigureQueue encodes: replace a queue's settings, whether it is paused included.
func AppendConfigureQueue(dst []byte, name string, s *queue.Settings) []byte {
	dst = append(dst, commandConfigure)
	dst = appendText(dst, name)
	return AppendSettings(dst, s)
}

// AppendPauseQueue encodes: pause or resume a queue.
func AppendPauseQueue(dst []byte, name string, paused bool) []byte {
	dst = append(dst, commandPause)
	dst = appendText(dst, name)
	return appendBool(dst, paused)
}

// AppendRegisterWorker encodes: a worker came; give it an id.
func AppendRegisterWorker(dst []byte, w *WorkerInfo) []byte {
	dst = append(dst, commandRegister)
	return appendWorkerInfo(dst, w)
}

// AppendRemoveWorker encodes: the worker went or was lost, and holds no lease on any shard any more.
func AppendRemoveWorker(dst []byte, w queue.WorkerID) []byte {
	dst = append(dst, commandRemove)
	return binary.AppendUvarint(dst, uint64(w))
}

// Apply carries out one entry's items in order and appends one Result each to out. now is the entry's stamp.
func (c *Catalog) Apply(index uint64, now queue.Millis, items [][]byte, out []Result) []Result {
	c.applied = index
	c.now = max(c.now, now)
	for _, item := range items {
		out = append(out, c.apply(item))
	}
	return out
}

func (c *Catalog) apply(item []byte) Result {
	d := decoder{b: item}
	switch kind := d.byte(); kind {
	case commandInit:
		if id := d.bytes(8); d.end() {
			return c.init(ID(binary.LittleEndian.Uint64(id)))
		}
	case commandCreate:
		name, shard, s := d.text(QueueNameBytesMax), uint16(d.uint(1<<16-1)), d.settings()
		if d.end() && ValidQueueName(name) && shard != 0 {
			return c.create(name, []uint16{shard}, s)
		}
	case commandConfigure:
		name, s := d.text(QueueNameBytesMax), d.settings()
		if d.end() {
			return c.configure(name, s)
		}
	case commandPause:
		name, paused := d.text(QueueNameBytesMax), d.byte()
		if d.end() && paused <= 1 {
			return c.pause(name, paused == 1)
		}
	case commandRegister:
		w := d.workerInfo()
		if d.end() {
			return c.register(w)
		}
	case commandRemove:
		w := queue.WorkerID(d.uint(1<<64 - 1))
		if d.end() {
			return c.remove(w)
		}
	case commandRelocate, commandOpened, commandSettled:
		return c.applyMove(kind, &d)
	case commandCreateSpread, commandSpread, commandSpreadOpened, commandSpreadSettled:
		return c.applySpread(kind, &d)
	case commandEmptied:
		return c.applyEmptied(&d)
	default:
		return c.applyNode(kind, &d)
	}
	return Result{Code: CodeMalformed}
}

func (c *Catalog) init(id ID) Result {
	if id == 0 {
		return Result{Code: CodeMalformed}
	}
	if c.id != 0 {
		return Result{Code: CodeExists}
	}
	c.id = id
	return Result{Code: CodeOK}
}

func (c *Catalog) create(name string, shards []uint16, s queue.Settings) Result {
	if q, ok := c.queues.Get(name); ok {
		return Result{Code: CodeExists, Queue: *q}
	}
	if c.queues.Len() >= QueuesMax || c.crowded(shards) {
		return Result{Code: CodeLimit}
	}
	c.lastQueue++
	q := &Queue{ID: c.lastQueue, Name: name, Place: Place{Home: Homes{ID: c.lastQueue, Shards: shards}}, Version: 1, Settings: s}
	c.putQueue(q)
	return Result{Code: CodeOK, Queue: *q}
}

func (c *Catalog) configure(name string, s queue.Settings) Result {
	q, ok := c.queues.Get(name)
	if !ok {
		return Result{Code: CodeNotFound}
	}
	return c.change(q, s)
}

func (c *Catalog) pause(name string, paused bool) Result {
	q, ok := c.queues.Get(name)
	if !ok {
		return Result{Code: CodeNotFound}
	}
	s := q.Settings
	s.Paused = paused
	return c.change(q, s)
}

// change replaces a queue's record, unless nothing would differ: a repeated command is then free for the shard too.
func (c *Catalog) change(q *Queue, s queue.Settings) Result {
	if string(AppendSettings(nil, &s)) == string(AppendSettings(nil, &q.Settings)) {
		return Result{Code: CodeOK, Queue: *q}
	}
	changed := *q // records are shared with images: never changed in place
	changed.Settings = s
	changed.Version++
	c.putQueue(&changed)
	return Result{Code: CodeOK, Queue: changed}
}

func (c *Catalog) register(w WorkerInfo) Result {
	if c.workers.Len() >= WorkersMax {
		return Result{Code: CodeLimit}
	}
	c.lastWorker++
	c.putWorker(&Worker{ID: c.lastWorker, Registered: c.now, Info: w})
	return Result{Code: CodeOK, Worker: c.lastWorker}
}

func (c *Catalog) remove(id queue.WorkerID) Result {
	w, ok := c.workers.Delete(uint64(id))
	if !ok {
		return Result{Code: CodeNotFound, Worker: id}
	}
	c.sum ^= w.hash()
	return Result{Code: CodeOK, Worker: id}
}
