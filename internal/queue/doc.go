// Package queue is the job machine of one shard: Apply(entry) → results.
//
// Invariant: the same entries give the same state, the same results and the same fingerprint on every replica; a job is
// in exactly one state; a job has at most one live lease, and a stale lease changes nothing.
//
// The machine is pure: no goroutine, no clock, no I/O, no randomness, no map order that shows. Time enters only as the
// stamp of an entry, and never runs backwards. Bad input is refused in the result and never panics; only a broken
// invariant of its own does.
//
// # What it holds
//
// It holds the hot state only. What is big stays in the log and is named by its position there: a job's payload by the
// position of its enqueue, a result or an error text by the position of the ack or fail that brought it. Whoever owns the
// log must keep every entry whose index is in Image.Live.
//
// A job that is ready, never ran and uses its queue's settings is a bit in a run of positions (runSet). Any other has a
// record of fixed size; one that is large or has settings of its own has an extra, one that failed an errorList. A job keeps its
// position, and so its entry stays live, from enqueue to the end of the queue's window of recent ends: a dead job that is
// retried was live all the while. So an entry that is not in Live never comes back into it (dead is forever).
//
// # States
//
//	            ┌────────────────── cancel ─────────────────┐
//	scheduled ──┤                                           ▼
//	    │ time  │           ┌─ ack ─► completed         cancelled
//	    ▼       │           │
//	  ready ────┴─ fetch ─► running ─ fail ─► backoff ─ time ─► ready
//	    ▲                   │  │                 (out of attempts, final, poison) ─► dead
//	    └ release, lost ────┘  └ cancel: a wish, granted when the attempt ends         │
//	    └────────────────────────────── retry ─────────────────────────────────────────┤
//	scheduled, ready, backoff: expire at their time                      discard ─► discarded
//
// Order is strict priority, then age: a job that comes back takes its old place. An attempt that ends in a failure or a
// timeout counts as a failure; one that ends in a lost worker, or an anonymous lease that ran out, counts as a crash; a
// released one counts as neither. The attempt's number counts leases, but for those that were taken back before anybody was told of
// them. A token is never reused.
//
// # Time
//
// The leader stamps entries; the clock is the greatest stamp applied. Before an entry's items all timers that are due
// fire, by (time, position, kind), at most TimersPerEntry of them; EventUnfinished says that more are due. The leader
// proposes a tick when NextTimer has passed.
//
// While there is no leader, nobody can end or extend a lease. Who leads next holds the deadlines of running jobs for a
// while (AppendHold), or all that came due meanwhile would pass in its first entry, unheard.
//
// # Sessions
//
// An enqueue that names a session and a sequence number is applied once: a repeat within SessionWindow gets the first
// answer, refusals included. A repeat that brings other jobs than the first time is refused: its answers would be given to
// the wrong ones. A session that is idle for SessionIdleMillis is forgotten.
//
// # Unique keys
//
// At most one job of a queue and an ordering key holds a unique key at any time: see unique.go. An enqueue whose key is held stores
// nothing and is answered with the holder, and a repeat of a session's with the same one, whatever became of it. A key is held until
// the job ended, is dead or was leased, as its producer wants, and until its window has passed. A dead job that is retried needs its
// key again, and is refused while another one holds it.
//
// # Snapshots and the fingerprint
//
// Snapshot freezes the state by copying the roots of copy-on-write trees; a queue's own struct is cloned before its first
// change after that. The image is then read by another goroutine while Apply goes on. An image is canonical: replicas at
// one index write the same bytes.
//
// The fingerprint is a sum of hashes over all elements of the state, kept as they change. It does not hold the applied
// index. A leader puts its own through the log (AppendVerify); the result of that item may differ between replicas, which
// is its purpose, and it changes no state. Verified says what was compared: whose replicas disagree must find out who is right.
//
// # Room for more
//
// Items carry a type and a version, and unknown ones are refused; images are made of tagged sections, and an unknown one
// is an error that says to use a newer version. Limits by key, batches and periodic jobs get items and sections of their own, as
// unique keys have: what needs them lies in batches that an older program does not take for something else (BatchVersion).
package queue
