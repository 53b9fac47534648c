package engine

import (
	"context"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
)

// Stats are the figures for metrics. Taking them costs a visit to each shard and no log entry.
type Stats struct {
	Queues        []QueueStats // at most QueueLabelsMax, by name
	QueuesOmitted int          // queues beyond that
	Shards        []ShardStats
	NowMillis     int64  // when they were taken, by the clock that stamps snapshots
	Workers       int    // registered
	WorkersLost   uint64 // since start
	JobsDamaged   uint64 // payloads found damaged since start
	DiskFull      bool
	Load          NodeLoad
	Stored, Ended uint64      // jobs and attempts, on the data shards that this node led at the time, since start
	Calls         []CallStats // to other nodes; none on a node that is alone
	Host          host.Stats  // log, disk, fsync, snapshots and recovery
}

// QueueStats are one queue's figures.
type QueueStats struct {
	Name           string
	Info           queue.QueueInfo
	OldestReadyAge float64        // seconds; 0: none is ready
	Enqueue        HistogramStats // call to answer
	Wait           HistogramStats // ready to leased
	Run            HistogramStats // leased to ended
}

// ShardStats are the figures of one shard's pump.
type ShardStats struct {
	ID            uint16
	WaitingCalls  int   // commands not yet proposed
	WaitingBytes  int64 // of these
	InFlight      int   // entries proposed and not yet applied
	ParkedFetches int
	Overloaded    uint64 // calls refused since the pump was full
	HandedOff     uint64 // fetches that rode in the entry of the enqueue that fed them
	Batches       uint64
	BatchedItems  uint64
	Totals        queue.Totals
}

// CallStats counts what was asked of other nodes for one purpose.
type CallStats struct {
	Kind  string         // commands, query, fetch, stop-fetch, beats, notices, severed or heartbeat
	Count uint64         // since start, answered or not
	Took  HistogramStats // of those answered: until then; no bounds: they wait by themselves, and are not measured
}

// HistogramStats is a latency histogram: Counts[i] observations were at most Bounds[i] seconds and more than
// Bounds[i-1]; the last of Counts is what was over all bounds.
type HistogramStats struct {
	Bounds []float64
	Counts []uint64
	Count  uint64
	Sum    float64 // seconds
}

// statsWait bounds how long taking Stats waits for the shards.
const statsWait = 2 * time.Second

// Stats takes the figures. A shard that does not answer in time leaves its counters zero.
func (e *Engine) Stats() Stats {
	s := Stats{
		Workers: e.workers.count(), WorkersLost: e.lost.Load(), JobsDamaged: e.damaged.Load(),
		DiskFull: e.host.Full(), Host: e.host.Stats(), NowMillis: e.opts.Clock.NowMillis(), Load: e.Load(),
	}
	s.Stored, s.Ended = e.done()
	if e.clustered() {
		for kind := callCommands; kind < callKinds; kind++ {
			c := CallStats{Kind: callNames[kind], Count: e.called[kind].Load()}
			if kind != callFetch {
				c.Took = e.callMeters[kind].read()
			}
			s.Calls = append(s.Calls, c)
		}
	}
	ctx, cancel := context.WithTimeout(e.background, statsWait)
	defer cancel()
	infos := make(map[*pump]map[queue.QueueID]queue.QueueInfo)
	for _, p := range e.data() {
		var totals queue.Totals
		err := e.host.StaleRead(ctx, p.shard, func() {
			totals = p.machine.Totals()
			infos[p] = make(map[queue.QueueID]queue.QueueInfo)
			for _, info := range p.machine.Queues() {
				infos[p][info.Queue] = info
			}
		})
		st := p.stats()
		if err == nil {
			st.Totals = totals
		}
		s.Shards = append(s.Shards, st)
	}
	for _, rt := range e.routes.sorted() {
		if rt.meters == nil {
			s.QueuesOmitted++
			continue
		}
		q := QueueStats{
			Name:    rt.name,
			Enqueue: rt.meters.enqueue.read(), Wait: rt.meters.wait.read(), Run: rt.meters.run.read(),
		}
		status := rt.status()
		for _, h := range rt.all {
			info := infos[h.pump][h.id]
			status.add(rt, h, &info, e.storedAt(h.pump.shard, &info))
		}
		if q.Info = status.Info; !status.OldestReadyAt.IsZero() {
			q.OldestReadyAge = max(0, time.Duration(s.NowMillis-status.OldestReadyAt.UnixMilli())*time.Millisecond).Seconds()
		}
		s.Queues = append(s.Queues, q)
	}
	return s
}

// stats takes the pump's own figures; any goroutine may call it.
func (p *pump) stats() ShardStats {
	p.mu.Lock()
	parked := p.parked
	p.mu.Unlock()
	return ShardStats{
		ID: uint16(p.shard), WaitingCalls: int(p.waiting.Load()), WaitingBytes: p.bytes.Load(), InFlight: int(p.inFlight.Load()),
		ParkedFetches: parked, Overloaded: p.overloaded.Load(), HandedOff: p.handed.Load(),
		Batches: p.batches.Load(), BatchedItems: p.items.Load(),
	}
}
