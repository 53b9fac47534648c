package queue

// A command is one item or an enqueue header with its jobs.
type command struct {
	kind        itemType
	queue       QueueID
	version     uint64
	settings    Settings
	session     SessionID
	seq         uint64
	atomic      bool
	header      bool
	jobs        []Spec
	hints       map[int]JobID // of the jobs whose key another one is known to hold
	worker      WorkerID
	queues      []QueueID
	max         int
	bytesMax    int
	leaseMillis int64 // of a hold: for how long
	shape       uint32
	pos         Pos
	token       Token
	priority    uint8
	failure     Failure
	percent     uint8
	text        string
}

func (c *command) hint(i int) JobID { return c.hints[i] }

// encode appends the command's items.
func (c *command) encode(items [][]byte) [][]byte {
	switch c.kind {
	case itemConfigure:
		return append(items, AppendConfigure(nil, c.queue, c.version, &c.settings))
	case itemEnqueue, itemJob:
		if c.header {
			items = append(items, AppendEnqueue(nil, c.session, c.seq, len(c.jobs), c.atomic, c.shape))
		}
		for i := range c.jobs {
			items = append(items, AppendHintedJob(nil, &c.jobs[i], c.hint(i)))
		}
		return items
	case itemFetch:
		return append(items, AppendFetch(nil, c.worker, c.queues, c.max, c.bytesMax, c.leaseMillis))
	case itemAck:
		return append(items, AppendAck(nil, c.pos, c.token, "text/plain", []byte(c.text)))
	case itemFail:
		return append(items, AppendFail(nil, c.pos, c.token, &c.failure))
	case itemRelease:
		return append(items, AppendRelease(nil, c.pos, c.token))
	case itemTakeBack:
		return append(items, AppendTakeBack(nil, c.pos, c.token))
	case itemExtend:
		return append(items, AppendExtend(nil, c.pos, c.token, c.leaseMillis))
	case itemProgress:
		return append(items, AppendProgress(nil, c.pos, c.token, c.percent, c.text))
	case itemCancel:
		return append(items, AppendCancel(nil, c.pos, c.queue, c.priority))
	case itemRetryDead:
		return append(items, AppendRetryDead(nil, c.pos))
	case itemDiscardDead:
		return append(items, AppendDiscardDead(nil, c.pos))
	case itemDamaged:
		return append(items, AppendDamaged(nil, c.pos, c.token))
	case itemHold:
		return append(items, AppendHold(nil, c.leaseMillis))
	case itemWorkerLost:
		return append(items, AppendWorkerLost(nil, c.worker))
	case itemWorkerGone:
		return append(items, AppendWorkerGone(nil, c.worker))
	default:
		return append(items, AppendTick(nil))
	}
}
