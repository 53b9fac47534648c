package transfer

import (
	"encoding/binary"
	"fmt"
)

// Status says where a receiver is.
type Status uint8

// What a receiver says.
const (
	StatusMore      Status = 1 // the positions say what is due next
	StatusUnknown   Status = 2 // it knows of no such transfer: offer it again
	StatusReady     Status = 3 // all is here and was checked; it is going to be installed
	StatusInstalled Status = 4 // the snapshot is installed
	StatusHave      Status = 5 // not needed: the follower's log is committed up to Held, which is not below the snapshot
	StatusLater     Status = 6 // no room at the moment
	StatusRefused   Status = 7 // this transfer can never succeed
)

func (s Status) String() string {
	names := [...]string{"", "more", "unknown", "ready", "installed", "have", "later", "refused"}
	if int(s) < len(names) && s > 0 {
		return names[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Ack is what a receiver answers to a chunk.
type Ack struct {
	Status     Status
	OutOfOrder bool   // the chunk was not the one that is due
	Held       uint64 // entries up to here need not be sent
	Through    uint64 // entries up to here are held or staged
	Hot        uint64 // bytes of the hot state staged
	Text       string // reason of StatusLater and StatusRefused, for a person

	header header
}

// Index is the snapshot that the acknowledgement is about.
func (a *Ack) Index() uint64 { return a.header.index }

func (a *Ack) String() string {
	s := fmt.Sprintf("%s, held %d, through %d, hot %d", a.Status, a.Held, a.Through, a.Hot)
	if a.OutOfOrder {
		s += ", out of order"
	}
	if a.Text != "" {
		s += ", " + a.Text
	}
	return s
}

// Append encodes the acknowledgement.
func (a *Ack) Append(dst []byte) []byte {
	h := a.header
	h.kind = KindAck
	text := a.Text
	if len(text) > TextBytesMax {
		text = text[:TextBytesMax]
	}
	flags := byte(0)
	if a.OutOfOrder {
		flags = flagOutOfOrder
	}
	le := binary.LittleEndian
	start := len(dst)
	dst = append(begin(dst, &h), byte(a.Status), flags)
	dst = le.AppendUint16(dst, uint16(len(text)))
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint64(dst, a.Held)
	dst = le.AppendUint64(dst, a.Through)
	dst = le.AppendUint64(dst, a.Hot)
	dst = append(dst, text...)
	finish(dst[start:])
	return dst
}

func (c *chunk) decodeAck(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < ackBytes {
		return false
	}
	c.ack = Ack{
		Status: Status(b[0]), OutOfOrder: b[1] == flagOutOfOrder,
		Held: le.Uint64(b[8:]), Through: le.Uint64(b[16:]), Hot: le.Uint64(b[24:]),
		Text: string(b[ackBytes:]), header: c.header,
	}
	return b[0] >= byte(StatusMore) && b[0] <= byte(StatusRefused) && b[1] <= flagOutOfOrder &&
		int(le.Uint16(b[2:])) == len(c.ack.Text) && len(c.ack.Text) <= TextBytesMax && le.Uint32(b[4:]) == 0
}

// DecodeAck reads an acknowledgement.
func DecodeAck(b []byte) (Ack, error) {
	c, err := decode(b)
	if err != nil {
		return Ack{}, err
	}
	if c.kind != KindAck {
		return Ack{}, fmt.Errorf("%w: a chunk of kind %s where an acknowledgement is due", ErrMalformed, c.kind)
	}
	return c.ack, nil
}
