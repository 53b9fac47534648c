// Package sim runs a whole cluster in one goroutine from one seed: nodes, disks, network, clocks, clients and workers.
//
// Invariant: one seed, one history. Two runs of a seed by the same program give the same trace, to the byte, and so a
// seed that failed fails again.
//
// The nodes run what production runs: package replica's step machines over package shard, the log, the snapshots, the
// transfer of snapshots, and the job machine. Only the edge is the simulator's own: virtual time, a network that delays,
// loses, repeats, reorders and partitions, vfs.Sim disks that crash in the middle of any call, wall clocks that jump, and
// a thin Driver (driver.go) in the place of the engine's.
//
// A run has three parts. First a plan is drawn from the seed (plan.go): the size of the cluster, the load, which kinds of
// faults there are and how often. Then clients and workers work while faults come (fault.go, rumour.go). At last the faults stop:
// the cluster must heal, end every job and agree (final.go), and once more after a power cut of all nodes.
//
// What is checked, and where:
//
//   - oracle.go: every replica applies the same entry with the same results and the same fingerprint at each index; what
//     was applied once is never replaced; a job has at most one lease, its token grows, and only the holder of the lease
//     ends an attempt; a job that ended never runs again; one sequence number of a session is one command.
//   - unique.go: no two jobs hold a unique key at once, and who is named as its holder can have held it when it was asked for.
//   - ballot.go: a replica votes once in a term, a term has one leader, and who begins anew knows what it promised: its term, its vote,
//     and the entries that it acknowledged.
//   - call.go: what clients were told is what the log holds, and in the order of real time: no operation takes
//     effect before it was asked for, and no read misses what was acknowledged before it.
//   - history.go, package history: porcupine finds an order of what clients did to each job that real time and a model of a job
//     allow. It sees only what a client sees, so it needs no trust in the machine, the log or the oracle.
//   - bounds.go: a state that came from snapshots and the replay behind them is to the byte what the replay of all entries from
//     the first gives; memory and log stay within bounds.
//   - rot.go, hole.go, lost.go: what a disk damages is never handed out, and comes back from the other replicas; a replica that lost what it
//     acknowledged is out of its group until then, or for ever.
//   - final.go: liveness, agreement, queue.Machine.CheckInvariants, and that every live entry can be read and is the one that was applied;
//     the last also of the entries that a snapshot from another member refers to.
//
// The simulator replaces crypto/rand.Reader while it runs, since the Raft library draws its election timeouts from there:
// so one process runs one simulation at a time.
package sim
