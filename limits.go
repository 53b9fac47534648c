package beaver

import "time"

// The limits that the client checks before it sends anything, so that one bad job does not spoil the message it would share
// with others. The server has the last word on each.
const (
	queueNameBytesMax   = 128
	kindBytesMax        = 200
	contentTypeBytesMax = 100
	payloadBytesMax     = 1 << 20
	resultBytesMax      = 256 << 10
	metadataCountMax    = 32
	metadataBytesMax    = 8 << 10
	orderKeyBytesMax    = 128
	uniqueKeyBytesMax   = 256
	uniqueForMax        = 30 * 24 * time.Hour
	priorityMax         = 9
	maxAttemptsMax      = 1000
	delayMax            = 10 * 365 * 24 * time.Hour
	retryDelaysMax      = 32
	yearMax             = 9999 // of a job's times

	messageJobsMax   = 2000    // jobs of one message
	messageBytesMax  = 1 << 20 // a message of several jobs
	messagesInFlight = 2

	pageSizeMax     = 1000
	deadIDsMax      = 1000
	fetchJobsMax    = 1000
	fetchQueuesMax  = 64
	outcomesMax     = 1000    // of one message
	outcomeBytesMax = 1 << 20 // a message of several outcomes

	failureTypeBytesMax    = 200
	failureMessageBytesMax = 4 << 10
	failureStackBytesMax   = 16 << 10
	progressBytesMax       = 1 << 10

	concurrencyMax = 10_000

	nodesMax = 64 // that a client knows of
)
