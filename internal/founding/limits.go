package founding

import "github.com/beaver-raft/beaver/internal/cluster"

// The limits of a founding.
const (
	// FoundersMax bounds the founders of a cluster.
	FoundersMax = cluster.NodesMax
	// ShardsMax bounds the data shards of a cluster.
	ShardsMax = 256
	// RecordBytesMax bounds the file of the record.
	RecordBytesMax = 64 << 10
)
