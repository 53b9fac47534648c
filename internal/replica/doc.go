// Package replica is one replica of one shard as a step machine: the shard's Raft group, the driver that knows what its
// commands mean, the batches in flight, the reads that wait, and the bookkeeping of its snapshots.
//
// Invariant: no command is answered before its entry is durable on a quorum and applied; a batch that was proposed is
// applied, or its driver hears exactly once that it was dropped, and whether that is certain; a read sees every operation
// acknowledged before it came.
//
// A replica whose log lost the data of an entry is out of its group until the log is whole again: hole.go.
//
// A Replica has no goroutine, no clock, no lock and no channel. Its owner calls it from one goroutine at a time (Payload
// and Batch may be called from any), tells it what happened, calls Turn, and carries out what Turn returns:
//
//  1. Tell what happened: Step for messages, Durable for the log, Read, WantSnapshot, SnapshotStored, BeginClose.
//  2. Turn(now), again and again as long as Effects.More says so; carry out the effects of each before the next.
//  3. Wait until something happens, or until Pause says.
//
// Package host is such an owner with goroutines, the simulator one without. Entries go to the log by Log.Append inside
// Turn: that only buffers. Reading, restoring, storing and condemning snapshots go through vfs. Nothing else is done outside memory.
//
// # States that differ
//
// Machines are deterministic, so replicas at one index have one state. A mistake in a program or in memory may break that without
// breaking Raft: the log and the votes of such a replica are right, and its state is not. Leaders put fingerprints through the log
// (Driver.Verified): (index, what the leader's state was after it). Who disagrees need not be who is wrong, since the leader may
// be; and nobody may throw a state away on the word of one. So a majority of the voters decides, of what their states were after
// that very entry:
//
//   - A replica whose state is not what the log says is Suspect. It answers nothing, reads nothing out, takes no snapshot and does not
//     lead: it hands a lead over, ignores one handed to it, and its requests for votes are not sent. It goes on to acknowledge
//     entries and to vote, for these do not depend on the state, and to apply, for the group's members come from there.
//   - It tells all members its fingerprint, and asks for theirs. Each remembers its own of the entries verified last. A fingerprint in
//     the log is the word of the leader who put it there.
//   - When a majority has another one, all the same, the replica is Wrong. When a majority, itself included and another voter at
//     least, has its own, it is Trusted again; then it goes on for a while to tell those who differ.
//   - Who hears that another differs, and is not Suspect, asks as well and serves on. So a leader whose state is wrong hears it from
//     its followers, each of which was made Suspect by the leader's own fingerprint, and becomes Wrong.
//   - As long as no majority is known, a Suspect replica stays one, and asks again. A later fingerprint of the log takes the place of
//     the one asked about, so that it does not matter when others have forgotten that, or have begun behind it.
//
// At most one of the two can be said by a majority, and of two majorities of voters one voter is in both: two replicas that differ are
// not both acquitted by the same votes. If a majority itself went wrong in the same way, nobody can tell. Two voters cannot either:
// they stay as they are until one is replaced. Nor can three when the leader is wrong, one follower is Suspect, and the third needs a
// snapshot before it has a state to tell of. The leader's brings it the wrong one, and then the wrong state has the majority: these are two
// faults at once, of three members, and no command undoes them. The lead cannot be given away first, as the Suspect one does not lead
// and the third lacks entries. A lone voter has nobody to ask: it stays Suspect until it is started again.
//
// The window: between two fingerprints of the log nothing shows that a state is wrong. A leader whose state is may answer wrongly
// until it has put the next one through the log, and its followers' answers have come. A follower's wrong state may become a leader's
// in that time. From the moment that a replica is Suspect or Wrong it answers nothing. A snapshot brings what its leader had: one taken
// within the window may carry a wrong state to another replica.
//
// # How a wrong state is replaced
//
// A Wrong replica keeps its id, its log and its votes. It makes a mark durable beside its snapshots (snapshot.Condemn): up to the newest
// that it took, UpTo, they may be wrong. It takes none from then on, so that every one above UpTo is of another replica. It tells the log
// to Distrust what it called dead, for entries that are live may have been dropped; and it asks the leader to bring it a snapshot
// above UpTo with all that it refers to, which Raft would not, as the log is not behind. See package transfer for how such a
// snapshot is taken in. Its own older snapshots are not tried: which of them was still right is known of the verified indexes only,
// and the log behind that may be gone.
//
//   - A crash before the mark is durable forgets the verdict. The log shows the difference again, at the latest at the next
//     fingerprint, as at the first time.
//   - A crash between the mark and the installation: Open restores a snapshot up to UpTo, and the replica is Wrong from the start.
//   - A crash behind the decision to install: transfer.Recover completes it, and Open restores a snapshot above UpTo. Then it removes
//     those up to UpTo, and after them the mark. Until both are gone a damaged new snapshot leads back to the second case.
package replica
