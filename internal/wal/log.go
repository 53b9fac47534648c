package wal

import "errors"

// Log is a node's log. See the package documentation for who may call what.
type Log struct{ opts Options }

var errNotReady = errors.New("wal: not written yet")

// Open opens or creates the log in opts.Dir and recovers it.
func Open(opts Options) (*Log, Recovery, error) { return nil, Recovery{}, errNotReady }

// Close releases the files. It flushes nothing and is safe after a failure.
func (l *Log) Close() error { return nil }

// Shards returns the shards that have any state, sorted.
func (l *Log) Shards() []ShardID { return nil }

// State returns a shard's part of the log; the zero ShardState with First 1 when the shard is new.
func (l *Log) State(shard ShardID) ShardState { return ShardState{First: 1} }

// Append buffers a hard state and entries of one shard.
func (l *Log) Append(shard ShardID, hs *HardState, entries []Entry) (Position, error) {
	return 0, errNotReady
}

// Flush makes everything appended before the call durable.
func (l *Log) Flush() (Position, error) { return 0, errNotReady }

// Read returns one entry, its checksum verified.
func (l *Log) Read(shard ShardID, index uint64) (Entry, error) { return Entry{}, errNotReady }

// ReadRange returns entries [lo, hi) of the contiguous tail.
func (l *Log) ReadRange(shard ShardID, lo, hi uint64, maxBytes int) ([]Entry, error) {
	return nil, errNotReady
}

// ReadPart reads part of an entry's data.
func (l *Log) ReadPart(shard ShardID, index uint64, buf []byte, off int64) (int, error) {
	return 0, errNotReady
}

// Term returns the term of an entry.
func (l *Log) Term(shard ShardID, index uint64) (uint64, error) { return 0, errNotReady }

// InstallSnapshot discards the tail: the next entry is index+1.
func (l *Log) InstallSnapshot(shard ShardID, index, term uint64) error { return errNotReady }

// Retain tells what a shard still needs.
func (l *Log) Retain(shard ShardID, r Retention) {}

// Sealed returns the tail files that wait for snapshots.
func (l *Log) Sealed() (files int, bytes int64) { return 0, 0 }

// NeedsSnapshot returns the shards whose snapshot would free a sealed file.
func (l *Log) NeedsSnapshot() []ShardID { return nil }

// Maintain does one bounded step of background work.
func (l *Log) Maintain() (more bool, err error) { return false, errNotReady }

// Full reports that the disk is below its reserve.
func (l *Log) Full() bool { return false }

// Stats counts what the log has done.
func (l *Log) Stats() Stats { return Stats{} }
