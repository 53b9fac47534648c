package engine

import (
	"encoding/binary"
	"encoding/json"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// What nodes forward to each other, drawn in docs/format.md. Numbers are little endian; v marks a uvarint, b a uvarint length and so
// many bytes. A decoder looks at every length before it uses it, and allocates no more than what it was given is long.

// The most bytes that one thing needs besides its contents.
const (
	forwardItemOverhead   = 2*binary.MaxVarintLen64 + 4
	forwardCallOverhead   = 8 * binary.MaxVarintLen64
	resultBytesMax        = 2 + 3*binary.MaxVarintLen64
	catalogResultBytesMax = 4 << 10
)

// The flags of a forwarded command.
const (
	flagUrgent uint8 = 1 << iota
	flagEnds
	flagNewer // its items need a batch of the second version
	flagsEnd
)

// reader takes a message apart. The first read past the end, or a number out of its range, makes it bad; it then gives zeros. So a
// decoder reads all fields and asks once.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.b, r.bad = nil, true }

// end reports whether all was read, and nothing was wrong.
func (r *reader) end() bool { return !r.bad && len(r.b) == 0 }

func (r *reader) u8() uint8 {
	if len(r.b) < 1 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) u32() uint32 {
	if len(r.b) < 4 {
		r.fail()
		return 0
	}
	v := binary.LittleEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// upTo reads a number that may not be over most.
func (r *reader) upTo(most uint64) uint64 {
	v := r.uvarint()
	if v > most {
		r.fail()
		return 0
	}
	return v
}

// count reads how many things follow that are each at least so many bytes long.
func (r *reader) count(most, each int) int {
	n := r.upTo(uint64(most))
	if n > uint64(len(r.b)/each) {
		r.fail()
		return 0
	}
	return int(n)
}

// bytes reads a length and so many bytes; they alias the message.
func (r *reader) bytes(most int) []byte {
	n := r.upTo(uint64(most))
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// appendError appends an error: code u8, leader v, reason b, field b, message b. Its cause stays here.
func appendError(dst []byte, err *Error) []byte {
	dst = append(dst, byte(err.Code))
	dst = binary.AppendUvarint(dst, err.Leader)
	for _, text := range [...]string{err.Reason, err.Field, err.Message} {
		dst = appendBytes(dst, text[:min(len(text), errorTextMax)])
	}
	return dst
}

func (r *reader) error() *Error {
	err := &Error{Code: Code(r.u8()), Leader: r.uvarint()}
	err.Reason, err.Field, err.Message = string(r.bytes(errorTextMax)), string(r.bytes(errorTextMax)), string(r.bytes(errorTextMax))
	if err.Code > CodeUnimplemented || err.Reason == "" {
		r.fail()
	}
	return err
}

// appendCommands appends the commands of calls: shard v, calls v, and for each flags u8, queues v, each with the jobs that are ready in
// it afterwards, items v, each with its CRC u32.
func appendCommands(dst []byte, id shard.ID, calls []*call) []byte {
	size := 0
	for _, c := range calls {
		size += c.items.Size() + c.items.Len()*8 + 32
	}
	dst = append(slices.Grow(dst, size), forwardVersion)
	dst = binary.AppendUvarint(dst, uint64(id))
	dst = binary.AppendUvarint(dst, uint64(len(calls)))
	for _, c := range calls {
		flags := uint8(0)
		if c.urgent {
			flags |= flagUrgent
		}
		if c.ends {
			flags |= flagEnds
		}
		if c.items.Version > shard.BatchVersionFirst {
			flags |= flagNewer
		}
		dst = append(dst, flags)
		dst = binary.AppendUvarint(dst, uint64(len(c.adds)))
		for _, a := range c.adds {
			dst = binary.AppendUvarint(dst, uint64(a.queue))
			dst = binary.AppendUvarint(dst, uint64(a.jobs))
		}
		dst = binary.AppendUvarint(dst, uint64(c.items.Len()))
		for i := range c.items.Len() {
			dst = binary.LittleEndian.AppendUint32(dst, c.items.CRCs[i])
			dst = appendBytes(dst, c.items.Item(i))
		}
	}
	return dst
}

// commands reads the shard and how many commands follow, each for readCommand.
func (r *reader) commands() (id shard.ID, calls int) {
	id = shard.ID(r.upTo(1<<16 - 1))
	return id, r.count(forwardCallsMax, 3)
}

// command reads one command into a call that is new.
func (r *reader) command(c *call) {
	flags := r.u8()
	if flags >= flagsEnd {
		r.fail()
	}
	c.urgent, c.ends, c.foreign = flags&flagUrgent != 0, flags&flagEnds != 0, true
	adds := r.count(shard.BatchItemsMax, 2)
	for range adds {
		q, jobs := queue.QueueID(r.upTo(1<<32-1)), int(r.upTo(shard.BatchItemsMax))
		c.adds = append(c.adds, laneCount{queue: q, jobs: jobs})
	}
	if flags&flagNewer != 0 {
		c.items.Version = shard.BatchVersion
	}
	for range r.count(shard.BatchItemsMax, 5) {
		crc := r.u32()
		c.items.Commit(append(c.items.Buf(), r.bytes(shard.CommandBytesMax)...))
		if c.items.CRCs[c.items.Len()-1] != crc { // Commit has computed it, of what goes into the log
			r.fail()
		}
		if r.bad {
			return
		}
	}
	if n := c.items.Len(); n == 0 || adds > n || c.items.Size() > shard.CommandBytesMax {
		r.fail()
	}
}

// commandAnswer is what came of one forwarded command.
type commandAnswer struct {
	err     *Error // nil: it was carried out
	stamp   int64
	index   uint64
	results []queue.Result
	catalog []cluster.Result
}

// appendCommandAnswer appends what came of a call: 1 and an error, or 0, stamp v, index v, results v and each as code u8, state u8,
// pos v, at v, which is the holder's shard where the result names one; for the catalog b, a JSON array of its results.
func appendCommandAnswer(dst []byte, c *call, err *Error) []byte {
	if err != nil {
		return appendError(append(dst, answerFailed), err)
	}
	dst = append(dst, answerOK)
	dst = binary.AppendUvarint(dst, uint64(c.stamp))
	dst = binary.AppendUvarint(dst, c.index)
	dst = binary.AppendUvarint(dst, uint64(len(c.results)))
	for _, r := range c.results {
		dst = append(dst, byte(r.Code), byte(r.State))
		dst = binary.AppendUvarint(dst, uint64(r.Pos))
		dst = binary.AppendUvarint(dst, max(uint64(r.At), uint64(r.Shard)))
	}
	var catalog []byte
	if len(c.catalog) > 0 {
		catalog, _ = json.Marshal(c.catalog) // numbers and strings: it cannot fail
	}
	return appendBytes(dst, catalog)
}

func (r *reader) result() queue.Result {
	res := queue.Result{Code: queue.Code(r.u8()), State: queue.State(r.u8()), Pos: queue.Pos(r.uvarint())}
	if res.Code == queue.CodeExists || res.Code == queue.CodeKeyHeld {
		res.Shard = uint16(r.upTo(1<<16 - 1))
	} else {
		res.At = queue.Millis(r.upTo(1 << 62))
	}
	return res
}

// commandAnswers reads the answers to calls, and reports whether they fit them.
func (r *reader) commandAnswers(out []commandAnswer, calls []*call) bool {
	for i, c := range calls {
		a := &out[i]
		switch status := r.u8(); status {
		case answerOK:
			a.stamp, a.index = int64(r.upTo(1<<62)), r.uvarint()
			n := r.count(shard.BatchItemsMax, 4)
			a.results = make([]queue.Result, n)
			for j := range a.results {
				a.results[j] = r.result()
			}
			if b := r.bytes(ForwardBytesMax); len(b) > 0 && json.Unmarshal(b, &a.catalog) != nil {
				r.fail()
			}
			if len(a.results)+len(a.catalog) != c.items.Len() {
				r.fail()
			}
		case answerFailed:
			a.err = r.error()
		default:
			r.fail()
		}
	}
	return r.end()
}
