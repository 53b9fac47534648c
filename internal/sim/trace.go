package sim

import (
	"fmt"
	"io"
	"time"
)

// trace is what a run did, for a person to read, and always a hash of it: the hash goes over the facts and not over the
// text, so that it costs next to nothing when nobody reads.
type trace struct {
	to   io.Writer // nil: nobody reads
	hash uint64
	now  *time.Duration
}

// mix adds facts to the hash.
func (t *trace) mix(facts ...uint64) {
	h := t.hash
	for _, f := range facts {
		h = mix64(h, f)
	}
	t.hash = h
}

// on reports whether somebody reads: ask before arguments are made for printf.
func (t *trace) on() bool { return t.to != nil }

// printf writes one line, with the time in front. who is "n2", "n2/s1", "worker 7" or the like.
func (t *trace) printf(who, format string, args ...any) {
	if t.to == nil {
		return
	}
	_, _ = fmt.Fprintf(t.to, "%12.6f  %-9s %s\n", t.now.Seconds(), who, fmt.Sprintf(format, args...)) // who reads it notices
}

const hashPrime = 0x9e3779b97f4a7c15

// mix64 is a cheap hash step.
func mix64(h, v uint64) uint64 {
	h = (h ^ v) * hashPrime
	return h ^ h>>29
}

// hashBytes hashes a byte string.
func hashBytes(h uint64, b []byte) uint64 {
	h = mix64(h, uint64(len(b)))
	for len(b) >= 8 {
		v := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		h = mix64(h, v)
		b = b[8:]
	}
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return mix64(h, v)
}
