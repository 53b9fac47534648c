// Package transfer brings a follower up by a partial snapshot: the hot state, and only those live entries that the
// follower cannot have.
//
// Invariant: a snapshot is installed whole or not at all, whatever crashes when; and once it is installed, the follower's
// log holds every entry that the snapshot refers to. What does not pass every check changes nothing.
//
// A Sender and a Receiver are step machines: they start no goroutine, read no clock and open no socket. They exchange
// chunks and acknowledgements, both flat byte strings (chunk.go), over a network that may lose, repeat, reorder and
// delay them. The receiver stages what arrives on its disk, through vfs.
//
// # What the callers do
//
// The leader keeps Senders, one Sender for each member under way. Of each it takes the newest snapshot that its log was told
// of, and its live set, from wal.Log.Retained, opens the file with snapshot.OpenAt, and makes the Sender. It sends what Next
// returns until that is nothing, hands what comes back to Acked, and calls Resend when nothing came back for a while. ErrOutdated
// means that the log has meanwhile forgotten what this snapshot refers to: then a new Sender of the newest snapshot is made, and
// the follower goes on where it was.
//
// The follower calls Recover after wal.Open and before it restores any shard: it completes an installation that a crash
// interrupted. It makes one Receiver a shard, hands it every chunk, and sends back every Ack. When an Ack says
// StatusReady, it
//
//  1. stops turning the shard: no Append, no Retain, no snapshot of its own from here on,
//  2. calls Install, which returns a position of the log,
//  3. flushes the log to that position,
//  4. calls Installed and sends the Ack it returns (Finish does 2 to 4),
//  5. opens the shard anew from its snapshot, as at a start, and calls Retain with the live set of what it restored.
//
// A crash anywhere is a start with Recover. Errors other than a full disk may be failed syncs: the process must end.
//
// # Why the follower holds what is not sent
//
// Let the follower be F, the snapshot of the leader at index S, Live(S) what it refers to, and M = wal.Log.Held on F when
// the stage began. Sent are the entries of Live(S) above M. The claim: F's log holds those of Live(S) up to M.
//
//   - Every entry up to M was in F's log, and is the entry that the group committed there: M is not above the greatest of
//     the commit index that F has on disk, the snapshot that F took itself, and the one it installed last. By log
//     matching and leader completeness the leader's entry at each such index is the same.
//   - F lost none of them to a crash: M is not above the last index that F has synced.
//   - F forgot only what is dead: its log drops an entry i only after a snapshot of its own at R >= i whose live set lacks
//     i. F's state at R is the leader's state at R, since machines are deterministic (fingerprints watch over that), and
//     what is dead at R is dead at every S >= R: dead is forever. A snapshot at S <= M is refused as not needed, so R <= M < S.
//   - What F skipped when it installed a snapshot at S0 <= M was, by this same argument, either held then or dead at S0.
//
// Where each condition comes from: an index that F only *acknowledged* would not do, since the acknowledged tail may
// diverge and be replaced; nor would what the leader's Progress.Match says, which a new leader begins at zero and an old
// one may remember from before F lost entries it had not synced. So F alone says what M is, from what is on its disk.
//
// The argument fails when a disk fails: a segment was lost, or damaged before it could be read. So it is not relied on:
// before anything is installed the receiver restores the hot state in a scratch machine, which gives the fingerprint and
// Live(S), and asks the log for each entry of Live(S) up to M by name. If one is nowhere, the stage is thrown away and
// begins again at M = 0: all live entries are sent. That proves presence, not that every payload reads back, which would
// mean to read the whole backlog: a payload is checked when it is dispatched.
//
// The argument fails, too, when F's state was wrong: what its snapshots called dead may be live. Then nobody relies on it: the log is
// told to Distrust it, and Renew has the receiver take a snapshot however far the log is, begin at M = 0 whatever Held says, and
// replace all that was received before. The snapshot must be above all that F took in that state, so that it is the one that is
// loaded, and the one that tells the log what is live. The log behind it stays: what F acknowledged and voted was right all along.
//
// An entry that is damaged on the leader is sent by name only. It is damaged on the follower then, as it would be if the
// follower's own disk had damaged it, holds up nothing else, and is mended like others.
//
// # Damaged entries
//
// A Mender asks peers for entries that are damaged here, and Serve answers. The claim: what it puts into the log is what was
// there. An entry is asked for by index, term, type, length and checksum as far as they are known, and they are but where the
// file that told them is gone. Whoever has an entry of this index and this term has the same one, committed or not, since one
// leader made it; the checksum guards against a wrong disk or program. An entry without a term is one that the snapshot of
// this log refers to: it was committed here, so the only entry that a peer sends for it, one that it knows as committed, is
// the same. Nothing is acknowledged or voted by mending.
//
// # Why a stage outlives its sender
//
// Entries are sent in ascending order, each chunk as an interval (after, through] and all of Live(S) in it; the hot
// state comes last. When a stage has reached P as of S, it holds Live(S) between M and P. For any S' >= S, Live(S')
// below S is a part of Live(S): so it also holds Live(S') between M and P. Thus a newer snapshot of the same leader or of
// another goes on behind P. Only the hot state begins again. An older snapshot, S' < S, begins a new stage.
//
// Of two senders the one of the higher term is listened to; of one term there is one leader, and its later transfer counts.
//
// # On the follower's disk
//
//	DIR/incoming/00001/stage                       what the stage is of: shard, M, S
//	DIR/incoming/00001/r0000000003-0000000003.seg  whole segments of staged entries, and
//	DIR/incoming/00001/r0000000004-0000000004.part the one being written
//	DIR/incoming/00001/00000000000000012345.snapshot   the hot state, as far as it has come
//	DIR/incoming/00001/install                     the decision to install
//
// Segments are written once, in the form and under the name they will have in the log. The wal package documents both, and
// how a part that a crash interrupted proves what of it was synced.
//
// # Crash points
//
// The file "install" decides. It is written to a temporary file, synced, renamed, and the directory synced, when all else
// in the directory is whole, synced and checked.
//
//   - Before its name is durable, the log and the snapshots of the shard are untouched. Staged entries that were proven
//     synced are kept for the next offer; all else in the directory is removed.
//   - After it, Install, or Recover after a crash, brings about the following in order. Each step can be repeated:
//     1. The snapshot is renamed into the shard's directory of snapshots, and that is synced.
//     2. The segments are renamed into the log's directory, and that is synced. Should the log see them before step 3, it
//     sees what they are: committed entries, above its own.
//     3. The log begins behind the snapshot (wal.Log.Install), durable with the next flush.
//   - Only when that flush has returned, the file "install" is removed. Once that is durable the installation is past.
//
// Between 1 and 3 snapshot and log contradict each other, so no shard may be opened before Recover.
//
// # Damage between the decision and its end
//
// The disk may damage what was decided to be installed before a start completes it. Nothing was promised on it: the replica is opened,
// and the sender hears of it, only when the file "install" is gone. So Recover may undo it as long as the replica can still be what it was:
//
//   - The snapshot, or a segment that is too damaged to be opened, is still where it was received, and so is everything behind it in the
//     order above: the installation is abandoned. The snapshot is removed from wherever it is, durably, then the file "install". What is
//     staged is as before the decision, and serves the next transfer. If the file "install" itself is damaged, this holds while the
//     snapshot is where it was received.
//   - Some segments were moved, and the snapshot is damaged: the log may have removed what a moved one covers, and counts what it
//     received, so the replica is not what it was. If the log begins behind the snapshot, its own state is of no use. Either way it has no
//     state to go on from: DamagedError. It must not run, and its group makes the node a member anew, as one that lost what it promised.
//   - The log begins behind the snapshot, which is good, and a segment is damaged: it was in its place by then, and is damaged as any other
//     segment may be. The installation is completed.
//
// What if step 3 was cut off in the middle, and abandoned? It may have voided entries of the tail, and the replica may have acknowledged
// those. It voids none where the replica has the very entry that the snapshot ends with, (S, t). Where it has not, the majority that
// committed (S, t), or an entry behind it, is one without this replica, and every one of it has all entries up to S (log matching). So whoever
// is elected has them, with or without the vote of this replica; and its entries above S are of a branch that is dead. No entry that it
// knows as committed is voided.
package transfer
