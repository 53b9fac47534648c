package host

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// The reads that wait are bounded, in the inbox and behind it together; those that were given up do not count.
func TestWaitingReadsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), newMemLog(), nil)
		synctest.Wait()
		l := n.loop(0)
		ctx, giveUp := context.WithCancel(t.Context())
		hold, held := make(chan struct{}), make(chan struct{})
		go func() { _ = n.StaleRead(t.Context(), 0, func() { close(held); <-hold }) }() // nothing is taken out meanwhile
		<-held
		results := make(chan error, ReadsWaitingMax)
		read := func() { results <- n.Read(ctx, 0, func() {}) }
		l.unserved.Store(ReadsWaitingMax / 2) // as if a quorum was slow: these are out of the inbox
		for range ReadsWaitingMax / 2 {
			go read()
		}
		synctest.Wait()
		if err := n.Read(ctx, 0, func() {}); !errors.Is(err, ErrOverloaded) {
			t.Errorf("one more than may wait: %v", err)
		}
		giveUp()
		synctest.Wait()
		close(hold)
		synctest.Wait()
		if err := n.Read(t.Context(), 0, func() {}); err != nil {
			t.Errorf("when the others have given up: %v", err)
		}
		synctest.Wait()
		if left := l.unserved.Load(); left != 0 {
			t.Errorf("%d reads are counted and gone", left)
		}
		n.mustClose(t)
	})
}
