package vfs

import (
	"io/fs"
	"maps"
	"slices"
)

// slot is a name in a directory.
type slot struct {
	dir  *node
	name string
}

// nameOp is one change of names that a crash undoes or keeps as a whole: a creation has no from, a removal no to.
type nameOp struct {
	node     *node
	from, to slot
	waits    []*node // directories that must be synced before it is certain
}

// touches tells whether two changes are about a common name, so that the later needs the earlier.
func (o *nameOp) touches(other *nameOp) bool {
	for _, a := range [...]slot{o.from, o.to} {
		if a.dir != nil && (a == other.from || a == other.to) {
			return true
		}
	}
	return false
}

// apply does the change in the names that tables give for each directory.
func (o *nameOp) apply(table func(*node) map[string]*node) {
	if o.from.dir != nil && table(o.from.dir)[o.from.name] == o.node {
		delete(table(o.from.dir), o.from.name)
	}
	if o.to.dir != nil {
		table(o.to.dir)[o.to.name] = o.node
	}
}

// link gives a new node its first name. REQUIRES: s.mu.
func (s *Sim) link(n *node, at slot) {
	at.dir.entries[at.name] = n
	s.pending = append(s.pending, nameOp{node: n, to: at, waits: []*node{at.dir}})
}

// commitNames makes every pending change certain that waits for dir only, and each earlier change of the same names:
// file systems order changes of one name. REQUIRES: s.mu.
func (s *Sim) commitNames(dir *node) {
	certain := make([]bool, len(s.pending))
	for i := range s.pending {
		op := &s.pending[i]
		op.waits = slices.DeleteFunc(slices.Clone(op.waits), func(d *node) bool { return d == dir })
		certain[i] = len(op.waits) == 0
	}
	for i := len(certain) - 1; i >= 0; i-- {
		for j := 0; certain[i] && j < i; j++ {
			certain[j] = certain[j] || s.pending[i].touches(&s.pending[j])
		}
	}
	var rest []nameOp
	for i := range s.pending {
		if certain[i] {
			s.pending[i].apply(func(d *node) map[string]*node { return d.durableEntries })
		} else {
			rest = append(rest, s.pending[i])
		}
	}
	s.pending = rest
}

// namesAfter returns the names of every directory as a crash may leave them. REQUIRES: s.mu.
func (s *Sim) namesAfter(o Outcome) func(*node) map[string]*node {
	if o.kind == outcomeKill {
		return func(d *node) map[string]*node { return d.entries }
	}
	tables := make(map[*node]map[string]*node)
	table := func(d *node) map[string]*node {
		if tables[d] == nil {
			tables[d] = maps.Clone(d.durableEntries)
		}
		return tables[d]
	}
	rng := newRand(o.seed)
	// Journaling file systems keep changes in order; others promise that for one name only. Both happen.
	ordered := rng.IntN(2) == 0
	cut := rng.IntN(len(s.pending) + 1)
	var lost []*nameOp
	for i := range s.pending {
		op := &s.pending[i]
		kept := o.kind == outcomeAllKept
		if o.kind == outcomeMixed {
			kept = ordered && i < cut || !ordered && rng.IntN(2) == 0
		}
		if kept && slices.ContainsFunc(lost, op.touches) {
			kept = false
		}
		if kept {
			op.apply(table)
		} else {
			lost = append(lost, op)
		}
	}
	return table
}

// lookup finds a file or directory by its current name. REQUIRES: s.mu or s.mu.RLock.
func (s *Sim) lookup(name string) (*node, error) {
	n := s.root
	for _, part := range split(name) {
		if !n.dir {
			return nil, errNotDir
		}
		if n = n.entries[part]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

func (s *Sim) lookupDir(name string) (*node, error) {
	n, err := s.lookup(name)
	if err == nil && !n.dir {
		err = errNotDir
	}
	return n, err
}

// parent finds the directory that holds name, and name's last part. REQUIRES: s.mu.
func (s *Sim) parent(name string) (dir *node, base string, err error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", fs.ErrInvalid
	}
	dir = s.root
	for _, part := range parts[:len(parts)-1] {
		if dir = dir.entries[part]; dir == nil {
			return nil, "", fs.ErrNotExist
		}
		if !dir.dir {
			return nil, "", errNotDir
		}
	}
	return dir, parts[len(parts)-1], nil
}

// within tells whether dir is top or below it.
func (s *Sim) within(dir, top *node) bool {
	if dir == top {
		return true
	}
	for _, n := range top.entries {
		if n.dir && s.within(dir, n) {
			return true
		}
	}
	return false
}
