package vfs

import (
	"io"
	"io/fs"
	"sync/atomic"
)

// simFile is an open file of a Sim.
type simFile struct {
	sim      *Sim
	node     *node
	name     string // as opened
	writable bool
	closed   atomic.Bool
}

var _ File = (*simFile)(nil)

// open makes a handle. REQUIRES: s.mu.
func (s *Sim) open(n *node, name string, writable bool) *simFile {
	n.handles++
	return &simFile{sim: s, node: n, name: name, writable: writable}
}

func (f *simFile) check(op string, writes bool) error {
	switch {
	case f.closed.Load():
		return pathError(op, f.name, fs.ErrClosed)
	case writes && !f.writable:
		return pathError(op, f.name, errBadFile)
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *simFile) ReadAt(p []byte, offset int64) (int, error) {
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, pathError("read", f.name, fs.ErrInvalid)
	}
	if err := f.sim.beginRead(Op{Kind: OpRead, Name: f.name, Offset: offset, Length: int64(len(p))}); err != nil {
		return 0, pathError("read", f.name, err)
	}
	f.sim.mu.RLock()
	defer f.sim.mu.RUnlock()
	n := f.sim.read(f.node, p, offset)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt. A write that fails by injection leaves a part of itself, drawn from the seed.
func (f *simFile) WriteAt(p []byte, offset int64) (int, error) {
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, pathError("write", f.name, fs.ErrInvalid)
	}
	v := f.sim.begin(Op{Kind: OpWrite, Name: f.name, Offset: offset, Length: int64(len(p))})
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if v.err != nil {
		part := 0
		if !v.powerCut() {
			part = f.sim.write(f.node, p[:f.sim.rng.IntN(len(p)+1)], offset)
		}
		return part, pathError("write", f.name, v.err)
	}
	node := f.node
	if v.misdirected {
		if node, offset = f.sim.misdirect(v.target); node == nil {
			return len(p), nil
		}
	}
	if n := f.sim.write(node, p, offset); n < len(p) {
		return n, pathError("write", f.name, errNoSpace)
	}
	return len(p), nil
}

// Sync implements File.
func (f *simFile) Sync() error { return f.sync(OpSync) }

// SyncData implements File. The size is metadata that reading back needs, so it does what Sync does.
func (f *simFile) SyncData() error { return f.sync(OpSyncData) }

func (f *simFile) sync(kind OpKind) error {
	if err := f.check("sync", false); err != nil {
		return err
	}
	v := f.sim.begin(Op{Kind: kind, Name: f.name})
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if v.err != nil {
		if !v.powerCut() {
			f.sim.syncFailed(f.node)
		}
		return pathError("sync", f.name, v.err)
	}
	f.node.synced()
	return nil
}

// Truncate implements File.
func (f *simFile) Truncate(size int64) error {
	if err := f.check("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return pathError("truncate", f.name, fs.ErrInvalid)
	}
	if err := f.sim.begin(Op{Kind: OpTruncate, Name: f.name, Length: size}).err; err != nil {
		return pathError("truncate", f.name, err)
	}
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	f.sim.truncate(f.node, size)
	return nil
}

// Preallocate implements File, by writes and a sync as on the operating system; the writes are larger, for there is no cache to spare.
func (f *simFile) Preallocate(size int64) error {
	if err := f.check("preallocate", true); err != nil {
		return err
	}
	offset, err := f.Size()
	if err != nil || offset >= size {
		return err
	}
	zeros := make([]byte, min(simZerosBytes, size-offset))
	for offset < size {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-offset)], offset)
		if err != nil {
			return err
		}
		offset += int64(n)
	}
	return f.Sync()
}

// Size implements File.
func (f *simFile) Size() (int64, error) {
	if err := f.check("stat", false); err != nil {
		return 0, err
	}
	f.sim.mu.RLock()
	defer f.sim.mu.RUnlock()
	return f.node.size, nil
}

// Prefetch implements File: nothing is cached here.
func (f *simFile) Prefetch(int64, int64) {}

// Uncache implements File.
func (f *simFile) Uncache(int64, int64) {}

// Close implements io.Closer. It syncs nothing.
func (f *simFile) Close() error {
	if f.closed.Swap(true) {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	f.node.handles--
	f.sim.release(f.node)
	return nil
}
