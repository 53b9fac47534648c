package queue

const (
	jobIDBytes    = 16
	crockford     = "0123456789abcdefghjkmnpqrstvwxyz"
	crockfordBits = 5
)

// AppendText appends the id's 16 characters to b. It never fails.
func (id JobID) AppendText(b []byte) ([]byte, error) {
	// 80 bits: the shard above the position, so that ids sort as (shard, age).
	hi, lo := uint64(id.Shard), uint64(id.Pos)
	for shift := (jobIDBytes - 1) * crockfordBits; shift >= 0; shift -= crockfordBits {
		digit := lo >> shift
		if shift >= 64 {
			digit = hi >> (shift - 64)
		} else if shift > 64-crockfordBits {
			digit |= hi << (64 - shift)
		}
		b = append(b, crockford[digit&31])
	}
	return b, nil
}

// MarshalText returns the id's text.
func (id JobID) MarshalText() ([]byte, error) { return id.AppendText(nil) }

// UnmarshalText parses what MarshalText returned.
func (id *JobID) UnmarshalText(b []byte) error {
	parsed, err := ParseJobID(string(b))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// String returns the id's text.
func (id JobID) String() string {
	var buf [jobIDBytes]byte
	b, _ := id.AppendText(buf[:0])
	return string(b)
}

// ParseJobID parses an id's text. Upper case is accepted; every id has one canonical text, in lower case.
func ParseJobID(s string) (JobID, error) {
	if len(s) != jobIDBytes {
		return JobID{}, ErrBadJobID
	}
	var hi, lo uint64
	for i := range len(s) {
		digit, ok := crockfordDigit(s[i])
		if !ok {
			return JobID{}, ErrBadJobID
		}
		hi = hi<<crockfordBits | lo>>(64-crockfordBits)
		lo = lo<<crockfordBits | uint64(digit)
	}
	return JobID{Shard: uint16(hi), Pos: Pos(lo)}, nil
}

func crockfordDigit(c byte) (byte, bool) {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	for d := range len(crockford) {
		if crockford[d] == c {
			return byte(d), true
		}
	}
	return 0, false
}
