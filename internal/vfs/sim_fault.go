package vfs

import (
	"errors"
	"fmt"
)

// OpKind is a kind of call to a Sim.
type OpKind uint8

// The kinds of calls that a hook sees. The first group changes the disk and is numbered.
const (
	OpCreate OpKind = iota + 1
	OpRemove
	OpRename
	OpMkdir
	OpSyncDir
	OpWrite
	OpTruncate
	OpSync
	OpSyncData

	OpOpen
	OpList
	OpRead
)

func (k OpKind) String() string {
	names := [...]string{
		OpCreate: "create", OpRemove: "remove", OpRename: "rename", OpMkdir: "mkdir", OpSyncDir: "syncdir",
		OpWrite: "write", OpTruncate: "truncate", OpSync: "sync", OpSyncData: "syncdata",
		OpOpen: "open", OpList: "list", OpRead: "read",
	}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("op(%d)", uint8(k))
}

// Op is one call, as a hook sees it.
type Op struct {
	// Number counts the calls that change the disk, from 1. For a read it is the number of the last change.
	Number  uint64
	Kind    OpKind
	Name    string
	NewName string // of a rename
	Offset  int64  // of a read or write
	Length  int64  // of a read or write; the new size of a truncate
}

func (o Op) String() string {
	switch o.Kind {
	case OpRename:
		return fmt.Sprintf("%d %s %s %s", o.Number, o.Kind, o.Name, o.NewName)
	case OpWrite, OpRead:
		return fmt.Sprintf("%d %s %s %d+%d", o.Number, o.Kind, o.Name, o.Offset, o.Length)
	case OpTruncate:
		return fmt.Sprintf("%d %s %s %d", o.Number, o.Kind, o.Name, o.Length)
	default:
		return fmt.Sprintf("%d %s %s", o.Number, o.Kind, o.Name)
	}
}

// Ops returns how many calls have changed the disk, or tried to.
func (s *Sim) Ops() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ops
}

// SetHook replaces SimOptions.Hook; nil removes it.
func (s *Sim) SetHook(hook func(Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Hook = hook
}

// SetReadHook replaces SimOptions.ReadHook; nil removes it.
func (s *Sim) SetReadHook(hook func(Op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.ReadHook = hook
}

// FailAt makes the call with that number fail with err, syscall.EIO or syscall.ENOSPC say. A failed write leaves a
// part of itself. A failed sync lets some sectors reach the disk, and *marks the rest clean*: they are still read, a
// later sync succeeds, and a power cut loses them. Other failed calls change nothing. ErrPowerCut never changes anything.
func (s *Sim) FailAt(number uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults == nil {
		s.faults = make(map[uint64]error)
	}
	s.faults[number] = err
}

// FailFrom makes every call from that number on fail with err; a nil error ends it.
func (s *Sim) FailFrom(number uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing.from, s.failing.err = number, err
}

// Misdirect makes the write with that number, if that call is a write, report success and land elsewhere: in the file
// name at offset, or nowhere when name is empty or does not exist.
func (s *Sim) Misdirect(number uint64, name string, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.misdirected == nil {
		s.misdirected = make(map[uint64]target)
	}
	s.misdirected[number] = target{name, offset}
}

// FlipBit damages one bit, 0 to 7, of a byte at rest: what is read changes and what the disk holds does too.
func (s *Sim) FlipBit(name string, offset int64, bit uint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookup(name)
	if err != nil {
		return pathError("flip", name, err)
	}
	if offset < 0 || offset >= n.size || bit > 7 {
		return pathError("flip", name, fmt.Errorf("no bit %d at offset %d of %d bytes", bit, offset, n.size))
	}
	number, at := offset/pageBytes, offset%pageBytes
	flip := func(p *page) *page {
		flipped := &page{owner: s.epoch, data: *s.dataOf(p)}
		flipped.data[at] ^= 1 << bit
		return flipped
	}
	if n.page(number) == nil {
		s.used++ // a hole becomes a page
	}
	for int64(len(n.pages)) <= number {
		n.pages = append(n.pages, nil)
	}
	n.pages[number] = flip(n.pages[number])
	if d := n.dirty[number]; d != nil {
		d.disk = flip(d.disk)
	}
	if disk, ok := n.stale[number]; ok {
		n.stale[number] = flip(disk)
	}
	return nil
}

// target is where a misdirected write lands.
type target struct {
	name   string
	offset int64
}

// verdict is what the faults say of one call.
type verdict struct {
	err         error
	misdirected bool
	target      target
}

func (v verdict) powerCut() bool { return errors.Is(v.err, ErrPowerCut) }

// begin numbers a call that changes the disk, tells the hooks, and decides whether it fails. Takes s.mu for a moment.
func (s *Sim) begin(op Op) verdict {
	s.mu.Lock()
	s.ops++
	op.Number = s.ops
	hook, latency := s.opts.Hook, s.opts.Latency
	var v verdict
	v.err = s.faults[op.Number]
	if v.err == nil && s.failing.err != nil && op.Number >= s.failing.from {
		v.err = s.failing.err
	}
	v.target, v.misdirected = s.misdirected[op.Number]
	s.mu.Unlock()

	if latency != nil {
		latency(op)
	}
	if hook != nil {
		if err := hook(op); err != nil {
			v.err = err
		}
	}
	return v
}

// beginRead tells the hooks of a read.
func (s *Sim) beginRead(op Op) error {
	s.mu.RLock()
	op.Number = s.ops
	hook, latency := s.opts.ReadHook, s.opts.Latency
	s.mu.RUnlock()
	if latency != nil {
		latency(op)
	}
	if hook != nil {
		return hook(op)
	}
	return nil
}

// misdirect finds where a misdirected write lands; a nil node is nowhere. REQUIRES: s.mu.
func (s *Sim) misdirect(t target) (*node, int64) {
	if t.name == "" {
		return nil, 0
	}
	n, err := s.lookup(t.name)
	if err != nil || n.dir {
		return nil, 0
	}
	return n, t.offset
}
