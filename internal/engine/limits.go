package engine

import (
	"encoding/binary"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// The limits of the engine. Those of a single job are package queue's, those of names and workers package cluster's.
const (
	// DefaultShards is how many data shards a node has when nobody says.
	DefaultShards = 4
	// ShardsMax is how many data shards a node may have.
	ShardsMax = cluster.ShardsMax
	// PartitionsMax is how many partitions a queue may have.
	PartitionsMax = cluster.PartitionsMax

	// WaitingCallsMax and WaitingBytesMax bound the commands of one shard that are not yet proposed. Over them new jobs
	// are refused at once, so that a caller slows down rather than times out. What ends or tends jobs makes room, and
	// is admitted up to twice as much.
	WaitingCallsMax = 16_384
	WaitingBytesMax = 64 << 20
	// ParkedFetchesMax bounds the fetches that wait on one shard.
	ParkedFetchesMax = 100_000
	// FetchBytesMax bounds the jobs that one fetch leases, all their fields counted, and small ones as queue.SmallJobBytes.
	FetchBytesMax = 16 << 20
	// FarFetchesMax is how many fetches may wait at one other node. It leaves room for other calls in what a connection carries.
	FarFetchesMax = 16_000
	// farListBytesMax is where a list of jobs is cut whose answer goes to another node.
	farListBytesMax = ForwardBytesMax / 4
	// farFetchBytesMax is FetchBytesMax for a fetch whose answer goes to another node.
	farFetchBytesMax = 6 << 20
	// farQueuesMax and farLegsMax bound a fetch at another node: each of its queues may move from the most partitions to the most.
	farQueuesMax = 2 * PartitionsMax * queue.FetchQueuesMax
	farLegsMax   = cluster.ShardsMax + farQueuesMax/queue.FetchQueuesMax
	// FinishMax is how many attempts one Finish may end.
	FinishMax = 2000
	// HeldMax is how many leases one heartbeat may name.
	HeldMax = 100_000
	// IDsMax is how many jobs one RetryDead or DiscardDead may name.
	IDsMax = 1000
	// BulkMax is how many jobs one RetryAllDead or DiscardAllDead may look at.
	BulkMax = 100_000
	// CreationsMax is how many queues may be in the making at one time.
	CreationsMax = 4096
	// NoticesMax is how many notices wait for one connected worker; what is over comes with the next heartbeat.
	NoticesMax = 256
	// QueueLabelsMax is how many queues have figures of their own in Stats.
	QueueLabelsMax = 1000

	// WorkerTTLDefault, WorkerTTLMin and WorkerTTLMax: how long a worker may be silent until its jobs are with others.
	WorkerTTLDefault = 5 * time.Second
	WorkerTTLMin     = 100 * time.Millisecond
	WorkerTTLMax     = 10 * time.Minute

	// beatShare is the part of a worker's TTL that its heartbeat may spend on asking shards.
	beatShare = 4

	// pulseShare is how many times in a TTL a node tells which workers it heard, and lookShare how often the one that judges looks for
	// silent ones.
	pulseShare = 5
	lookShare  = 4 * pulseShare
	// graceShare of a TTL is what a worker has to come back once its connection broke without a goodbye. It is longer than a worker that
	// lives needs to find another node and that node's next pulse.
	graceShare = 2. / 5

	// NodeTTL is how long nothing may be heard of a node until it counts as silent. A node tells the others nodePulseShare times in it, give or
	// take heartbeatJitter each time.
	NodeTTL           = 5 * time.Second
	nodePulseShare    = 5
	heartbeatInterval = NodeTTL / nodePulseShare
	heartbeatJitter   = heartbeatInterval / 5
	// heartbeatBytesMax bounds what a node may tell of itself.
	heartbeatBytesMax = 4 << 10
	// loadSamples is how many samples of what a node does are kept: one for each of its heartbeats, and rates are taken over all.
	loadSamples = nodePulseShare + 1
	// surveyInterval is how often the data directory is measured.
	surveyInterval = 10 * time.Second

	// AnonymousLeaseDefault is how long a fetch without a worker holds its jobs when it does not say.
	AnonymousLeaseDefault = time.Minute
	// AnonymousLeaseMin is the shortest it may ask for.
	AnonymousLeaseMin = time.Millisecond

	// mendWait is how long a fetch waits for a payload that is damaged here and is brought from another member.
	mendWait = 5 * time.Second

	// verifyEntries and verifyMillis are how often a leader puts its state's fingerprint into the log.
	verifyEntries = 4096
	verifyMillis  = 60_000

	// droppedMillis is how long a pump waits when the shard did not take its entry.
	droppedMillis = 5

	// ForwardBytesMax bounds what a call between nodes carries, and its answer.
	ForwardBytesMax = 8 << 20
	// ForwardWaitMax is how long a call between nodes may take, the wait of a fetch not counted. Over it nobody knows what came of it.
	ForwardWaitMax = 30 * time.Second
	// StillMax is for how long a node may stand still until it serves nothing that may have waited for it meanwhile, and how long an enqueue
	// waits in a node until it is too old to be stored. A repeat may so come late four times over, on its way by two nodes, and by
	// as much as clocks are set wrong, until its session is forgotten.
	StillMax = time.Minute
	// StillTick is how often a node makes sure of itself.
	StillTick = StillMax / 12
	// repeatMax is for how long clients repeat a request at most.
	repeatMax = 10 * time.Minute
	// LeaderWaitMax is how long a request waits for its shard to have a leader that can be asked.
	LeaderWaitMax = 5 * time.Second
	// cutOffGrace is for how long a node has to be cut off before it refuses what others could serve, and cutOffLook how often one
	// that waits for a leader looks whether it is.
	cutOffGrace = 250 * time.Millisecond
	cutOffLook  = 50 * time.Millisecond
	// OutletSendersMax is how many calls with the commands of one shard are under way to the node that leads it.
	OutletSendersMax = 4
	// forwardTargetBytes is up to which size commands are gathered into one call; a larger one goes alone. forwardCallsMax and
	// forwardItemsMax bound how many they are.
	forwardTargetBytes = 1 << 20
	forwardCallsMax    = 1024
	forwardItemsMax    = 8192
	// errorTextMax bounds each text of an error between nodes; what is longer is cut.
	errorTextMax = 2 << 10
	// movedGrace is how long the answer of a node is waited for after another one leads the shard.
	movedGrace = 250 * time.Millisecond
	// settleWait is how long a fetch waits for what became of one before it, or of its own at other nodes, when it has ended.
	settleWait = time.Second
	// fetchSlack is how much later than its wait a fetch ends that another node does not answer in time.
	fetchSlack = time.Second
	// fetchCallGrace is how much longer than its wait a fetch at another node may take.
	fetchCallGrace = 10 * time.Second
	// earlyStopsMax is how many stops of fetches that are not here are remembered, as they may be on their way.
	earlyStopsMax = 64
	// stopPause is after how long a fetch at another node that was stopped and has not ended is stopped again; doubled each time.
	stopPauseMin = 50 * time.Millisecond
	stopPauseMax = 5 * time.Second
	// courierMax is how many notices wait for one other node; what is over comes with the workers' next heartbeats.
	courierMax = 4096
	// repairInterval is how often a leader looks for queues of its shards whose settings were not brought to them.
	repairInterval = 10 * time.Second
	// learnPause is after how long queues are looked up again whose shards could not be asked.
	learnPause = time.Second
	// closeGrace is for how long a node that stops lets its calls to others finish.
	closeGrace = time.Second

	// searchPauseMin and searchPauseMax bound the pause after a node was asked that does not lead.
	searchPauseMin = 5 * time.Millisecond
	searchPauseMax = 200 * time.Millisecond

	// gatherBytes is where a call that carries independent items is cut into several: an entry's worth.
	gatherBytes = shard.EntryTargetBytes / 2
	// heldPerQuery is how many leases of a worker one query names.
	heldPerQuery = 20_000
	// lostPerCall is how many lost workers one command names.
	lostPerCall = 500
)

// shardID is the shard of a job.
func shardID(id JobID) shard.ID { return shard.ID(id.Shard) }

// checkLimits asserts how the limits relate.
func checkLimits() {
	invariant.Check(queue.EnqueueJobsMax+1 <= shard.BatchItemsMax, "the largest enqueue does not fit an entry")
	invariant.Check(FetchBytesMax >= queue.CommandBytesMax, "the largest job is not fetched with others")
	invariant.Check(FetchBytesMax >= queue.FetchMax*queue.SmallJobBytes, "the most small jobs do not fit a fetch")
	invariant.Check(FetchBytesMax <= queue.FetchBytesMax, "the machine refuses the bytes of a fetch")
	invariant.Check(WorkerTTLMax.Milliseconds() <= queue.HoldMillisMax, "the machine refuses the longest hold")
	invariant.Check(repeatMax+4*StillMax < queue.SessionIdleMillis*time.Millisecond, "a session may be forgotten before its last repeat has come")
	invariant.Check(LeaderWaitMax+ForwardWaitMax < StillMax, "a request that only waits for its leader is too old to be stored")
	invariant.Check(FinishMax <= shard.BatchItemsMax, "the largest finish does not fit an entry")
	invariant.Check(queue.ItemsPerEntryMax == shard.BatchItemsMax, "positions and batches disagree on an entry's items")
	invariant.Check(queue.CommandBytesMax == shard.CommandBytesMax, "machine and shard disagree on a command's size")
	invariant.Check(queue.PayloadBytesMax < shard.CommandBytesMax, "the largest job does not fit a command")
	invariant.Check(WaitingBytesMax >= 2*shard.CommandBytesMax, "the largest command never gets a place")
	invariant.Check(max(shard.CommandBytesMax, forwardTargetBytes)+forwardItemsMax*forwardItemOverhead+forwardCallsMax*forwardCallOverhead <= ForwardBytesMax,
		"the largest commands do not fit a call between nodes")
	invariant.Check(forwardItemsMax*resultBytesMax+forwardCallsMax*(3*errorTextMax+forwardCallOverhead) <= ForwardBytesMax, "the longest answers do not fit a call between nodes")
	invariant.Check(forwardCallsMax*catalogResultBytesMax+lostPerCall*catalogResultBytesMax <= ForwardBytesMax, "the catalog's longest answers do not fit a call between nodes")
	invariant.Check(shard.BatchItemsMax <= forwardItemsMax, "the command with the most items does not fit a call between nodes")
	invariant.Check(max(farFetchBytesMax, queue.CommandBytesMax)+queue.FetchMax*farJobOverhead <= ForwardBytesMax, "the most jobs of a fetch do not fit a call between nodes")
	invariant.Check(farQueuesMax*2*binary.MaxVarintLen32 <= ForwardBytesMax, "the most queues of a fetch do not fit a call between nodes")
	invariant.Check(cluster.QueuesMax <= queue.QueuesMax, "a shard cannot hold all queues")
}
