package cluster

import "github.com/beaver-raft/beaver/internal/shard"

// The limits of the catalog. The front doors check them first and name them; Apply refuses what got past.
const (
	QueueNameBytesMax    = 128
	QueuesMax            = 10_000
	WorkersMax           = 100_000
	PartitionsMax        = 64  // of one queue, each on a shard of its own
	FormersMax           = 256 // homes that a queue had before, which are asked for its past
	WorkerTextBytesMax   = 256 // a worker's name, host or version
	WorkerLabelsMax      = 32
	WorkerLabelBytesMax  = 64
	WorkerQueuesMax      = 64
	WorkerConcurrencyMax = 100_000
	// NodesMax bounds the nodes that are not removed: each has a voter of every shard.
	NodesMax = shard.VotersMax
	// NodeRecordsMax bounds the records of nodes; over it the removed node with the lowest id is forgotten.
	NodeRecordsMax  = 64
	AddressBytesMax = 256
	// ShardsMax bounds the data shards of a cluster.
	ShardsMax           = 256
	ZoneBytesMax        = 64
	NodeVersionBytesMax = 256

	WorkerPIDMax          = 1<<31 - 1
	workerCommandBytesMax = 32 << 10 // what a record that keeps the limits above can need
)

// ValidQueueName reports whether name is 1 to QueueNameBytesMax of letters, digits and . _ : / -.
func ValidQueueName(name string) bool {
	if len(name) == 0 || len(name) > QueueNameBytesMax {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == ':', c == '/', c == '-':
		default:
			return false
		}
	}
	return true
}
