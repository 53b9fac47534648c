package queue

import "github.com/tidwall/btree"

const fifoChunk = 32

// A posFIFO is a queue of positions, each with a sequence number. Its ends lie outside the tree: most pushes and pops
// touch no node.
type posFIFO struct {
	first, next uint64 // sequence numbers: members are [first, next)
	headChunk   uint64 // which chunk head is; valid when headLoaded
	headLoaded  bool
	head, tail  [fifoChunk]Pos
	tree        *btree.Map[uint64, [fifoChunk]Pos] // by chunk number: those between head and tail
}

const fifoDegree = 8

func (f *posFIFO) clone() posFIFO {
	c := *f
	if f.tree != nil {
		c.tree = f.tree.Copy()
	}
	return c
}

func (f *posFIFO) len() uint64 { return f.next - f.first }

func (f *posFIFO) push(p Pos) (seq uint64) {
	seq = f.next
	f.tail[seq%fifoChunk] = p
	f.next++
	if f.next%fifoChunk == 0 {
		if f.tree == nil {
			f.tree = btree.NewMap[uint64, [fifoChunk]Pos](fifoDegree)
		}
		f.tree.Set(seq/fifoChunk, f.tail)
	}
	return seq
}

// pop removes the oldest member; there must be one.
func (f *posFIFO) pop() (p Pos, seq uint64) {
	seq = f.first
	chunk := seq / fifoChunk
	switch {
	case f.headLoaded && f.headChunk == chunk:
		p = f.head[seq%fifoChunk]
	case chunk == f.next/fifoChunk:
		p = f.tail[seq%fifoChunk]
	default:
		f.head, _ = f.tree.Delete(chunk)
		f.headChunk, f.headLoaded = chunk, true
		p = f.head[seq%fifoChunk]
	}
	f.first++
	if f.first%fifoChunk == 0 {
		f.headLoaded = false
	}
	return p, seq
}

// all calls yield with each member, oldest first.
func (f *posFIFO) all(yield func(seq uint64, p Pos) bool) {
	for seq := f.first; seq < f.next; {
		chunk := seq / fifoChunk
		c := &f.tail
		if f.headLoaded && f.headChunk == chunk {
			c = &f.head
		} else if chunk != f.next/fifoChunk {
			sealed, _ := f.tree.Get(chunk)
			c = &sealed
		}
		for ; seq < f.next && seq/fifoChunk == chunk; seq++ {
			if !yield(seq, c[seq%fifoChunk]) {
				return
			}
		}
	}
}
