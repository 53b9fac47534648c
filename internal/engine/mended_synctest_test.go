package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A fetch reads again what other members have made whole, and waits for that so long and no longer.
func TestFetchWaitsForAMendedPayload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		id := enqueue(t, e, jobs("q", 1)...)[0]
		mended := make(chan struct{})
		damage := &wal.CorruptError{Mending: mended}
		begun := time.Now()
		_, _, err := e.readMended(t.Context(), shardID(id), id.Pos, damage)
		wantError(t, err, CodeUnavailable, ReasonDamaged)
		if took := time.Since(begun); took != mendWait {
			t.Errorf("it waited %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := e.readMended(ctx, shardID(id), id.Pos, damage); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody waits, and it says %v", err)
		}
		time.AfterFunc(mendWait/2, func() { close(mended) })
		if _, item, err := e.readMended(t.Context(), shardID(id), id.Pos, damage); err != nil || len(item) == 0 {
			t.Errorf("mended, it reads %q, %v", item, err)
		}
		if lost := (&wal.CorruptError{}); !isDamage(lost) || beingMended(lost) != nil {
			t.Error("what nobody is asked for is waited for")
		}
	})
}
