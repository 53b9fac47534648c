package queue

import (
	"encoding/binary"
	"io"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"github.com/tidwall/btree"
)

// Image is a frozen state. One goroutine at a time may use it, while the machine goes on in another.
type Image struct {
	shard         uint16
	applied       uint64
	now           Millis
	tokens        Token
	sessionSerial uint64
	holdUntil     Millis
	sum           uint64
	queues        *btree.Map[QueueID, *queueState]
	records       *btree.Map[Pos, record]
	extras        *btree.Map[Pos, extra]
	errors        *btree.Map[Pos, errorList]
	sessions      *btree.Map[uint64, session]
	answers       *btree.Map[uint64, answer]
	claims        *btree.Map[Pos, claim]
}

// Snapshot freezes the state in O(1), whatever its size: the machine copies what it changes from now on.
func (m *Machine) Snapshot() *Image {
	m.epoch++
	return &Image{
		shard: m.shard, applied: m.applied, now: m.now, tokens: m.tokens, sessionSerial: m.sessionSerial,
		holdUntil: m.holdUntil, sum: m.sum,
		queues: m.queues.Copy(), records: m.records.Copy(), extras: m.extras.Copy(), errors: m.errors.Copy(),
		sessions: m.sessions.Copy(), answers: m.answers.Copy(), claims: m.claims.Copy(),
	}
}

// Fingerprint is the machine's when the image was taken.
func (img *Image) Fingerprint() uint64 { return img.sum }

// Applied is the index of the last entry in the image.
func (img *Image) Applied() uint64 { return img.applied }

// Now is the clock of the image.
func (img *Image) Now() Millis { return img.now }

// Live is the set of entry indexes that the state refers to: those of all jobs it knows, and of the results, errors and
// progress it keeps of them.
func (img *Image) Live() *roaring64.Bitmap {
	live := liveSet{set: roaring64.New()}
	img.queues.Scan(func(_ QueueID, q *queueState) bool {
		for _, s := range q.ready {
			if s != nil {
				s.runs(0, func(r run) bool {
					live.add(r.start.Index(), (r.end() - 1).Index())
					return true
				})
			}
		}
		return true
	})
	img.records.Scan(func(p Pos, _ record) bool {
		live.add(p.Index(), p.Index())
		return true
	})
	img.records.Scan(func(_ Pos, r record) bool {
		for _, p := range [2]Pos{r.resultPos, r.progressPos} {
			if p != 0 {
				live.add(p.Index(), p.Index())
			}
		}
		return true
	})
	img.errors.Scan(func(_ Pos, l errorList) bool {
		for _, p := range l.pos[:l.count] {
			if p != 0 {
				live.add(p.Index(), p.Index())
			}
		}
		return true
	})
	live.flush()
	return live.set
}

// An image is a header and sections, each with its length. Numbers as in items; z marks a zigzag varint. A section of
// one tag may come several times: each holds a part of what it lists, and starts its deltas anew.
//
//	┌──────────────┬──────────┬───────────────────────────────────┐
//	│ magic "BVRQ" │ format=1 │ sections × (tag u8, size u32, body)│
//	└──────────────┴──────────┴───────────────────────────────────┘
//
//	1 header   shard v, applied v, now v, tokens v, session serial v, hold until v, fingerprint u64
//	2 queues   × (id v, version v, settings, 9 totals v, first ended sequence v)
//	3 ended    queue v, × position of the ended job, oldest first, as z from the one before
//	4 ready    queue v, priority u8, × (repeat v, index delta v, ordinal v, length v): so many runs, each so far
//	           from the one before
//	5 records  × (position delta v, queue v, state and priority u8, fields u16, the fields that are not 0)
//	6 extras   × (position delta v, max attempts v, timeout ms + 1 v, expires at v, bytes v, retry)
//	7 errors   × (position delta v, count v, positions v)
//	8 sessions × (serial delta v, id 16 bytes, high v, last used v, timer at v)
//	9 answers  × (key delta v, sequence v, first v, jobs v, shape v, refused b)
//	10 claims  × (position delta v, queue v, unique hash 16 bytes, flags u8, until v, released v)
//	11 deduplicated × (queue v, total v)
//	12 holders × (answer's key delta v, holders b)
//	255 end    empty
const (
	imageMagic  = "BVRQ"
	imageFormat = 1

	sectionHeader   = 1
	sectionQueues   = 2
	sectionEnded    = 3
	sectionReady    = 4
	sectionRecords  = 5
	sectionExtras   = 6
	sectionErrors   = 7
	sectionSessions = 8
	sectionAnswers  = 9
	sectionEnd      = 255

	// These are written only when there is something in them: other images are those of before there were unique keys.
	sectionClaims       = 10
	sectionDeduplicated = 11
	sectionHolders      = 12

	sectionHeadBytes   = 5
	sectionTargetBytes = 64 << 10
	sectionBytesMax    = 1 << 20
)

// The fields of a record in an image, by bit.
const (
	fieldFlags = 1 << iota
	fieldReason
	fieldPercent
	fieldAttempt
	fieldFailures
	fieldCrashes
	fieldToken
	fieldWorker
	fieldAt
	fieldStartedAt
	fieldResultPos
	fieldProgressPos
	fieldsAll = 1<<iota - 1
)

// imageWriter writes sections. The first error sticks.
type imageWriter struct {
	w       io.Writer
	written int64
	err     error
	buf     []byte
	tag     byte
	prefix  []byte // starts each part of a section that is written in parts
}

func (w *imageWriter) begin(tag byte, prefix []byte) {
	w.tag = tag
	w.prefix = append(w.prefix[:0], prefix...)
	w.restart()
}

func (w *imageWriter) restart() {
	w.buf = append(w.buf[:0], w.tag, 0, 0, 0, 0)
	w.buf = append(w.buf, w.prefix...)
}

// full reports whether the part under way is big enough; it is then written and a new one begun.
func (w *imageWriter) full() bool {
	if len(w.buf) < sectionTargetBytes {
		return false
	}
	w.emit()
	w.restart()
	return true
}

// end writes the last part unless it holds nothing.
func (w *imageWriter) end() {
	if len(w.buf) > sectionHeadBytes+len(w.prefix) || w.tag == sectionEnd {
		w.emit()
	}
}

func (w *imageWriter) emit() {
	binary.LittleEndian.PutUint32(w.buf[1:], uint32(len(w.buf)-sectionHeadBytes))
	w.write(w.buf)
}

func (w *imageWriter) write(b []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(b)
		w.written += int64(n)
	}
}

func (w *imageWriter) v(n uint64) { w.buf = binary.AppendUvarint(w.buf, n) }
func (w *imageWriter) z(n int64)  { w.buf = binary.AppendVarint(w.buf, n) }

// WriteTo writes the image. It returns the first error of w.
func (img *Image) WriteTo(to io.Writer) (int64, error) {
	w := &imageWriter{w: to}
	w.write(append([]byte(imageMagic), imageFormat))
	w.begin(sectionHeader, nil)
	w.v(uint64(img.shard))
	w.v(img.applied)
	w.v(uint64(img.now))
	w.v(uint64(img.tokens))
	w.v(img.sessionSerial)
	w.v(uint64(img.holdUntil))
	w.buf = binary.LittleEndian.AppendUint64(w.buf, img.sum)
	w.end()
	img.writeQueues(w)
	img.writeClaims(w) // before the records whose flags an older program would take for damage
	img.writeExtras(w)
	img.writeErrors(w)
	img.writeRecords(w)
	img.writeSessions(w)
	w.begin(sectionEnd, nil)
	w.end()
	return w.written, w.err
}

func (img *Image) writeQueues(w *imageWriter) {
	w.begin(sectionQueues, nil)
	img.queues.Scan(func(id QueueID, q *queueState) bool {
		w.v(uint64(id))
		w.v(q.version)
		w.buf = appendSettings(w.buf, &q.settings)
		for _, n := range q.totals.words() {
			w.v(*n)
		}
		w.v(q.ended.first)
		w.full()
		return w.err == nil
	})
	w.end()
	img.queues.Scan(func(id QueueID, q *queueState) bool {
		name := binary.AppendUvarint(nil, uint64(id))
		for priority, s := range q.ready {
			if s != nil && s.count > 0 {
				w.begin(sectionReady, append(name, byte(priority)))
				writeRuns(w, s)
				w.end()
			}
		}
		w.begin(sectionEnded, name)
		var last Pos
		q.ended.all(func(_ uint64, p Pos) bool {
			w.z(int64(p) - int64(last))
			last = p
			if w.full() {
				last = 0
			}
			return w.err == nil
		})
		w.end()
		return w.err == nil
	})
}

// writeRuns writes a ready set. How the set cuts its runs does not show: runs that touch are one.
func writeRuns(w *imageWriter, s *runSet) {
	e := runEncoder{w: w}
	var joined run
	s.runs(0, func(r run) bool {
		if joined.count > 0 && joined.end() == r.start && uint64(joined.count)+uint64(r.count) <= runCountMax {
			joined.count += r.count
			return true
		}
		e.add(joined)
		joined = r
		return w.err == nil
	})
	e.add(joined)
	e.flush()
}

// A runEncoder counts how often a run has the same shape, and the same distance from the one before.
type runEncoder struct {
	w                      *imageWriter
	index                  uint64 // of the last run
	repeat                 uint64
	delta, ordinal, length uint64
}

func (e *runEncoder) add(r run) {
	if r.count == 0 {
		return
	}
	delta, ordinal, length := r.start.Index()-e.index, uint64(r.start.Ordinal()), uint64(r.count)
	e.index = r.start.Index()
	if e.repeat > 0 && delta == e.delta && ordinal == e.ordinal && length == e.length {
		e.repeat++
		return
	}
	if e.flush() {
		delta = e.index // a new part counts from 0
	}
	e.repeat, e.delta, e.ordinal, e.length = 1, delta, ordinal, length
}

// flush writes the runs counted and reports whether that ended a part.
func (e *runEncoder) flush() bool {
	if e.repeat == 0 {
		return false
	}
	e.w.v(e.repeat)
	e.w.v(e.delta)
	e.w.v(e.ordinal)
	e.w.v(e.length)
	e.repeat = 0
	return e.w.full()
}

func (img *Image) writeRecords(w *imageWriter) {
	w.begin(sectionRecords, nil)
	var last Pos
	img.records.Scan(func(p Pos, r record) bool {
		w.v(uint64(p - last))
		last = p
		img.writeRecord(w, p, &r)
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
}

func (img *Image) writeRecord(w *imageWriter, p Pos, r *record) {
	w.v(uint64(r.queue))
	w.buf = append(w.buf, byte(r.state)<<4|r.priority)
	at := len(w.buf)
	w.buf = append(w.buf, 0, 0)
	var fields uint16
	unsigned := func(field uint16, n uint64) {
		if n != 0 {
			fields |= field
			w.v(n)
		}
	}
	signed := func(field uint16, n, base int64) {
		if n != 0 {
			fields |= field
			w.z(n - base)
		}
	}
	unsigned(fieldFlags, uint64(r.flags))
	unsigned(fieldReason, uint64(r.reason))
	unsigned(fieldPercent, uint64(r.percent))
	unsigned(fieldAttempt, uint64(r.attempt))
	unsigned(fieldFailures, uint64(r.failures))
	unsigned(fieldCrashes, uint64(r.crashes))
	unsigned(fieldToken, uint64(r.token))
	unsigned(fieldWorker, uint64(r.worker))
	signed(fieldAt, int64(r.at), int64(img.now))
	signed(fieldStartedAt, int64(r.startedAt), int64(img.now))
	signed(fieldResultPos, int64(r.resultPos), int64(p))
	signed(fieldProgressPos, int64(r.progressPos), int64(p))
	binary.LittleEndian.PutUint16(w.buf[at:], fields)
}

func (img *Image) writeExtras(w *imageWriter) {
	w.begin(sectionExtras, nil)
	var last Pos
	img.extras.Scan(func(p Pos, e extra) bool {
		w.v(uint64(p - last))
		last = p
		w.v(uint64(e.maxAttempts))
		w.v(uint64(e.timeoutMillis + 1))
		w.v(uint64(e.expiresAt))
		w.v(uint64(e.bytes))
		w.buf = appendRetry(w.buf, &e.retry)
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
}

func (img *Image) writeErrors(w *imageWriter) {
	w.begin(sectionErrors, nil)
	var last Pos
	img.errors.Scan(func(p Pos, l errorList) bool {
		w.v(uint64(p - last))
		last = p
		w.v(uint64(l.count))
		for _, at := range l.pos[:l.count] {
			w.v(uint64(at))
		}
		if w.full() {
			last = 0
		}
		return w.err == nil
	})
	w.end()
}
