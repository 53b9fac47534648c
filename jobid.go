package beaver

import (
	"encoding/base32"
	"encoding/binary"
)

// JobID names a job for ever, in the whole cluster: 16 characters of lower-case Crockford base32. Within a shard, IDs sort
// by age.
type JobID string

const (
	// jobIDWireBytes is an ID on the enqueue stream: shard (2) and position (8), big endian.
	jobIDWireBytes = 10
	jobIDTextBytes = 16
)

var jobIDText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// shard is the shard that the job lives on, if the ID is one.
func (id JobID) shard() (uint16, bool) {
	if len(id) != jobIDTextBytes {
		return 0, false
	}
	b, err := jobIDText.DecodeString(string(id))
	if err != nil {
		return 0, false
	}
	return binary.BigEndian.Uint16(b), true
}

// jobIDFromWire reads the ID at the start of b; the empty ID stands where the job was refused.
//
// REQUIRES: len(b) >= jobIDWireBytes.
func jobIDFromWire(b []byte) JobID {
	if binary.BigEndian.Uint64(b[2:]) == 0 && b[0] == 0 && b[1] == 0 {
		return ""
	}
	var text [jobIDTextBytes]byte
	jobIDText.Encode(text[:], b[:jobIDWireBytes])
	return JobID(text[:])
}
