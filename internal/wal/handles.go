package wal

import (
	"errors"
	"fmt"
	"sync"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// handlePool bounds how many segment files are open: beyond segmentHandlesMax, those not read lately are closed.
type handlePool struct {
	mu     sync.Mutex
	open   []*segment
	hand   int
	closed bool
}

// hold opens the segment's file if need be and takes segment.mu shared; the caller unlocks it, unless there is an error.
func (p *handlePool) hold(fsys vfs.FS, g *segment) error {
	for {
		g.mu.RLock()
		if g.file != nil {
			g.recent.Store(true)
			return nil
		}
		g.mu.RUnlock()
		if err := p.openFile(fsys, g); err != nil {
			return err
		}
	}
}

func (p *handlePool) openFile(fsys vfs.FS, g *segment) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file != nil {
		return nil
	}
	f, err := fsys.Open(g.dataName())
	if err != nil {
		return fmt.Errorf("open segment: %w", err)
	}
	g.file = f
	g.recent.Store(true)
	p.evict(g)
	p.open = append(p.open, g)
	return nil
}

// evict closes one handle when there are too many: the first, going round, that was not read since the last round. A
// segment being read is passed over. REQUIRES: p.mu.
func (p *handlePool) evict(except *segment) {
	for tries := 2 * len(p.open); len(p.open) >= segmentHandlesMax && tries > 0; tries-- {
		p.hand %= len(p.open)
		g := p.open[p.hand]
		if g == except || g.recent.Swap(false) || !g.mu.TryLock() {
			p.hand++
			continue
		}
		_ = g.file.Close() // only read
		g.file = nil
		g.mu.Unlock()
		p.open = append(p.open[:p.hand], p.open[p.hand+1:]...)
	}
}

// drop closes a removed segment's handle once its readers are done.
func (p *handlePool) drop(g *segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.open {
		if o == g {
			p.open = append(p.open[:i], p.open[i+1:]...)
			break
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file != nil {
		_ = g.file.Close() // only read
		g.file = nil
	}
}

func (p *handlePool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, g := range p.open {
		g.mu.Lock()
		errs = append(errs, g.file.Close())
		g.file = nil
		g.mu.Unlock()
	}
	p.open = nil
	return errors.Join(errs...)
}
