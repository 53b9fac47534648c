package queue

import (
	"github.com/tidwall/btree"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// A run is count consecutive positions from start.
type run struct {
	start Pos
	count uint32
}

func (r run) end() Pos { return r.start + Pos(r.count) }

func (r run) contains(p Pos) bool { return p >= r.start && p < r.end() }

// runCountMax keeps a run's count from overflowing.
const runCountMax = 1<<32 - 1

// A runSet is an ordered set of positions, kept as runs. The first and the last run lie outside the tree, so that a
// queue that is filled at one end and drained at the other does no tree work; all positions of head are below those of
// the tree, and all of tail above. Runs never overlap; they may touch.
type runSet struct {
	head, tail run // count 0: none
	tree       *btree.Map[Pos, uint32]
	count      uint64
}

// clone returns a copy that shares its nodes with s; s must not be changed any more.
func (s *runSet) clone() *runSet {
	c := *s
	if s.tree != nil {
		c.tree = s.tree.Copy()
	}
	return &c
}

// append adds p, which must be above every member.
func (s *runSet) append(p Pos) {
	s.count++
	if s.tail.count > 0 && s.tail.end() == p && s.tail.count < runCountMax {
		s.tail.count++
		return
	}
	if s.tail.count > 0 {
		invariant.Check(p > s.tail.end(), "append %d below the tail's end %d", p, s.tail.end())
		s.keep(s.tail)
	}
	s.tail = run{p, 1}
}

// keep puts a run above all others into the tree.
func (s *runSet) keep(r run) {
	if s.tree == nil {
		s.tree = btree.NewMap[Pos, uint32](0)
	}
	s.tree.Load(r.start, r.count)
}

// first returns the least member.
func (s *runSet) first() (Pos, bool) {
	if s.head.count > 0 {
		return s.head.start, true
	}
	if s.tree != nil {
		if p, _, ok := s.tree.Min(); ok {
			return p, true
		}
	}
	return s.tail.start, s.tail.count > 0
}

// pop removes the least member. The set must not be empty.
func (s *runSet) pop() Pos {
	if s.head.count == 0 {
		s.loadHead()
	}
	p := s.head.start
	s.head.start++
	s.head.count--
	s.count--
	return p
}

func (s *runSet) loadHead() {
	if s.tree != nil {
		if start, count, ok := s.tree.PopMin(); ok {
			s.head = run{start, count}
			return
		}
	}
	invariant.Check(s.tail.count > 0, "pop from an empty run set")
	s.head, s.tail = s.tail, run{}
}

// insert adds p at its place. It must not be a member.
func (s *runSet) insert(p Pos) {
	s.count++
	switch {
	case s.head.count > 0 && p < s.head.end():
		invariant.Check(p < s.head.start, "position %d is in the set already", p)
		if p+1 == s.head.start && s.head.count < runCountMax {
			s.head.start--
			s.head.count++
			return
		}
		s.set(s.head)
		s.head = run{p, 1}
	case s.tail.count > 0 && p >= s.tail.start:
		invariant.Check(p >= s.tail.end(), "position %d is in the set already", p)
		s.count--
		s.append(p)
	case s.tail.count > 0 && p+1 == s.tail.start && s.tail.count < runCountMax:
		s.tail.start--
		s.tail.count++
	case s.count == 1:
		s.tail = run{p, 1}
	case s.head.count > 0 && p == s.head.end() && s.head.count < runCountMax:
		s.head.count++
	default:
		s.insertTree(p)
	}
}

// insertTree adds p to the tree and joins it with the runs it touches.
func (s *runSet) insertTree(p Pos) {
	r := run{p, 1}
	if before, ok := s.before(p); ok && before.end() >= p {
		invariant.Check(before.end() == p, "position %d is in the set already", p)
		if before.count < runCountMax {
			r = run{before.start, before.count + 1}
		}
	}
	if s.tree != nil {
		if after, ok := s.tree.Get(p + 1); ok && uint64(r.count)+uint64(after) <= runCountMax {
			s.tree.Delete(p + 1)
			r.count += after
		}
	}
	s.set(r)
}

func (s *runSet) set(r run) {
	if s.tree == nil {
		s.tree = btree.NewMap[Pos, uint32](0)
	}
	s.tree.Set(r.start, r.count)
}

// before returns the tree's last run that starts at or before p.
func (s *runSet) before(p Pos) (run, bool) {
	var found run
	if s.tree != nil {
		s.tree.Descend(p, func(start Pos, count uint32) bool {
			found = run{start, count}
			return false
		})
	}
	return found, found.count > 0
}

// contains reports whether p is a member.
func (s *runSet) contains(p Pos) bool {
	if s.head.contains(p) || s.tail.contains(p) {
		return true
	}
	r, ok := s.before(p)
	return ok && r.contains(p)
}

// remove takes p out and reports whether it was a member.
func (s *runSet) remove(p Pos) bool {
	var r run
	switch {
	case s.head.contains(p):
		r, s.head = s.head, run{}
	case s.tail.contains(p):
		r, s.tail = s.tail, run{}
	default:
		var ok bool
		if r, ok = s.before(p); !ok || !r.contains(p) {
			return false
		}
		s.tree.Delete(r.start)
	}
	// What is left of the run goes to the tree: it keeps its order to the head and the tail there.
	s.count--
	if left := uint32(p - r.start); left > 0 {
		s.set(run{r.start, left})
	}
	if right := r.count - uint32(p-r.start) - 1; right > 0 {
		s.set(run{p + 1, right})
	}
	return true
}

// runs calls yield with the runs that hold members from p on, in order, cut at p, until yield returns false.
func (s *runSet) runs(p Pos, yield func(run) bool) {
	clipped := func(r run) bool {
		if r.count == 0 || r.end() <= p {
			return true
		}
		if r.start < p {
			r = run{p, uint32(r.end() - p)}
		}
		return yield(r)
	}
	if !clipped(s.head) {
		return
	}
	if s.tree != nil && s.tree.Len() > 0 {
		from := p
		if r, ok := s.before(p); ok {
			from = r.start
		}
		stopped := false
		s.tree.Ascend(from, func(start Pos, count uint32) bool {
			stopped = !clipped(run{start, count})
			return !stopped
		})
		if stopped {
			return
		}
	}
	clipped(s.tail)
}
