package shard

import "github.com/beaver-raft/beaver/internal/wal"

// ID names a shard on this node. 0 is the catalog.
type ID = wal.ShardID
