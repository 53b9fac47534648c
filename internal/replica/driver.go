package replica

import "github.com/beaver-raft/beaver/internal/shard"

// Driver owns the commands of one shard on this node. All its methods are called on the replica's goroutine, one at a time.
type Driver interface {
	shard.StateMachine

	// Gather is called when this replica leads and may propose. It adds waiting commands to b while they fit, and
	// reports the sequence number under which it will recognise the batch in Apply (Header.Proposer is this node and
	// Header.Sequence is seq). An empty b means nothing to propose. now is the leader's clock in milliseconds.
	Gather(b *shard.BatchBuilder, now int64) (seq uint64)
	// Dropped says that the batch seq will not be answered by Apply. unknown is false when it certainly was not and
	// will not be committed, and true when it may yet be.
	Dropped(seq uint64, unknown bool)
	// Settled is called after a round of Apply calls, before the owner waits: answer, wake and park.
	Settled()
	// Wakeup is when (milliseconds, leader's clock) Gather wants to be called although nobody woke the shard: the next
	// timer. 0 is never.
	Wakeup() int64
	// Stamp is the highest Header.Stamp applied, as the state says it: no leader's clock ever runs behind it.
	Stamp() int64
	// Leadership tells of changes: leading is true when this replica leads and has applied all of earlier terms. When
	// it is false, commands that wait must be answered: Gather is not called until this replica leads again, and never
	// when the owner stops. It is called once more, with false, when the owner stops or fails; Settled follows.
	Leadership(leading bool, term uint64)
	// Verified is what the last fingerprint of the log that was applied since Restore, and could be compared, said; zero when
	// there was none.
	Verified() Verification
	// Doubted tells what is known of the state: at each Open, and when it changes. While it is not trusted nothing may be
	// answered from it; when others judge it the replica does not lead either, as Leadership says.
	Doubted(d Doubt)
}
