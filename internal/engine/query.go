package engine

import (
	"context"
	"encoding/json"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// queryKind says what a query asks.
type queryKind uint8

// The queries. Each is answered where its shard is led, after making sure that it is, so that every operation acknowledged before
// shows in the answer. Numbers are never reused.
const (
	queryIndex   queryKind = 1  // the catalog's index: who has applied it knows all that was acknowledged
	queryJob     queryKind = 2  // a job with all that lies in the log
	queryPlace   queryKind = 3  // a job's queue and priority
	queryList    queryKind = 4  // a page of a queue's jobs
	queryRows    queryKind = 5  // the same, without what lies in the log
	queryQueue   queryKind = 6  // a queue's counters
	queryQueues  queryKind = 7  // those of all queues of the shard
	queryHolders queryKind = 8  // the workers that hold leases: all, or those of Workers
	queryLeases  queryKind = 9  // what a worker holds
	queryJudge   queryKind = 10 // which of the leases that a worker names it lost or should stop
	queryWorkers queryKind = 11 // the registered workers, at the catalog
	querySignal  queryKind = 12 // not a question: what a worker shall do, at the catalog
	queryChange  queryKind = 13 // not a question: a queue's settings, at the catalog
	querySession queryKind = 14 // what is remembered of a session's sequence number
	queryKeys    queryKind = 15 // who holds unique keys of a queue
)

// query is a read of one shard. What a kind does not need is left out.
type query struct {
	Kind     queryKind
	Shard    shard.ID
	Pos      queue.Pos     `json:",omitzero"`
	Queue    queue.QueueID `json:",omitzero"`
	State    State         `json:",omitzero"`
	Cursor   queue.Cursor  `json:",omitzero"`
	Limit    int           `json:",omitzero"`
	Full     bool          `json:",omitzero"`
	Worker   WorkerID      `json:",omitzero"`
	Workers  []WorkerID    `json:",omitzero"`
	Held     []heldLease   `json:",omitzero"`
	Wish     WorkerState   `json:",omitzero"`
	Change   *queueChange  `json:",omitzero"`
	Session  SessionID     `json:",omitzero"`
	Sequence uint64        `json:",omitzero"`
	Keys     [][]byte      `json:",omitzero"` // hashed
	From     uint64        `json:"-"`         // the node that asks; 0: this one
}

// heldLease is a lease on the query's shard.
type heldLease struct {
	Pos   queue.Pos
	Token Token
}

// findings answer a query.
type findings struct {
	Index    uint64              `json:",omitzero"`
	Job      *JobDetail          `json:",omitzero"`
	Jobs     []JobDetail         `json:",omitzero"`
	Queue    queue.QueueID       `json:",omitzero"`
	Priority uint8               `json:",omitzero"`
	Rows     []queue.JobInfo     `json:",omitzero"`
	Cursor   queue.Cursor        `json:",omitzero"`
	Info     queue.QueueInfo     `json:",omitzero"`
	Oldest   int64               `json:",omitzero"` // when the queue's oldest ready job was stored
	Closed   bool                `json:",omitzero"` // the queue takes no jobs there any more: it lives elsewhere
	Quiet    int64               `json:",omitzero"` // for how many ms the queue has answered nothing that may be repeated; 0: not known
	Infos    []queue.QueueInfo   `json:",omitzero"`
	Oldests  []int64             `json:",omitzero"` // for each of Infos
	Holders  []queue.WorkerCount `json:",omitzero"`
	Leases   []queue.Lease       `json:",omitzero"`
	Cancel   []heldLease         `json:",omitzero"`
	Lost     []heldLease         `json:",omitzero"`
	Workers  []seenWorker        `json:",omitzero"`
	Changed  *cluster.Queue      `json:",omitzero"`
	Session  queue.Remembered    `json:",omitzero"`
	Held     []queue.Pos         `json:",omitzero"` // for each of the keys asked about; 0: it is free
}

// seenWorker is what the node that leads the catalog has heard of a worker.
type seenWorker struct {
	ID     WorkerID
	Silent int64 // milliseconds since its last sign of life
	Wish   WorkerState
	Node   uint64 `json:",omitzero"` // that it is connected to; 0: not known
}

// ask answers a query here or, when another node leads the shard, there. A read that got no answer is asked again; a change is not.
func (e *Engine) ask(ctx context.Context, q *query) (*findings, error) {
	if !e.clustered() {
		return e.answer(ctx, q)
	}
	s := e.search(q.Shard)
	for {
		node, here, err := s.next(ctx)
		if err != nil {
			return nil, err
		}
		var f *findings
		if here {
			f, err = e.answer(ctx, q)
		} else {
			f, err = e.askNode(ctx, node, q)
		}
		own := asErrorOrNil(err)
		if own == nil || ctx.Err() != nil || !nothingHappened(own) && (own.Code != CodeUnknownOutcome || q.Kind == queryChange) && own.Reason != ReasonUnreachable {
			return f, err
		}
		s.failed(own)
	}
}

// askNode sends a query to another node.
func (e *Engine) askNode(ctx context.Context, node uint64, q *query) (*findings, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, asError(err)
	}
	if len(body)+1 > ForwardBytesMax {
		return nil, newError(CodeResourceExhausted, ReasonTooLarge, "the request is too large to be forwarded to node %d: %d bytes, %d are possible", node, len(body), ForwardBytesMax)
	}
	r, _, err := e.callLeader(ctx, q.Shard, node, callQuery, append([]byte{forwardVersion}, body...))
	if err != nil {
		if ctx.Err() != nil && q.Kind != queryChange {
			return nil, contextError(ctx.Err())
		}
		return nil, err
	}
	f := &findings{}
	if err := json.Unmarshal(r.b, f); err != nil {
		return nil, errForwardVersion(node)
	}
	return f, nil
}

// serveQuery answers a query of another node. What does not fit one answer is cut off a list, which then goes on behind the cut.
func (e *Engine) serveQuery(ctx context.Context, from uint64, r *reader) ([]byte, *Error) {
	q := &query{}
	if err := json.Unmarshal(r.b, q); err != nil {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded query does not decode: %v", err)
	}
	q.From = from
	f, err := e.answer(ctx, q)
	if err != nil {
		return nil, asError(err)
	}
	for {
		body, err := json.Marshal(f)
		switch {
		case err != nil:
			return nil, asError(err)
		case len(body)+1 <= ForwardBytesMax:
			return append(startAnswer(), body...), nil
		case len(f.Jobs) < 2:
			return nil, newError(CodeResourceExhausted, ReasonTooLarge, "the answer is too large to be forwarded: %d bytes, %d are possible; ask the shard's leader, node %d",
				len(body), ForwardBytesMax, e.opts.Node)
		}
		f.Jobs = f.Jobs[:len(f.Jobs)/2]
		f.Cursor = cursorAfter(q.State, &f.Jobs[len(f.Jobs)-1].Info)
	}
}

// cursorAfter is where a list goes on behind a job.
func cursorAfter(st State, info *queue.JobInfo) queue.Cursor {
	if st == queue.StateReady {
		return queue.Cursor{Priority: info.Priority, Pos: info.Pos}
	}
	return queue.Cursor{Pos: info.Pos}
}

// answer answers a query on this node, if it leads the shard.
func (e *Engine) answer(ctx context.Context, q *query) (*findings, error) {
	if q.Shard == catalogShard {
		return e.answerCatalog(ctx, q)
	}
	p := e.pump(q.Shard)
	switch {
	case p == nil && q.From != 0:
		return nil, errNoShard(q.Shard) // it may come
	case p == nil:
		return nil, errNoJob()
	}
	f := &findings{}
	var look func()
	switch q.Kind {
	case queryJob:
		return e.jobHere(ctx, p, q)
	case queryPlace:
		return e.placeHere(ctx, p, q)
	case queryList:
		return e.listHere(ctx, p, q)
	case queryRows:
		return e.pageHere(ctx, p, q)
	case queryQueue:
		look = func() {
			f.Info, _ = p.machine.Queue(q.Queue)
			f.Quiet = quietFor(p.machine.Answered(q.Queue), e.opts.Clock.NowMillis())
		}
	case queryQueues:
		look = func() { f.Infos = p.machine.Queues() }
	case queryHolders:
		look = func() { f.Holders = holders(p.machine, q.Workers) }
	case querySession:
		look = func() { f.Session = p.machine.Remembers(q.Session, q.Sequence) }
	case queryKeys:
		if len(q.Keys) > queue.EnqueueJobsMax {
			return nil, errForwardVersion(q.From)
		}
		look = func() { p.keysHere(q, f) }
	case queryLeases:
		look = func() { f.Leases = p.machine.WorkerLeases(q.Worker) }
	case queryJudge:
		e.workers.seenBy(q.Worker, q.From)
		look = func() { p.judge(q, f) }
	case queryIndex, queryWorkers, querySignal, queryChange:
		return nil, errForwardVersion(q.From)
	default:
		return nil, errForwardVersion(q.From)
	}
	if err := e.read(ctx, p, q.Kind, look); err != nil {
		return nil, err
	}
	switch q.Kind {
	case queryQueue:
		f.Oldest, f.Closed = e.storedAt(p.shard, &f.Info), f.Info.Settings.Closed
	case queryQueues:
		for i := range f.Infos {
			f.Oldests = append(f.Oldests, e.storedAt(p.shard, &f.Infos[i]))
		}
	default:
	}
	return f, nil
}

// answerCatalog answers a query about the catalog.
func (e *Engine) answerCatalog(ctx context.Context, q *query) (*findings, error) {
	f := &findings{}
	if err := e.host.Read(ctx, catalogShard, func() { f.Index = e.catalog.catalog.Applied() }); err != nil {
		return nil, hostError(err)
	}
	switch q.Kind {
	case queryIndex:
	case queryChange:
		if q.Change == nil {
			return nil, errForwardVersion(q.From)
		}
		return e.changeHere(ctx, q.Change)
	case queryWorkers:
		if e.clustered() {
			f.Workers = e.workers.seen(e.opts.Node)
		}
	case querySignal:
		w, err := e.liveWorker(q.Worker)
		if err != nil {
			return nil, err
		}
		w.want.Store(uint32(q.Wish))
		w.wished.Store(true)
	case queryJob, queryPlace, queryList, queryRows, queryQueue, queryQueues, queryHolders, queryLeases, queryJudge, querySession, queryKeys:
		return nil, errNoJob()
	default:
		return nil, errForwardVersion(q.From)
	}
	return f, nil
}

// read reads on a shard that this node leads. For workers it says at once when there is no leader: they have no time to wait.
func (e *Engine) read(ctx context.Context, p *pump, kind queryKind, fn func()) error {
	if err := p.leaderless(); err != nil && kind >= queryHolders && kind <= queryJudge {
		return err
	}
	if err := e.host.Read(ctx, p.shard, fn); err != nil {
		return hostError(err)
	}
	return nil
}

// holders are the workers that hold leases: all, or those of the given.
func holders(m *queue.Machine, only []WorkerID) []queue.WorkerCount {
	if only == nil {
		return m.Workers()
	}
	var some []queue.WorkerCount
	for _, id := range only {
		if n := len(m.WorkerLeases(id)); n > 0 {
			some = append(some, queue.WorkerCount{Worker: id, Running: n})
		}
	}
	return some
}

// readCatalog reads the catalog as it is now. fn runs on the shard's goroutine.
func (e *Engine) readCatalog(ctx context.Context, fn func()) error {
	if e.clustered() && !e.leads(catalogShard) {
		f, err := e.ask(ctx, &query{Kind: queryIndex, Shard: catalogShard})
		if err != nil {
			return err
		}
		if err := e.catalog.reach.await(ctx, f.Index); err != nil {
			return err
		}
		return e.readReplica(ctx, catalogShard, fn)
	}
	if err := e.host.Read(ctx, catalogShard, fn); err != nil {
		return hostError(err)
	}
	return nil
}

// readReplica reads what this node's replica has, which may be late.
func (e *Engine) readReplica(ctx context.Context, id shard.ID, fn func()) error {
	if err := e.host.StaleRead(ctx, id, fn); err != nil {
		return hostError(err)
	}
	return nil
}

// unixMilli is a time of the log; zero for none.
func unixMilli(millis int64) time.Time {
	if millis == 0 {
		return time.Time{}
	}
	return time.UnixMilli(millis)
}
