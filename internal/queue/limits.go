package queue

// The limits of the machine. The front doors check them first and name them; Apply refuses what got past.
const (
	PriorityCount      = 10
	KindBytesMax       = 200
	ContentTypeMax     = 100
	PayloadBytesMax    = 1 << 20
	ResultBytesMax     = 256 << 10
	MetadataCountMax   = 32
	MetadataBytesMax   = 8 << 10 // all keys and values of one job
	OrderKeyBytesMax   = 128
	UniqueKeyBytesMax  = 256
	UniqueForMillisMax = 30 * 24 * 3600_000 // longest window of a unique key
	ErrorTypeBytesMax  = 200
	ErrorTextBytesMax  = 4 << 10
	ErrorStackBytesMax = 16 << 10
	ProgressBytesMax   = 1 << 10
	RetryListMax       = 32
	DelayMillisMax     = 10 * 365 * 24 * 3600 * 1000 // ten years
	MaxAttemptsMax     = 1000
	PoisonLimitMax     = 1000
	ErrorsKeptMax      = 10
	KeepEndedMax       = 1_000_000
	FetchMax           = 1000 // jobs of one fetch
	FetchBytesMax      = 1 << 30
	SmallJobBytes      = 16 << 10 // a job whose item is at most so long counts as so long; only larger ones have their size kept
	FetchQueuesMax     = 64
	EnqueueJobsMax     = 2000 // jobs of one Enqueue command
	SessionsMax        = 100_000
	SessionWindow      = 64                 // sequence numbers a session may have in flight
	SessionIdleMillis  = 15 * 60 * 1000     // a session unused for so long is forgotten; clients repeat for 10 minutes at most
	TimersPerEntry     = 4096               // timers one entry fires at most
	LeasesMax          = 1_000_000          // running jobs of one shard
	WaitMillisMax      = 10 * 60 * 1000     // longest long-poll
	LeaseMillisMax     = 30 * 24 * 3600_000 // longest anonymous lease
	HoldMillisMax      = 10 * 60 * 1000     // longest hold of deadlines
	QueuesMax          = 10_000             // queues of one shard
	UniqueKeysMax      = 10_000_000         // unique keys held on one shard
	ListMax            = 1000               // rows of one page
	EntryTargetBytes   = 256 << 10          // an entry gathers commands up to this size
	CommandBytesMax    = 4 << 20            // one command
	WorkerLeasesMax    = 1 << 16            // leases one worker holds: bounds what losing it costs in one entry
	VerifyWindow       = 256                // entries whose fingerprint a Verify can compare
	ListScanMax        = 100_000            // records one List looks at
	RestoreJobsMax     = 1 << 28            // jobs of an image: over it the image is refused as damaged
)

const (
	percentMax = 100
	millisMax  = 1 << 50 // the year 37,000: sums of times and delays stay far from overflow
	indexMax   = 1<<(64-ordinalBits) - 1
	endedTrim  = 2    // ended jobs over the window that each end evicts, so that a smaller window costs no pause
	endedSlack = 4096 // and that a Configure evicts at once
)
