package queue

import "math/bits"

// The fingerprint is the sum, modulo 2^64, of a hash of every element of the state: adding and taking away an element
// costs one hash, whatever the size. It finds bugs and rot, not forgery: it is no cryptographic digest.

// One seed per kind of element keeps kinds apart.
const (
	hashSeedReady   = 0x9e3779b97f4a7c15
	hashSeedRecord  = 0xd1b54a32d192ed03
	hashSeedExtra   = 0x8cb92ba72f3d8dd7
	hashSeedErrors  = 0xabc98388fb8fac03
	hashSeedQueue   = 0xe7037ed1a0b428db
	hashSeedSession = 0x589965cc75374cc3
	hashSeedAnswer  = 0x1d8e4e27c47d124f
	hashSeedClock   = 0xeb44accab455d165
	hashSeedEnded   = 0xc2b2ae3d27d4eb4f
	hashSeedClaim   = 0xa24baed4963ee407
	hashSeedJitter  = 0x2545f4914f6cdd1d

	hashMultiplier = 0xa0761d6478bd642f
)

// mix folds the 128-bit product: every bit of both operands reaches every bit of the result.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// step adds one word to a hash.
func step(h, v uint64) uint64 { return mix(h^v, hashMultiplier) + v }

// finish makes a hash fit to be summed: without it, elements that differ in one word would give sums that cancel.
func finish(h uint64) uint64 {
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

func hash3(seed, a, b uint64) uint64 { return finish(step(step(seed, a), b)) }

func hashBytes[T ~string | ~[]byte](h uint64, v T) uint64 {
	h = step(h, uint64(len(v)))
	for i := range len(v) {
		h = step(h, uint64(v[i]))
	}
	return h
}
