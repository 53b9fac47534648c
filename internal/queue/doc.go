// Package queue is the job machine of one shard: Apply(entry) → results.
//
// Invariant: the same entries give the same state, the same results and the same fingerprint on every replica; a job is
// in exactly one state; a job has at most one live lease, and a stale lease changes nothing.
//
// The machine is pure: no goroutine, no clock, no I/O, no randomness, no map order that shows. Time enters only as the
// stamp of an entry, and never runs backwards. Bad input is refused in the result and never panics.
//
// It holds the hot state only. What is big stays in the log and is named by its position there: a job's payload by the
// position of its enqueue, a result or an error text by the position of the ack or fail that brought it. Whoever owns the
// log must keep every entry whose index is in Image.Live.
package queue
