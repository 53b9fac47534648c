package rpc

import (
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// The limits of the front door. Those of jobs and queues are the machine's; see package queue.
const (
	// RequestBytesDefault is the largest message a client may send, unless Options say otherwise.
	RequestBytesDefault = 8 << 20
	// EnqueueJobsMax is how many jobs one call, or one message of a stream, may carry.
	EnqueueJobsMax = queue.EnqueueJobsMax
	// EnqueueInFlightMax is how many messages of one EnqueueStream are in the engine at once.
	EnqueueInFlightMax = 4
	// OutcomesMax is how many attempts one call, or one message of a stream, may end.
	OutcomesMax = 1000
	// OutcomesWaitingMax is how many outcomes of one Work stream wait for the engine; then the stream is not read.
	OutcomesWaitingMax = 4 * OutcomesMax
	// CreditsMax is how many jobs one Work stream may ask for at once.
	CreditsMax = 100_000
	// HeldMax is how many leases one message may name.
	HeldMax = engine.HeldMax
	// DeadIDsMax is how many dead jobs one call may name.
	DeadIDsMax = 1000
	// DeadLimitMax is how many dead jobs of a queue one call moves.
	DeadLimitMax = 10_000
	// PageSizeDefault is the size of a page that does not say.
	PageSizeDefault = 50
	// WorkerTextBytesMax bounds each text of a WorkerInfo.
	WorkerTextBytesMax = 256
	// WorkerLabelsMax bounds the labels of a worker.
	WorkerLabelsMax = 32
	// WorkerConcurrencyMax bounds what a worker may say of its size.
	WorkerConcurrencyMax = 100_000
	// FetchBytesMax bounds the payloads of one answer to Fetch; what is over goes back to its queue.
	FetchBytesMax = 16 << 20
	// WorkBytesMax bounds the payloads of one message of a Work stream; what is over goes into the next.
	WorkBytesMax = 1 << 20
	// LeaseDefault is the lease of a fetch without a worker.
	LeaseDefault = 60 * time.Second

	fetchPauseMin   = 20 * time.Millisecond // after an error that may pass
	fetchPauseMax   = time.Second
	giveBackTimeout = 5 * time.Second
	evictGrace      = 250 * time.Millisecond // for the end of a stream to be read whose worker is elsewhere or lost
	endGrace        = 20 * time.Millisecond  // between the end of a worker's side and a reset that belongs to it

	headerTimeout = 10 * time.Second
	idleTimeout   = 3 * time.Minute
	pingInterval  = 15 * time.Second
	pingTimeout   = 15 * time.Second
	writeTimeout  = 60 * time.Second // without a byte written
	headerBytes   = 64 << 10
	streamsMax    = 1000 // of one connection
	streamWindow  = 4 << 20
	connWindow    = 16 << 20
	probeBytesMax = 1 << 10

	readFrameBytes = 256 << 10
)
