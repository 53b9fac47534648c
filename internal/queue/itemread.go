package queue

// The bodies of the items, as Apply reads them. Slices alias the item. Each method reads the whole body and reports
// whether it was well formed and within the limits.

type leaseItem struct {
	pos   Pos
	token Token
}

func (r *reader) lease() leaseItem {
	return leaseItem{pos: Pos(r.u64()), token: Token(r.uvarint())}
}

type ackItem struct {
	leaseItem
	contentType, result []byte
}

func (r *reader) ack() (ackItem, bool) {
	a := ackItem{leaseItem: r.lease()}
	a.contentType = r.bytes(ContentTypeMax)
	a.result = r.bytes(ResultBytesMax)
	return a, r.done()
}

type failItem struct {
	leaseItem
	final                bool
	delay                int64
	kind, message, stack []byte
}

func (r *reader) failItem() (failItem, bool) {
	f := failItem{leaseItem: r.lease()}
	f.final = r.flag()
	f.delay = int64(r.upTo(DelayMillisMax))
	f.kind = r.bytes(ErrorTypeBytesMax)
	f.message = r.bytes(ErrorTextBytesMax)
	f.stack = r.bytes(ErrorStackBytesMax)
	return f, r.done()
}

type progressItem struct {
	leaseItem
	percent uint8
	message []byte
}

func (r *reader) progress() (progressItem, bool) {
	p := progressItem{leaseItem: r.lease(), percent: r.u8()}
	p.message = r.bytes(ProgressBytesMax)
	return p, r.done() && p.percent <= percentMax
}

type extendItem struct {
	leaseItem
	leaseMillis int64
}

func (r *reader) extend() (extendItem, bool) {
	e := extendItem{leaseItem: r.lease(), leaseMillis: int64(r.upTo(LeaseMillisMax))}
	return e, r.done() && e.leaseMillis > 0
}

type cancelItem struct {
	pos      Pos
	queue    QueueID
	priority uint8
}

func (r *reader) cancel() (cancelItem, bool) {
	c := cancelItem{pos: Pos(r.u64()), queue: r.queueID(), priority: r.u8()}
	return c, r.done() && c.priority < PriorityCount
}

type configureItem struct {
	queue    QueueID
	version  uint64
	settings Settings
}

func (r *reader) configure() (configureItem, bool) {
	c := configureItem{queue: r.queueID(), version: r.uvarint()}
	c.settings = r.settings()
	return c, r.done() && c.queue != 0
}

func (r *reader) settings() Settings {
	s := Settings{
		MaxAttempts:   uint32(r.upTo(MaxAttemptsMax)),
		TimeoutMillis: int64(r.upTo(DelayMillisMax)),
		PoisonLimit:   uint32(r.upTo(PoisonLimitMax)),
		KeepEnded:     uint32(r.upTo(KeepEndedMax)),
		DepthMax:      r.uvarint(),
	}
	flags := r.u8()
	if flags > 3 {
		r.fail()
	}
	s.Paused, s.Closed = flags&1 != 0, flags&2 != 0
	s.Retry = r.retry(true)
	return s
}

// retry reads a retry policy; keep says whether to keep its list, which is then a copy.
func (r *reader) retry(keep bool) Retry {
	p := Retry{Kind: RetryKind(r.u8()), JitterPercent: r.u8()}
	p.BaseMillis = int64(r.upTo(DelayMillisMax))
	p.MaxMillis = int64(r.upTo(DelayMillisMax))
	n := r.upTo(RetryListMax)
	if p.Kind > RetryNever || p.JitterPercent > jitterPercentMax || (p.Kind == RetryList) != (n > 0) {
		r.fail()
		return Retry{}
	}
	if keep && n > 0 {
		p.List = make([]int64, 0, n)
	}
	for range n {
		d := int64(r.upTo(DelayMillisMax))
		if keep {
			p.List = append(p.List, d)
		}
	}
	return p
}

type enqueueItem struct {
	session SessionID
	seq     uint64
	jobs    int
	atomic  bool
	shape   uint32
}

func (r *reader) enqueue() (enqueueItem, bool) {
	var e enqueueItem
	if len(r.b) < len(e.session) {
		return e, false
	}
	copy(e.session[:], r.b)
	r.b = r.b[len(e.session):]
	e.seq = r.uvarint()
	e.jobs = int(r.upTo(EnqueueJobsMax))
	e.atomic = r.flag()
	e.shape = uint32(r.upTo(1<<32 - 1))
	return e, r.done() && e.jobs > 0 && (e.session == SessionID{} || e.seq > 0)
}

type fetchItem struct {
	worker      WorkerID
	max         int
	bytesMax    int // 0: no bound
	leaseMillis int64
	queues      []byte // queue ids as uvarints, checked
	queueCount  int
}

func (r *reader) fetch() (fetchItem, bool) {
	f := fetchItem{worker: WorkerID(r.uvarint()), max: int(r.upTo(FetchMax))}
	f.bytesMax = int(r.upTo(FetchBytesMax))
	f.leaseMillis = int64(r.upTo(LeaseMillisMax))
	f.queueCount = int(r.upTo(FetchQueuesMax))
	f.queues = r.b
	for range f.queueCount {
		r.queueID()
	}
	return f, r.done() && f.max > 0 && f.queueCount > 0
}

// hold reads for how many milliseconds deadlines are held.
func (r *reader) hold() (Millis, bool) {
	d := Millis(r.upTo(HoldMillisMax))
	return d, r.done()
}

func (r *reader) queueID() QueueID { return QueueID(r.upTo(1<<32 - 1)) }

// flag reads a byte that is 0 or 1.
func (r *reader) flag() bool {
	v := r.u8()
	if v > 1 {
		r.fail()
	}
	return v == 1
}
