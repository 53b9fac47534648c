package sim

import (
	"encoding/binary"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// fact is what the first replica that applied an entry made of it. All others must make the same of it, at any time.
type fact struct{ entry, results, fingerprint uint64 }

// jobFact is what is known of a job, from the answers to commands alone.
type jobFact struct {
	payload uint64
	token   queue.Token // of the live lease; 0: none
	worker  queue.WorkerID
	until   queue.Millis // of an anonymous lease
	since   queue.Millis // when the lease was granted, or extended last
	granted uint64       // by which entry
	ended   bool

	attempts uint32 // that began
}

// takeover is when a proposer began to lead, and what it had applied.
type takeover struct {
	at      queue.Millis
	applied uint64
}

type sessionKey struct {
	id       queue.SessionID
	sequence uint64
}

// oracle follows one shard's committed entries, as the first replica to apply each shows them.
type oracle struct {
	w        *world
	shard    shard.ID
	facts    map[uint64]fact
	high     uint64
	acked    uint64                   // the highest index of what a client was told
	clock    int64                    // the greatest stamp
	hold     queue.Millis             // no deadline passes before
	taken    map[uint64]takeover      // of a proposer, the last one
	loose    map[queue.Token]*jobFact // whose leases nobody is told of when they run out: those without a worker
	token    queue.Token
	jobs     map[queue.Pos]*jobFact
	sessions map[sessionKey]queue.Pos
	holders  map[queue.Token]queue.WorkerID // to whom each lease was granted
	keys     keyHolders
	replay   *queue.Machine // has applied every entry from the first, and was never restored
	results  queue.Results
}

func newOracle(w *world, id shard.ID) *oracle {
	return &oracle{
		w: w, shard: id, facts: make(map[uint64]fact), jobs: make(map[queue.Pos]*jobFact),
		sessions: make(map[sessionKey]queue.Pos), holders: make(map[queue.Token]queue.WorkerID),
		loose: make(map[queue.Token]*jobFact), taken: make(map[uint64]takeover),
		keys: newKeyHolders(), replay: queue.New(uint16(id)),
	}
}

// The types of items that the oracle reads by itself, as package queue documents them.
const (
	typeEnqueue  = 2
	typeJob      = 3
	typeFetch    = 4
	typeAck      = 5
	typeFail     = 6
	typeRelease  = 7
	typeExtend   = 8
	typeProgress = 9
	typeCancel   = 10
	typeRetry    = 11
	typeDiscard  = 12
	typeDamaged  = 13
	typeLost     = 14
	typeGone     = 15
	typeVerify   = 17
	typeHold     = 18
	typeTakeBack = 19
)

// applied is told of every entry that any replica applies, and what its machine was given of it: the same, unless a bug was put
// between them.
func (o *oracle) applied(d *driver, index uint64, h shard.Header, items [][]byte, stamp int64, given [][]byte) {
	w := o.w
	if w.opts.HistoryOnly {
		o.high = max(o.high, index)
		return
	}
	f := fact{entry: hashEntry(h, items), fingerprint: d.machine.Fingerprint()}
	for i, item := range items {
		if r := d.out.Items[i]; item[0] != typeVerify {
			f.results = mix64(mix64(mix64(f.results, uint64(r.Code)), uint64(r.State)), uint64(r.Pos))
		}
	}
	for _, l := range d.out.Leases {
		f.results = mix64(mix64(mix64(f.results, uint64(l.Pos)), uint64(l.Token)), uint64(l.Attempt))
	}
	w.trace.mix(index, f.fingerprint)
	o.relapses(d.m, index, f.fingerprint)
	if d.m.isWrong() {
		if known, ok := o.facts[index]; ok && known.entry != f.entry {
			w.fail("%s applies another entry %d than was applied before: a committed entry was lost", d.m.name, index)
		}
		o.righted(d.m, index, f.fingerprint)
		return
	}
	for _, e := range d.out.Events {
		if e.Kind == queue.EventDiverged && w.faults[FaultDiverge] == 0 {
			w.fail("%s has another state than its leader had after entry %d", d.m.name, e.Pos.Index())
		}
	}
	if known, ok := o.facts[index]; ok {
		switch {
		case known.entry != f.entry:
			w.fail("%s applies another entry %d than was applied before: a committed entry was lost", d.m.name, index)
		case known.results != f.results:
			w.fail("%s has other results of entry %d than another replica", d.m.name, index)
		case known.fingerprint != f.fingerprint:
			w.fail("%s has fingerprint %016x after entry %d, another replica had %016x", d.m.name, f.fingerprint, index, known.fingerprint)
		}
		return
	}
	if index < o.high {
		w.fail("%s applies entry %d, which nobody applied when %d was: a committed entry was replaced", d.m.name, index, o.high)
	}
	o.facts[index], o.high, o.clock = f, index, max(o.clock, h.Stamp)
	o.rightedBefore(index, f.fingerprint)
	w.counts.Entries++
	if w.trace.on() {
		w.trace.printf(d.m.name, "applies %d: %d items, %d leases, clock %d", index, len(items), len(d.out.Leases), d.machine.Now()-epochMillis)
	}
	o.replay.Apply(index, queue.Millis(stamp), given, &o.results)
	o.follow(d, index, h.Proposer, items)
	if index%512 == 0 {
		if err := d.machine.CheckInvariants(); err != nil {
			w.fail("%s after entry %d: %v", d.m.name, index, err)
		}
	}
}

// hashEntry hashes what an entry says.
func hashEntry(h shard.Header, items [][]byte) uint64 {
	hash := mix64(mix64(uint64(h.Stamp), h.Proposer), h.Sequence)
	for _, item := range items {
		hash = hashBytes(hash, item)
	}
	return hash
}

// takesOver notes that a proposer begins to lead.
func (o *oracle) takesOver(proposer uint64, now int64, applied uint64) {
	o.taken[proposer] = takeover{queue.Millis(now), applied}
}

// ranOut checks that a lease that runs out could have been kept: not in the first time of a leader, since nobody could extend it while
// there was none. A leader that comes back in its term may have granted leases in entries that it had not applied: nobody has those.
func (o *oracle) ranOut(j *jobFact, proposer uint64, now queue.Millis) {
	t, led := o.taken[proposer]
	if led && now >= t.at && now < t.at+queue.Millis(workerTTL.Milliseconds()) && j.since < t.at && j.granted <= t.applied {
		o.w.fail("token %d ran out %d ms after a leader took over: nobody could keep it", j.token, now-t.at)
	}
	j.token = 0
}

// runOut takes the leases whose deadline has passed from nobody in particular.
func (o *oracle) runOut(proposer uint64, now queue.Millis, items [][]byte) {
	if len(items) > 0 && items[0][0] == typeHold {
		millis, _ := binary.Uvarint(items[0][2:])
		o.hold = max(o.hold, now+queue.Millis(millis))
	}
	for token, j := range o.loose {
		switch {
		case j.token != token:
			delete(o.loose, token)
		case j.until > now:
		case now < o.hold:
			j.until = o.hold
		default:
			o.ranOut(j, proposer, now)
			delete(o.loose, token)
		}
	}
}

// follow follows the jobs through one entry.
func (o *oracle) follow(d *driver, index, proposer uint64, items [][]byte) {
	o.runOut(proposer, d.machine.Now(), items)
	for _, e := range d.out.Events {
		if j := o.jobs[e.Pos]; e.Kind == queue.EventLeaseLost && j != nil && j.token == e.Token {
			o.ranOut(j, proposer, d.machine.Now())
		}
	}
	repeat := false
	for i, item := range items {
		r, pos := d.out.Items[i], queue.MakePos(index, i)
		switch item[0] {
		case typeEnqueue:
			o.enqueued(item, r, pos)
			repeat = r.Code == queue.CodeDuplicate
		case typeJob:
			if r.Code == queue.CodeOK {
				o.jobs[pos] = &jobFact{payload: hashBytes(0, item)}
				o.w.counts.Jobs++
				o.keep(d.machine, pos, item)
			}
			if r.Code == queue.CodeExists {
				o.existing(d.machine, pos, item, r, repeat)
			}
		case typeFetch:
			worker, _ := binary.Uvarint(item[2:])
			for _, l := range d.out.Leases[r.Lo:r.Hi] {
				o.leased(l, queue.WorkerID(worker), d.machine.Now(), index)
			}
		case typeAck, typeFail, typeRelease, typeExtend, typeProgress, typeDamaged, typeTakeBack:
			o.finished(item, r, d.machine.Now())
		case typeCancel, typeRetry, typeDiscard:
			o.operated(item, r)
			if item[0] == typeRetry {
				o.retried(d.machine, queue.Pos(binary.LittleEndian.Uint64(item[2:])), r)
			}
		case typeLost, typeGone:
			worker, _ := binary.Uvarint(item[2:])
			for _, j := range o.jobs {
				if j.worker == queue.WorkerID(worker) {
					j.token, j.worker = 0, 0
				}
			}
		}
	}
}

// enqueued checks that a sequence number of a session is one command.
func (o *oracle) enqueued(item []byte, r queue.Result, pos queue.Pos) {
	key := sessionKey{id: queue.SessionID(item[2:18])}
	key.sequence, _ = binary.Uvarint(item[18:])
	if key.id == (queue.SessionID{}) {
		return
	}
	_, seen := o.sessions[key]
	switch {
	case r.Code == queue.CodeOK && seen:
		o.w.fail("sequence number %d of session %x was applied twice in shard %d", key.sequence, key.id[:4], o.shard)
	case r.Code == queue.CodeDuplicate && !seen:
		o.w.fail("sequence number %d of session %x is called a repeat, and is the first", key.sequence, key.id[:4])
	}
	o.sessions[key] = pos
}

// leased checks a lease: tokens grow, and nobody else holds one.
func (o *oracle) leased(l queue.Lease, worker queue.WorkerID, now queue.Millis, index uint64) {
	j := o.jobs[l.Pos]
	switch {
	case j == nil:
		o.w.fail("job %d.%d was leased, and nobody enqueued it", l.Pos.Index(), l.Pos.Ordinal())
	case j.ended:
		o.w.fail("job %d.%d was leased after it had ended", l.Pos.Index(), l.Pos.Ordinal())
	case j.token != 0:
		o.w.fail("job %d.%d was leased twice at once", l.Pos.Index(), l.Pos.Ordinal())
	case l.Token <= o.token:
		o.w.fail("token %d follows token %d", l.Token, o.token)
	}
	if j.attempts++; l.Attempt != j.attempts {
		o.w.fail("job %d.%d: attempt %d began, and says it is %d", l.Pos.Index(), l.Pos.Ordinal(), j.attempts, l.Attempt)
	}
	j.token, j.worker, j.since, j.granted, o.token = l.Token, worker, now, index, l.Token
	o.keys.started(l, index)
	o.holders[l.Token] = worker
	if j.until = l.Deadline; worker == 0 {
		o.loose[l.Token] = j
	}
}

// finished checks that only the holder of a lease does something with it.
func (o *oracle) finished(item []byte, r queue.Result, now queue.Millis) {
	pos := queue.Pos(binary.LittleEndian.Uint64(item[2:]))
	token, _ := binary.Uvarint(item[10:])
	j := o.jobs[pos]
	holds := j != nil && j.token == queue.Token(token)
	if r.Code == queue.CodeOK != holds {
		o.w.fail("job %d.%d: item %d under token %d gets code %d, held is %v", pos.Index(), pos.Ordinal(), item[0], token, r.Code, j)
	}
	if holds && item[0] == typeExtend {
		j.until, j.since = r.At, now
	}
	if !holds || item[0] == typeExtend || item[0] == typeProgress {
		return
	}
	if item[0] == typeTakeBack {
		j.attempts--
		o.keys.takenBack(pos, queue.Token(token))
	}
	j.token, j.worker = 0, 0
	j.ended = ended(r.State)
	if j.ended != (item[0] == typeAck) && r.State != queue.StateCancelled && r.State != queue.StateExpired {
		o.w.fail("job %d.%d: item %d leaves it in state %d", pos.Index(), pos.Ordinal(), item[0], r.State)
	}
}

// operated checks that nothing changes a job that has ended, and that a lease is not taken away.
func (o *oracle) operated(item []byte, r queue.Result) {
	pos := queue.Pos(binary.LittleEndian.Uint64(item[2:]))
	j := o.jobs[pos]
	if r.Code != queue.CodeOK {
		return
	}
	if j == nil || j.ended || j.token != 0 {
		o.w.fail("job %d.%d: item %d is taken, known is %v", pos.Index(), pos.Ordinal(), item[0], j)
	}
	j.ended = ended(r.State)
}

func ended(s queue.State) bool { return s >= queue.StateCompleted }
