package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

const (
	// diskStallMin is from where on a sync of one page counts as the disk standing still. What the nodes write beside it, 4 MiB of zeros
	// each at most, takes half as long.
	diskStallMin = 25 * time.Millisecond
	// diskWatchPause lies between two syncs: a small part of what the nodes ask of the disk.
	diskWatchPause = 2 * time.Millisecond
)

// span is from one time to another.
type span struct{ from, to time.Time }

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// without is how long a span is without its parts that lie in others, which do not overlap.
func (s span) without(others []span) time.Duration {
	rest := s.length()
	for _, o := range others {
		from, to := o.from, o.to
		if from.Before(s.from) {
			from = s.from
		}
		if to.After(s.to) {
			to = s.to
		}
		rest -= max(0, to.Sub(from))
	}
	return rest
}

// diskWatch asks a disk to sync one page, again and again, and notes when it stands still. Nodes on this machine share one disk, and a
// virtual machine shares it with others: that a node stands still because its disk does says nothing about the node.
type diskWatch struct {
	syncs   int
	slowest time.Duration
	stalls  []span // in order; they do not overlap
}

// watchDisk watches the disk of a directory until ctx ends.
func watchDisk(ctx context.Context, dir string) (_ *diskWatch, err error) {
	pages, err := newPages(filepath.Join(dir, "watch"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pages.remove()) }()
	w := &diskWatch{}
	for pause(ctx, diskWatchPause) == nil {
		s, err := pages.sync()
		if err != nil {
			return nil, err
		}
		w.note(s)
	}
	return w, nil
}

// watchDiskAside watches the disk of a directory beside what the caller does. end ends it; it may be called more than once.
func watchDiskAside(ctx context.Context, dir string) (end func() (*diskWatch, error)) {
	ctx, cancel := context.WithCancel(ctx)
	var (
		watch *diskWatch
		err   error
		done  = make(chan struct{})
	)
	go func() {
		defer close(done)
		watch, err = watchDisk(ctx, dir)
	}()
	return func() (*diskWatch, error) {
		cancel()
		<-done
		return watch, err
	}
}

// note takes one sync.
func (w *diskWatch) note(s span) {
	w.syncs++
	w.slowest = max(w.slowest, s.length())
	if s.length() >= diskStallMin {
		w.stalls = append(w.stalls, s)
	}
}

// fact is the slowest sync.
func (w *diskWatch) fact(when string) kpiFact {
	return kpiFact{
		Name: "the disk syncs a page, " + when + ", max", Value: 1000 * w.slowest.Seconds(), Unit: "ms",
		Note: fmt.Sprintf("%d of %d took %v or more", len(w.stalls), w.syncs, diskStallMin),
	}
}
