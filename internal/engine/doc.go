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
// What lives where. Queues and workers are in the catalog, shard 0; jobs, leases and settings on the data shards. Each
// change goes to the catalog first and to the shard after it, each step may be repeated, and Open completes what a crash
// left in between. Heartbeats are soft state of this node: after a start every worker has a full TTL before it is judged.
package engine
