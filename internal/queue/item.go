package queue

import (
	"encoding/binary"
	"errors"
)

// An item is one self-contained byte string of an entry. Numbers are little endian; v marks a uvarint, b a uvarint
// length and so many bytes. Every item starts with its type and the version of that type's layout:
//
//	┌──────┬─────────┬──────┐
//	│ type │ version │ body │
//	│ u8   │ u8 = 1  │ …    │
//	└──────┴─────────┴──────┘
//
//	configure   queue v, version v, settings (below)
//	enqueue     session 16 bytes, sequence v, jobs v, atomic u8, shape v
//	job         see AppendJob
//	fetch       worker v, max v, bytes v, lease ms v, queues v × (queue v)
//	ack         pos u64, token v, content type b, result b
//	fail        pos u64, token v, flags u8 (1 final), delay ms v, type b, message b, stack b
//	release     pos u64, token v
//	extend      pos u64, token v, lease ms v
//	progress    pos u64, token v, percent u8, message b
//	cancel      pos u64, queue v, priority u8
//	retry dead, discard dead   pos u64
//	damaged     pos u64, token v
//	worker lost, worker gone   worker v
//	tick        empty
//	verify      index v, fingerprint u64
//	hold        ms v
//	take back   pos u64, token v
//
//	settings    max attempts v, timeout ms v, poison limit v, keep ended v, depth max v, flags u8 (1 paused, 2 closed), retry
//	retry       kind u8, jitter u8, base ms v, max ms v, list v × (ms v)
const itemVersion = 1

type itemType uint8

// The item types are durable: numbers are never reused.
const (
	itemConfigure itemType = iota + 1
	itemEnqueue
	itemJob
	itemFetch
	itemAck
	itemFail
	itemRelease
	itemExtend
	itemProgress
	itemCancel
	itemRetryDead
	itemDiscardDead
	itemDamaged
	itemWorkerLost
	itemWorkerGone
	itemTick
	itemVerify
	itemHold
	itemTakeBack
)

const itemHeaderBytes = 2

// ErrMalformed is returned for an item that does not decode or breaks a limit.
var ErrMalformed = errors.New("malformed item")

// Forwardable reports whether an item is a command that one node may hand to another: not a fetch, whose leases would find nobody, and
// nothing that only a shard's leader says.
func Forwardable(item []byte) bool {
	if len(item) < itemHeaderBytes {
		return false
	}
	switch itemType(item[0]) {
	case itemConfigure, itemEnqueue, itemJob, itemAck, itemFail, itemRelease, itemExtend, itemProgress, itemCancel, itemRetryDead,
		itemDiscardDead, itemDamaged, itemWorkerLost, itemWorkerGone, itemTakeBack:
		return true
	case itemFetch, itemTick, itemVerify, itemHold:
	}
	return false
}

// Counts reports whether an item that had this result stored a job, or ended an attempt by its worker's word.
func Counts(item []byte, r Result) (stored, ended bool) {
	if r.Code != CodeOK || len(item) < itemHeaderBytes {
		return false, false
	}
	t := itemType(item[0])
	return t == itemJob, t == itemAck || t == itemFail
}

func appendHeader(dst []byte, t itemType) []byte { return append(dst, byte(t), itemVersion) }

func appendPos(dst []byte, t itemType, p Pos) []byte {
	return binary.LittleEndian.AppendUint64(appendHeader(dst, t), uint64(p))
}

func appendLease(dst []byte, it itemType, p Pos, t Token) []byte {
	return binary.AppendUvarint(appendPos(dst, it, p), uint64(t))
}

// AppendConfigure appends an item that sets a queue's settings. A version that is not above the queue's changes nothing.
func AppendConfigure(dst []byte, q QueueID, version uint64, s *Settings) []byte {
	dst = appendHeader(dst, itemConfigure)
	dst = binary.AppendUvarint(dst, uint64(q))
	dst = binary.AppendUvarint(dst, version)
	return appendSettings(dst, s)
}

func appendSettings(dst []byte, s *Settings) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.MaxAttempts))
	dst = binary.AppendUvarint(dst, uint64(s.TimeoutMillis))
	dst = binary.AppendUvarint(dst, uint64(s.PoisonLimit))
	dst = binary.AppendUvarint(dst, uint64(s.KeepEnded))
	dst = binary.AppendUvarint(dst, s.DepthMax)
	dst = append(dst, s.flags())
	return appendRetry(dst, &s.Retry)
}

// flags are the settings that are on or off.
func (s *Settings) flags() byte { return boolByte(s.Paused) | boolByte(s.Closed)<<1 }

func appendRetry(dst []byte, r *Retry) []byte {
	dst = append(dst, byte(r.Kind), r.JitterPercent)
	dst = binary.AppendUvarint(dst, uint64(r.BaseMillis))
	dst = binary.AppendUvarint(dst, uint64(r.MaxMillis))
	dst = binary.AppendUvarint(dst, uint64(len(r.List)))
	for _, d := range r.List {
		dst = binary.AppendUvarint(dst, uint64(d))
	}
	return dst
}

// AppendEnqueue appends the header of an enqueue command: the next jobs items are its jobs. With a session, a sequence
// number that was applied before changes nothing and gets the first answer. atomic: all jobs or none.
//
// shape says which jobs of the client's message these are: a repeat is refused when it brings another number of jobs, or
// names another shape. 0 is none, and not compared.
func AppendEnqueue(dst []byte, session SessionID, seq uint64, jobs int, atomic bool, shape uint32) []byte {
	dst = appendHeader(dst, itemEnqueue)
	dst = append(dst, session[:]...)
	dst = binary.AppendUvarint(dst, seq)
	dst = binary.AppendUvarint(dst, uint64(jobs))
	dst = append(dst, boolByte(atomic))
	return binary.AppendUvarint(dst, uint64(shape))
}

// AppendFetch appends an item that leases up to max jobs of the queues to w, of at most bytesMax in all but never none: a
// job counts as many bytes as its item in the log has, and SmallJobBytes at least; 0 is as many as there are. leaseMillis
// counts for the anonymous worker only; 0 is LeaseMillisDefault. Among equal priorities the queues are served in the order
// given.
func AppendFetch(dst []byte, w WorkerID, queues []QueueID, max, bytesMax int, leaseMillis int64) []byte {
	dst = appendHeader(dst, itemFetch)
	dst = binary.AppendUvarint(dst, uint64(w))
	dst = binary.AppendUvarint(dst, uint64(max))
	dst = binary.AppendUvarint(dst, uint64(bytesMax))
	dst = binary.AppendUvarint(dst, uint64(leaseMillis))
	dst = binary.AppendUvarint(dst, uint64(len(queues)))
	for _, q := range queues {
		dst = binary.AppendUvarint(dst, uint64(q))
	}
	return dst
}

// AppendAck appends an item that completes a job with a result.
func AppendAck(dst []byte, p Pos, t Token, contentType string, result []byte) []byte {
	dst = appendLease(dst, itemAck, p, t)
	dst = appendBytes(dst, contentType)
	return appendBytes(dst, result)
}

const failFinal = 1

// AppendFail appends an item that ends an attempt with a failure.
func AppendFail(dst []byte, p Pos, t Token, f *Failure) []byte {
	dst = appendLease(dst, itemFail, p, t)
	dst = append(dst, boolByte(f.Final)*failFinal)
	dst = binary.AppendUvarint(dst, uint64(max(f.DelayMillis, 0)))
	dst = appendBytes(dst, f.Type)
	dst = appendBytes(dst, f.Message)
	return appendBytes(dst, f.Stack)
}

// AppendRelease appends an item that gives a job back as if it had not been tried, but for the attempt's number.
func AppendRelease(dst []byte, p Pos, t Token) []byte { return appendLease(dst, itemRelease, p, t) }

// AppendTakeBack appends an item that takes back a lease of which nobody was told: the attempt did not begin, and the next one has its
// number. Nobody may say so of a lease that its worker can have heard of.
func AppendTakeBack(dst []byte, p Pos, t Token) []byte { return appendLease(dst, itemTakeBack, p, t) }

// AppendExtend appends an item that moves a lease's deadline to leaseMillis from now, and no further than the job's
// timeout, counted from the start of the attempt, allows. Result.At is the deadline.
func AppendExtend(dst []byte, p Pos, t Token, leaseMillis int64) []byte {
	return binary.AppendUvarint(appendLease(dst, itemExtend, p, t), uint64(leaseMillis))
}

// AppendProgress appends an item that says how far a running job is.
func AppendProgress(dst []byte, p Pos, t Token, percent uint8, message string) []byte {
	return appendBytes(append(appendLease(dst, itemProgress, p, t), percent), message)
}

// AppendCancel appends an item that cancels a job. q and priority are those of its spec: they find a ready job.
func AppendCancel(dst []byte, p Pos, q QueueID, priority uint8) []byte {
	dst = appendPos(dst, itemCancel, p)
	return append(binary.AppendUvarint(dst, uint64(q)), priority)
}

// AppendRetryDead appends an item that makes a dead job ready again, with its failures and crashes forgotten.
func AppendRetryDead(dst []byte, p Pos) []byte { return appendPos(dst, itemRetryDead, p) }

// AppendDiscardDead appends an item that ends a dead job.
func AppendDiscardDead(dst []byte, p Pos) []byte { return appendPos(dst, itemDiscardDead, p) }

// AppendDamaged appends an item that makes a leased job dead because its payload in the log is damaged.
func AppendDamaged(dst []byte, p Pos, t Token) []byte { return appendLease(dst, itemDamaged, p, t) }

// AppendWorkerLost appends an item that takes all leases from a worker that went silent; each counts as a crash.
func AppendWorkerLost(dst []byte, w WorkerID) []byte {
	return binary.AppendUvarint(appendHeader(dst, itemWorkerLost), uint64(w))
}

// AppendWorkerGone appends an item that takes all leases from a worker that said goodbye; no crash is counted.
func AppendWorkerGone(dst []byte, w WorkerID) []byte {
	return binary.AppendUvarint(appendHeader(dst, itemWorkerGone), uint64(w))
}

// AppendTick appends an item that does nothing: its entry moves the clock.
func AppendTick(dst []byte) []byte { return appendHeader(dst, itemTick) }

// AppendVerify appends an item that compares the fingerprint after an earlier entry.
func AppendVerify(dst []byte, index, fingerprint uint64) []byte {
	dst = binary.AppendUvarint(appendHeader(dst, itemVerify), index)
	return binary.LittleEndian.AppendUint64(dst, fingerprint)
}

// AppendHold appends an item that lets no running job's deadline pass before millis from now: of a leader that takes over,
// as nobody could end or extend a lease while there was none. It must be the first of its entry.
func AppendHold(dst []byte, millis int64) []byte {
	return binary.AppendUvarint(appendHeader(dst, itemHold), uint64(millis))
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// open starts to read an item of the wanted type.
func open(b []byte, want itemType) (reader, error) {
	if len(b) < itemHeaderBytes || itemType(b[0]) != want || b[1] != itemVersion {
		return reader{}, ErrMalformed
	}
	return reader{b: b[itemHeaderBytes:]}, nil
}

// DecodeAckResult returns the result that an ack item carries. The slice aliases b.
func DecodeAckResult(b []byte) (contentType string, result []byte, err error) {
	r, err := open(b, itemAck)
	if err != nil {
		return "", nil, err
	}
	a, ok := r.ack()
	if !ok {
		return "", nil, ErrMalformed
	}
	return string(a.contentType), a.result, nil
}

// DecodeFailure returns what a fail item carries.
func DecodeFailure(b []byte) (Failure, error) {
	r, err := open(b, itemFail)
	if err != nil {
		return Failure{}, err
	}
	f, ok := r.failItem()
	if !ok {
		return Failure{}, ErrMalformed
	}
	return Failure{
		Type: string(f.kind), Message: string(f.message), Stack: string(f.stack),
		Final: f.final, DelayMillis: f.delay,
	}, nil
}

// DecodeProgress returns what a progress item carries.
func DecodeProgress(b []byte) (percent uint8, message string, err error) {
	r, err := open(b, itemProgress)
	if err != nil {
		return 0, "", err
	}
	p, ok := r.progress()
	if !ok {
		return 0, "", ErrMalformed
	}
	return p.percent, string(p.message), nil
}
