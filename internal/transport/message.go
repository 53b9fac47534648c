package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"go.etcd.io/raft/v3/raftpb"
)

// A message is described by
//
//	┌───────────┬─────────┬────────────┬─────────────┬───────┬───────────────┬─────────────┐
//	│ shard u16 │ type u8 │ reject u8  │ present u16 │ 0 u16 │ context bytes │ entries u32 │
//	│           │         │            │             │       │ u32           │             │
//	├───────────┴─────────┴────────────┴─────────────┴───────┴───────────────┴─────────────┤
//	│ u64 for each of to, from, term, logTerm, index, commit, vote, rejectHint present     │
//	├──────────────────────────────────────────────────────────────────────────────────────┤
//	│ context                                                                              │
//	├──────────────────────────────────────────────────────────────────────────────────────┤
//	│ entries × (term u64, index u64, data bytes u32, type u8, present u8, 0 u16)          │
//	└──────────────────────────────────────────────────────────────────────────────────────┘
//
// and the data of the entries follows behind the descriptions of all messages of the frame. So a frame is a few vectors, and the data
// is read from the connection straight to where it stays.
const (
	messageHeadBytes = 16
	entryHeadBytes   = 24

	// Bits 0 to 7 of present are the fields of fieldsOf, in that order.
	fieldCount     = 8
	presentFields  = 1<<fieldCount - 1
	presentReject  = 1 << 8
	presentContext = 1 << 9
	presentKnown   = 1<<10 - 1

	entryHasTerm  = 1 << 0
	entryHasIndex = 1 << 1
	entryHasType  = 1 << 2
	entryHasData  = 1 << 3
	entryKnown    = 1<<4 - 1
)

// ErrMalformed is wrapped by all that is wrong with received bytes. The connection that they came by is cut.
var ErrMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// travels reports whether replicas send each other messages of this type. Those to a replica's own storage do not leave the
// process, and a snapshot goes by transfers.
func travels(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow,
		raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return true
	default:
		return false
	}
}

// envelope is a message and the shard it is for.
type envelope struct {
	shard   uint16
	message *raftpb.Message
	meta    int // bytes of its description
	data    int // bytes of its entries' data
}

// seal measures a message. It is not ok when the message is none that can be sent.
func seal(shard uint16, m *raftpb.Message) (e envelope, ok bool) {
	if m == nil || !travels(m.GetType()) || m.Snapshot != nil || len(m.Responses) > 0 || len(m.Context) > ContextBytesMax {
		return envelope{}, false
	}
	e = envelope{shard: shard, message: m}
	e.meta = messageHeadBytes + 8*bits.OnesCount16(presence(m)&presentFields) + len(m.Context) + entryHeadBytes*len(m.Entries)
	for _, entry := range m.Entries {
		if entry == nil || len(entry.Data) > EntryBytesMax || uint32(entry.GetType()) > 0xff {
			return envelope{}, false
		}
		e.data += len(entry.Data)
	}
	return e, e.meta+e.data <= MessageBytesMax
}

// messagesOf are the messages alone.
func messagesOf(envelopes []envelope) []*raftpb.Message {
	messages := make([]*raftpb.Message, len(envelopes))
	for i, e := range envelopes {
		messages[i] = e.message
	}
	return messages
}

// fieldsOf are the numbers of a message, in the order of their bits and bytes.
func fieldsOf(m *raftpb.Message) [fieldCount]*uint64 {
	return [fieldCount]*uint64{m.To, m.From, m.Term, m.LogTerm, m.Index, m.Commit, m.Vote, m.RejectHint}
}

func presence(m *raftpb.Message) (present uint16) {
	for i, field := range fieldsOf(m) {
		if field != nil {
			present |= 1 << i
		}
	}
	if m.Reject != nil {
		present |= presentReject
	}
	if m.Context != nil {
		present |= presentContext
	}
	return present
}

// appendMessage appends the description of a sealed message.
func appendMessage(b []byte, e envelope) []byte {
	le, m := binary.LittleEndian, e.message
	reject := byte(0)
	if m.GetReject() {
		reject = 1
	}
	b = le.AppendUint16(b, e.shard)
	b = append(b, byte(m.GetType()), reject)
	b = le.AppendUint16(b, presence(m))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(len(m.Context)))
	b = le.AppendUint32(b, uint32(len(m.Entries)))
	for _, field := range fieldsOf(m) {
		if field != nil {
			b = le.AppendUint64(b, *field)
		}
	}
	b = append(b, m.Context...)
	for _, entry := range m.Entries {
		present := byte(0)
		if entry.Term != nil {
			present |= entryHasTerm
		}
		if entry.Index != nil {
			present |= entryHasIndex
		}
		if entry.Type != nil {
			present |= entryHasType
		}
		if entry.Data != nil {
			present |= entryHasData
		}
		b = le.AppendUint64(b, entry.GetTerm())
		b = le.AppendUint64(b, entry.GetIndex())
		b = le.AppendUint32(b, uint32(len(entry.Data)))
		b = append(b, byte(entry.GetType()), present, 0, 0)
	}
	return b
}

// messageSlot is a message and all that its pointers point to, in one allocation.
type messageSlot struct {
	message raftpb.Message
	kind    raftpb.MessageType
	reject  bool
	fields  [fieldCount]uint64
}

type entrySlot struct {
	entry       raftpb.Entry
	term, index uint64
	kind        raftpb.EntryType
}

// batchDecoder makes messages of the descriptions in a frame. What it returns belongs to whoever gets it, and does not refer to
// the bytes it was given.
type batchDecoder struct {
	rest []byte
	// sizes are the bytes of data of each entry that is to have some; their entries are in wants.
	wants []want
	data  int
	slots []messageSlot
}

// want is an entry whose data is still to be read.
type want struct {
	entry *raftpb.Entry
	bytes int
	first bool // of its message
	total int  // of its message's data, where first
}

// decodeBatch reads count descriptions, which must take up all of meta. The entries have no data yet: fill reads it.
// Nothing is allocated by a number that meta is too short for.
func (d *batchDecoder) decodeBatch(meta []byte, count int) ([]envelope, error) {
	d.rest, d.wants, d.data, d.slots = meta, d.wants[:0], 0, nil
	if count > len(meta)/messageHeadBytes || count > frameMessagesMax {
		return nil, malformed("%d messages in %d bytes", count, len(meta))
	}
	envelopes := make([]envelope, 0, count)
	for i := range count {
		e, err := d.decodeMessage(count - i)
		if err != nil {
			return nil, fmt.Errorf("message %d of %d: %w", i+1, count, err)
		}
		envelopes = append(envelopes, e)
	}
	if len(d.rest) > 0 {
		return nil, malformed("%d bytes behind the last message", len(d.rest))
	}
	return envelopes, nil
}

// slot returns a message to fill in, when so many are still to come.
func (d *batchDecoder) slot(left int) *messageSlot {
	if len(d.slots) == 0 {
		d.slots = make([]messageSlot, min(left, slabCount))
	}
	s := &d.slots[0]
	d.slots = d.slots[1:]
	return s
}

func (d *batchDecoder) decodeMessage(left int) (envelope, error) {
	le, b := binary.LittleEndian, d.rest
	if len(b) < messageHeadBytes {
		return envelope{}, malformed("it is cut off")
	}
	kind, present := raftpb.MessageType(b[2]), le.Uint16(b[4:])
	contextBytes, entries := uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	rest := b[messageHeadBytes:]
	fields := bits.OnesCount16(present & presentFields)
	switch {
	case !travels(kind):
		return envelope{}, malformed("type %d does not travel", b[2])
	case b[3] > 1 || present&^presentKnown != 0 || le.Uint16(b[6:]) != 0 || b[3] == 1 && present&presentReject == 0:
		return envelope{}, malformed("unknown flags")
	case contextBytes > ContextBytesMax || contextBytes > 0 && present&presentContext == 0:
		return envelope{}, malformed("a context of %d bytes", contextBytes)
	case uint64(len(rest)) < 8*uint64(fields)+contextBytes+entryHeadBytes*entries:
		return envelope{}, malformed("it is cut off")
	}
	s := d.slot(left)
	s.kind, s.reject = kind, b[3] == 1
	m := &s.message
	m.Type = &s.kind
	if present&presentReject != 0 {
		m.Reject = &s.reject
	}
	for i, field := range [fieldCount]**uint64{&m.To, &m.From, &m.Term, &m.LogTerm, &m.Index, &m.Commit, &m.Vote, &m.RejectHint} {
		if present&(1<<i) != 0 {
			s.fields[i] = le.Uint64(rest)
			*field = &s.fields[i]
			rest = rest[8:]
		}
	}
	if present&presentContext != 0 {
		m.Context = append([]byte{}, rest[:contextBytes]...)
		rest = rest[contextBytes:]
	}
	e := envelope{shard: le.Uint16(b), message: m}
	d.rest = rest[entryHeadBytes*entries:]
	e.meta = len(b) - len(d.rest)
	return e, d.decodeEntries(&e, rest[:entryHeadBytes*entries])
}

func (d *batchDecoder) decodeEntries(e *envelope, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	le, count := binary.LittleEndian, len(b)/entryHeadBytes
	e.message.Entries = make([]*raftpb.Entry, count)
	firstWant := len(d.wants)
	var slots []entrySlot
	for i := range count {
		head := b[i*entryHeadBytes:][:entryHeadBytes]
		size, present := int(le.Uint32(head[16:])), head[21]
		if present&^entryKnown != 0 || head[22] != 0 || head[23] != 0 || size > 0 && present&entryHasData == 0 {
			return malformed("unknown flags of entry %d", i)
		}
		if size > EntryBytesMax {
			return malformed("entry %d with %d bytes", i, size)
		}
		if len(slots) == 0 {
			slots = make([]entrySlot, min(count-i, slabCount))
		}
		s := &slots[0]
		slots = slots[1:]
		s.term, s.index, s.kind = le.Uint64(head), le.Uint64(head[8:]), raftpb.EntryType(head[20])
		if present&entryHasTerm != 0 {
			s.entry.Term = &s.term
		}
		if present&entryHasIndex != 0 {
			s.entry.Index = &s.index
		}
		if present&entryHasType != 0 {
			s.entry.Type = &s.kind
		}
		if present&entryHasData != 0 {
			d.wants = append(d.wants, want{entry: &s.entry, bytes: size, first: len(d.wants) == firstWant})
		}
		e.data += size
		e.message.Entries[i] = &s.entry
	}
	if e.meta+e.data > MessageBytesMax {
		return malformed("a message of %d bytes", e.meta+e.data)
	}
	if firstWant < len(d.wants) {
		d.wants[firstWant].total = e.data
	}
	d.data += e.data
	return nil
}

// fill reads the data of all entries that decodeBatch found, d.data bytes in all.
func (d *batchDecoder) fill(r io.Reader) error {
	var shared []byte
	share := false
	for _, w := range d.wants {
		if w.first {
			if share = w.total <= shareBytesMax; share {
				shared = make([]byte, w.total)
			}
		}
		if share {
			w.entry.Data, shared = shared[:w.bytes:w.bytes], shared[w.bytes:]
		} else {
			w.entry.Data = make([]byte, w.bytes)
		}
		if _, err := io.ReadFull(r, w.entry.Data); err != nil {
			return err
		}
	}
	if clear(d.wants); cap(d.wants) > wantsKeep {
		d.wants = nil
	}
	return nil
}
