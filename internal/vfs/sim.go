package vfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
)

// ErrPowerCut is for a Hook to return: the call does nothing at all, as if the power went just before it.
var ErrPowerCut = errors.New("simulated power cut")

const (
	// simDefaultTotalBytes is the disk size that Usage tells when SimOptions.CapacityBytes is zero.
	simDefaultTotalBytes = 1 << 40
	// simZerosBytes is one write of Preallocate.
	simZerosBytes = 1 << 20
)

// SimOptions shape a simulated disk. The zero value is a disk without end and without faults.
type SimOptions struct {
	// CapacityBytes is the room for file contents, counted in whole pages of 4096 bytes; 0 is without end.
	// A write that does not fit writes what does and returns ENOSPC. Overwriting in place always fits.
	CapacityBytes int64
	// AtomicSectors keeps a crash from tearing inside a sector of 512 bytes. Without it a torn sector holds part of
	// the new bytes, or garbage, in just those bytes that were written since the last sync.
	AtomicSectors bool
	// Hook, when set, is called before each call that changes the disk, with no lock held: it may crash-clone.
	// An error it returns is injected: see Sim.FailAt for what a failed call leaves behind.
	Hook func(Op) error
	// ReadHook, when set, is called before each read of a file or directory; its error is what the read returns.
	ReadHook func(Op) error
	// Latency, when set, is called before each read and each change and may sleep (in a synctest bubble).
	Latency func(Op)
}

// Sim is a disk in memory that can be crashed, filled, damaged and made to fail, all from one seed: the same seed and
// the same calls give the same bytes. It implements FS; files stay usable through open handles after a rename or a
// removal, like POSIX. The difference to memory is what it remembers: per byte range and per name what the disk is
// certain to hold, so that Crash can tell what a power cut may leave. Safe for concurrent use; only calls in a fixed
// order reproduce.
type Sim struct {
	opts SimOptions

	mu      sync.RWMutex
	rng     *rand.Rand
	epoch   *epoch
	zero    *page // stands for every allocated page of zeros, never written
	root    *node
	nodes   uint64   // ids given
	pending []nameOp // changes of names that no SyncDir has made certain, oldest first
	used    int64    // allocated pages
	locks   map[*node]struct{}

	ops     uint64
	faults  map[uint64]error
	failing struct {
		from uint64
		err  error
	}
	misdirected map[uint64]target
}

var _ FS = (*Sim)(nil)

// NewSim returns an empty disk.
func NewSim(seed uint64, opts SimOptions) *Sim {
	s := newSim(seed, opts)
	s.root = s.newNode(true)
	return s
}

func newSim(seed uint64, opts SimOptions) *Sim {
	return &Sim{
		opts:  opts,
		rng:   newRand(seed),
		epoch: new(epoch),
		zero:  new(page),
		locks: make(map[*node]struct{}),
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x62656176657273)) }

// Create implements FS.
func (s *Sim) Create(name string) (File, error) {
	if err := s.begin(Op{Kind: OpCreate, Name: name}).err; err != nil {
		return nil, pathError("create", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base, err := s.parent(name)
	if err != nil {
		return nil, pathError("create", name, err)
	}
	if dir.entries[base] != nil {
		return nil, pathError("create", name, fs.ErrExist)
	}
	n := s.newNode(false)
	s.link(n, slot{dir, base})
	return s.open(n, name, true), nil
}

// CreateUncached implements FS: this disk has no page cache.
func (s *Sim) CreateUncached(name string) (File, error) { return s.Create(name) }

// Open implements FS.
func (s *Sim) Open(name string) (File, error) { return s.openExisting(name, false) }

// OpenReadWrite implements FS.
func (s *Sim) OpenReadWrite(name string) (File, error) { return s.openExisting(name, true) }

func (s *Sim) openExisting(name string, writable bool) (File, error) {
	if err := s.beginRead(Op{Kind: OpOpen, Name: name}); err != nil {
		return nil, pathError("open", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookup(name)
	if err == nil && n.dir {
		err = errIsDir
	}
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return s.open(n, name, writable), nil
}

// Remove implements FS.
func (s *Sim) Remove(name string) error {
	if err := s.begin(Op{Kind: OpRemove, Name: name}).err; err != nil {
		return pathError("remove", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base, err := s.parent(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	n := dir.entries[base]
	switch {
	case n == nil:
		return pathError("remove", name, fs.ErrNotExist)
	case n.dir && len(n.entries) > 0:
		return pathError("remove", name, errNotEmpty)
	}
	delete(dir.entries, base)
	s.pending = append(s.pending, nameOp{node: n, from: slot{dir, base}, waits: []*node{dir}})
	s.unlinked(n)
	return nil
}

// Rename implements FS.
func (s *Sim) Rename(oldName, newName string) error {
	if err := s.begin(Op{Kind: OpRename, Name: oldName, NewName: newName}).err; err != nil {
		return pathError("rename", oldName, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	oldDir, oldBase, err := s.parent(oldName)
	if err != nil {
		return pathError("rename", oldName, err)
	}
	newDir, newBase, err := s.parent(newName)
	if err != nil {
		return pathError("rename", newName, err)
	}
	n, replaced := oldDir.entries[oldBase], newDir.entries[newBase]
	switch {
	case n == nil:
		return pathError("rename", oldName, fs.ErrNotExist)
	case n == replaced:
		return nil
	case replaced != nil && (replaced.dir || n.dir):
		return pathError("rename", newName, fs.ErrExist)
	case n.dir && s.within(newDir, n):
		return pathError("rename", newName, fs.ErrInvalid)
	}
	delete(oldDir.entries, oldBase)
	newDir.entries[newBase] = n
	op := nameOp{node: n, from: slot{oldDir, oldBase}, to: slot{newDir, newBase}, waits: []*node{oldDir}}
	if newDir != oldDir {
		op.waits = append(op.waits, newDir)
	}
	s.pending = append(s.pending, op)
	if replaced != nil {
		s.unlinked(replaced)
	}
	return nil
}

// MkdirAll implements FS. Each missing directory is one change and the sync of its parent another.
func (s *Sim) MkdirAll(dir string) error {
	parts := split(dir)
	for i := range parts {
		parent, name := strings.Join(parts[:i], "/"), strings.Join(parts[:i+1], "/")
		info, err := s.Stat(name)
		if err == nil && !info.Dir {
			return pathError("mkdir", name, errNotDir)
		}
		if err == nil {
			continue
		}
		if err := s.mkdir(name); err != nil {
			return err
		}
		if err := s.SyncDir(parent); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sim) mkdir(name string) error {
	if err := s.begin(Op{Kind: OpMkdir, Name: name}).err; err != nil {
		return pathError("mkdir", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, base, err := s.parent(name)
	if err != nil {
		return pathError("mkdir", name, err)
	}
	if dir.entries[base] == nil {
		s.link(s.newNode(true), slot{dir, base})
	}
	return nil
}

// List implements FS.
func (s *Sim) List(dir string) ([]string, error) {
	if err := s.beginRead(Op{Kind: OpList, Name: dir}); err != nil {
		return nil, pathError("list", dir, err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, err := s.lookupDir(dir)
	if err != nil {
		return nil, pathError("list", dir, err)
	}
	return slices.Sorted(maps.Keys(n.entries)), nil
}

// Stat implements FS.
func (s *Sim) Stat(name string) (Info, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, err := s.lookup(name)
	if err != nil {
		return Info{}, pathError("stat", name, err)
	}
	return Info{Size: n.size, Dir: n.dir}, nil
}

// SyncDir implements FS. A rename between two directories is certain once both are synced.
func (s *Sim) SyncDir(dir string) error {
	if err := s.begin(Op{Kind: OpSyncDir, Name: dir}).err; err != nil {
		return pathError("syncdir", dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookupDir(dir)
	if err != nil {
		return pathError("syncdir", dir, err)
	}
	s.commitNames(n)
	return nil
}

// Lock implements FS. A crash drops all locks.
func (s *Sim) Lock(name string) (io.Closer, error) {
	if _, err := s.Stat(name); err != nil {
		f, err := s.Create(name)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err == nil {
			_ = f.Close() // a simulated handle closes without fail
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookup(name)
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	if _, held := s.locks[n]; held {
		return nil, pathError("lock", name, ErrLocked)
	}
	s.locks[n] = struct{}{}
	return &simLock{s, n}, nil
}

type simLock struct {
	sim  *Sim
	node *node
}

// Close drops the lock.
func (l *simLock) Close() error {
	l.sim.mu.Lock()
	defer l.sim.mu.Unlock()
	if l.node == nil {
		return fs.ErrClosed
	}
	delete(l.sim.locks, l.node)
	l.node = nil
	return nil
}

// Usage implements FS.
func (s *Sim) Usage(dir string) (Usage, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, err := s.lookup(dir); err != nil {
		return Usage{}, pathError("usage", dir, err)
	}
	total := s.opts.CapacityBytes
	if total == 0 {
		total = simDefaultTotalBytes
	}
	return Usage{Free: uint64(max(0, total-s.used*pageBytes)), Total: uint64(total)}, nil
}

// SetCapacity changes CapacityBytes, to fill or widen a disk in the middle of a test.
func (s *Sim) SetCapacity(capacityBytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.CapacityBytes = capacityBytes
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// split cuts a path into its names; "/a/b", "a/b" and "./a/b" are one file here.
func split(name string) []string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}
