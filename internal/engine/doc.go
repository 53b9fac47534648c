// Package engine is the job operations of a node: it routes a request to its shard, proposes it or forwards it, waits,
// and answers.
//
// Invariant: an acknowledged operation is committed, and a retry with the same session and sequence number is the same
// operation. Limits and names are checked here before anything is proposed; every error carries one of the Codes and a
// machine-readable Reason.
//
// The front doors call it from any goroutine; it never calls them.
//
// How a command travels. The caller encodes it on its own goroutine into a call and hands that to the pump of its shard,
// which refuses at once when too much waits (see limits.go). The shard's goroutine has the pump gather all that waits into
// the next entry; while one entry is being stored the next gathers. When the entry is applied, the pump copies to each
// call its slice of the results and wakes its caller. A caller that leaves before its command was gathered undid it; one
// that leaves later does not know the outcome, and may ask again with the same session and sequence number.
//
// How a job meets a worker. A fetch is parked in the lanes of its queues. When an entry brings jobs to a queue, the pump
// puts as many parked fetches behind them, in the same entry, as the jobs suffice for: a job is stored and leased by one
// commit. A fetch over queues of several shards is parked on each of them, and claimed by one at a time. Payloads are read
// from the log by the caller, after the lease was granted.
//
// Where a job goes. A queue has a home on one shard or, with partitions, on several. A job goes to that of its ordering key, or else of
// its unique key, or of its request's turn; see partition.go, and unique.go for a key that a job holds in a home that its queue moves from. What changes the homes is a move; see MoveQueue and PartitionQueue.
//
// What lives where. Queues and workers are in the catalog, shard 0; jobs, leases and settings on the data shards. Each
// change goes to the catalog first and to the shard after it, each step may be repeated, and what a crash left in between is
// completed by Open, or by the node that leads the queue's shard.
//
// # Several nodes
//
// Any node answers any request. Each has a replica of the catalog, and follows it: so it knows all queues and workers, whoever made
// them. What concerns a shard that another node leads goes there through a Forwarder, and is never forwarded again. On a single
// node there is none, and nothing below costs anything.
//
//   - Commands wait in the outlet of their desk. Whatever waits goes to the leader's node in one call, joins that node's own
//     commands, and the results come back together. When the leader is not known, not reached, or no leader any more, nothing
//     happened: they wait for the next one, for LeaderWaitMax at most, so that a failover is latency and not an error. When a
//     call got no answer, nobody knows: they end with CodeUnknownOutcome.
//   - Reads are typed queries, answered by the shard's leader after it made sure that it still leads.
//   - A fetch asks one node after the other. When there is no work it parks on all of them; what comes first is the caller's, and what
//     comes second is settled before the same worker's next fetch is answered; see race. A fetch at another node is stopped by name and
//     its answer, which says what it was granted until then, waited for, never just
//     abandoned: an answer that nobody reads would leave leases with nobody. What an answer leased that is lost with its
//     connection comes to light when the worker says what it holds: see ResumeWorker.
//   - A catalog command is answered when the node that was asked has applied it: who was told of a change sees it there.
//   - A worker is connected to one node. Its heartbeats are soft state: its node tells the one that leads the catalog, and
//     only that one judges who was silent; see beats.go, and severed.go for workers whose connections broke. What a shard wants to tell a worker goes to the node that spoke for
//     it last, and is said again with the worker's next heartbeat.
//
// # Goroutines
//
// Close waits for all of them.
//
//	herald      one: takes samples of the node's load, and tells the other nodes that it lives; see heartbeat.go
//	teller      one for each other node while it is told
//	farewell    one for a worker that stops by itself, until all know it
//	surveyor    one: measures the data directory
//	pulse       one: tells who was heard and whose connection broke, and notices when the node stood still
//	monitor     one: finds and dismisses the silent; gives back what workers do not know of
//	learner     one with other nodes: routes follow the catalog; settings that did not reach their shard are brought there
//	usher       one with other nodes: ends calls to nodes that lead no more
//	mover       one: completes the moves of queues whose old homes this node leads
//	creation    one for each queue in the making
//	sender      up to OutletSendersMax for each shard that another node leads, while commands wait for it
//	courier     one for each other node while there are notices for its workers
//	racer       one for each node that a fetch is parked at
//	settler     one for a worker's fetch that was answered, while other nodes have not said what they granted
package engine
