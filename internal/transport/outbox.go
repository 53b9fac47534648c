package transport

import (
	"encoding/binary"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// outbox holds the Raft messages that wait for a peer.
//
// It is bounded in two ways. Over queueMessagesMax messages every further one is dropped. Over queueBytesMax bytes of entries only those
// with entries are: heartbeats and votes are small, and a peer that is too slow for appends shall not lose its leader over it. It is the newest
// that is dropped, and never a part of a message: Raft finds the gap with the next append, and goes on from there.
type outbox struct {
	bytesMax int
	counters *counters
	wake     chan struct{}

	mu     sync.Mutex
	closed bool // no connection can be had now
	queue  fifo[envelope]
	bytes  int // of the entries' data

	taken []envelope // of the lane's goroutine: what fill puts into a frame
}

// push takes messages to be sent. It returns how many were dropped, and the last of those that never could be sent.
func (o *outbox) push(shard uint16, messages []*raftpb.Message) (dropped int, unfit *raftpb.Message) {
	o.mu.Lock()
	before := o.queue.len()
	for _, m := range messages {
		e, ok := seal(shard, m)
		if !ok {
			unfit = m
		}
		if !ok || o.closed || o.queue.len() >= queueMessagesMax || e.data > 0 && o.bytes+e.data > o.bytesMax {
			dropped++
			continue
		}
		o.queue.push(e)
		o.bytes += e.data
	}
	waking := before == 0 && o.queue.len() > 0
	o.mu.Unlock()
	if waking {
		signal(o.wake)
	}
	if dropped > 0 {
		o.counters.dropped.Add(uint64(dropped))
	}
	return dropped, unfit
}

func (o *outbox) fill(w *frameWriter) (time.Duration, bool) {
	meta, data := 0, 0
	o.mu.Lock()
	for o.queue.len() > 0 && len(o.taken) < frameMessagesMax && meta+data < frameTargetBytes {
		e := o.queue.pop()
		o.bytes -= e.data
		meta += e.meta
		data += e.data
		o.taken = append(o.taken, e)
	}
	o.mu.Unlock()
	if len(o.taken) == 0 {
		return 0, false
	}
	w.begin(frameBatch, batchHeadBytes+meta+data)
	w.buffer = binary.LittleEndian.AppendUint32(w.buffer, uint32(len(o.taken)))
	w.buffer = binary.LittleEndian.AppendUint32(w.buffer, uint32(meta))
	for _, e := range o.taken {
		w.buffer = appendMessage(w.buffer, e)
	}
	for _, e := range o.taken {
		for _, entry := range e.message.Entries {
			w.data(entry.Data)
		}
	}
	o.counters.messagesOut.Add(uint64(len(o.taken)))
	clear(o.taken)
	o.taken = o.taken[:0]
	return 0, true
}

func (o *outbox) fail(error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counters.dropped.Add(uint64(o.queue.len()))
	o.queue, o.bytes, o.closed = fifo[envelope]{}, 0, true
}

func (o *outbox) resume() {
	o.mu.Lock()
	o.closed = false
	o.mu.Unlock()
}

func (o *outbox) waiting() (messages, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queue.len(), o.bytes
}

// take: nothing but pongs comes back on a connection for messages.
func (o *outbox) take(_ *frameReader, kind frameKind, _ int) error {
	return malformed("a frame of kind %d", kind)
}

// signal wakes whoever waits on the channel, or will.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
