package sim

import (
	"encoding/binary"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Bug is a deliberate bug, put in at a seam between the simulator and what it runs: the simulator must find it.
type Bug uint8

// The deliberate bugs.
const (
	BugNone               Bug = iota
	BugAckBeforeDurable       // appends count as durable before they are flushed
	BugAckBeforeCommit        // a command is answered when it is proposed
	BugSkipSync               // SyncData does nothing
	BugSkipSnapshotSync       // Sync does nothing: snapshots and new files are not made durable
	BugSkipDirSync            // SyncDir does nothing
	BugForgetVote             // the log does not record votes
	BugForgetTerm             // the log does not record terms
	BugCompactLive            // the log is told that live entries are dead
	BugLoseEntryData          // a follower's log drops what is in an entry
	BugStaleRead              // a leader serves reads without asking a quorum
	BugIgnoreFencing          // any token ends a lease
	BugDropSession            // enqueues lose their session
	BugLocalClock             // a replica applies by its own clock
	BugReorderItems           // a replica applies the items of an entry in another order
	BugSkipItem               // a replica skips the last item of an entry now and then
	BugWrongHands             // a worker is handed what another was granted
	BugStaleImage             // a snapshot holds the state of the one before
	BugNoTimers               // nobody wakes the machine's timers
	BugWorkersLiveForever     // silent workers keep their jobs
	BugReuseIdentity          // a node that lost its disk comes back as who it was
	BugCorruptMessage         // a message's entry is changed on its way
	BugIgnoreSyncError        // a failed sync is taken for a good one
	BugReuseToken             // a job that is leased again is handed out under the token of its first lease
	BugServeDamaged           // a job is handed out though its payload is damaged
	BugDropMends              // nobody asks for what is damaged
	BugVoteWithHole           // a replica takes part in its group though entries of its log are damaged
	BugIgnoreFingerprint      // nobody compares the log's fingerprints with the state
	BugPromiseUnsynced        // a replica that is opened again in one process takes what the log holds for durable
	BugSendTooLittle          // a partial snapshot leaves a live job out
	BugMendWrongly            // the payload of another entry is taken for the one that was asked for
	BugNoHold                 // who takes over lets the deadlines pass that nobody could keep
	BugVoteUnsynced           // votes are told before they are durable
	BugClaimTooMuch           // a follower takes what it acknowledged for what it holds when a snapshot is brought
	BugSplitKeys              // a machine does not see that two jobs have one unique key
	BugLeaveKeys              // jobs give their unique keys up too early
	BugKeepKeys               // jobs keep their unique keys for too long
	bugCount
)

func (b Bug) String() string {
	return [...]string{
		"none", "ack-before-durable", "ack-before-commit", "skip-sync", "skip-snapshot-sync", "skip-dir-sync", "forget-vote",
		"forget-term", "compact-live", "lose-entry-data", "stale-read", "ignore-fencing", "drop-session", "local-clock",
		"reorder-items", "skip-item", "wrong-hands", "stale-image", "no-timers", "workers-live-forever", "reuse-identity",
		"corrupt-message", "ignore-sync-error", "reuse-token", "serve-damaged", "drop-mends", "vote-with-hole",
		"ignore-fingerprint", "promise-unsynced", "send-too-little", "mend-wrongly", "no-hold",
		"vote-unsynced", "claim-too-much", "split-keys", "leave-keys", "keep-keys",
	}[b]
}

// Bugs returns all deliberate bugs.
func Bugs() []Bug {
	var all []Bug
	for b := BugNone + 1; b < bugCount; b++ {
		all = append(all, b)
	}
	return all
}

// bugs puts the deliberate bug of a run in.
type bugs struct {
	bug    Bug
	chance chance
	tokens map[history.Label]queue.Token // of first leases
}

func newBugs(o Options) bugs {
	return bugs{o.Bug, newChance(o.Seed, forBugs), make(map[history.Label]queue.Token)}
}

// needs gives a plan what it takes to bring a bug about.
func (b *bugs) needs(p *plan) {
	switch b.bug {
	case BugReuseIdentity: // a disk that is lost
		p.nodes, p.faults = max(p.nodes, 3), append(p.faults, FaultWipe)
	case BugServeDamaged, BugDropMends, BugVoteWithHole, BugMendWrongly: // a disk that rots
		p.nodes, p.rotMean = max(p.nodes, 3), 300*time.Millisecond
	case BugIgnoreFingerprint: // a state that goes wrong
		p.nodes, p.divergeMean = max(p.nodes, 3), time.Second
	case BugPromiseUnsynced: // replicas that are opened again, on nodes that lose power
		p.nodes, p.faults = max(p.nodes, 3), append(p.faults, FaultPower, FaultBlackout)
		p.syncMin, p.syncSpread = 300*time.Millisecond, 0 // longer than it takes a leader to ask again
	case BugSendTooLittle: // snapshots that are sent
		p.nodes, p.faults = max(p.nodes, 3), append(p.faults, FaultWipe)
	case BugVoteUnsynced: // elections, and power that goes in the midst of them: see blink
		p.nodes, p.faults = max(p.nodes, 3), append(p.faults, FaultIsolate, FaultPower)
	case BugClaimTooMuch: // leaders that go on alone for a while
		p.nodes, p.faults = max(p.nodes, 3), append(p.faults, FaultIsolate, FaultPartition)
	case BugSplitKeys, BugLeaveKeys, BugKeepKeys: // jobs that have some
		p.keyed = true
	case BugNoHold: // leaders that come and go
		p.nodes, p.faults = max(p.nodes, 3), append(p.faults, FaultIsolate, FaultKill)
	default:
	}
}

func (b *bugs) is(bug Bug) bool { return b.bug == bug }

// disk is a node's disk with a bug in front of it.
func (b *bugs) disk(d *vfs.Sim) vfs.FS {
	switch b.bug {
	case BugSkipSync, BugSkipSnapshotSync, BugSkipDirSync, BugIgnoreSyncError:
		return lyingFS{d, b.bug}
	default:
		return d
	}
}

// append is what goes to the log.
func (b *bugs) append(n *node, hs *wal.HardState, entries []wal.Entry) (*wal.HardState, []wal.Entry) {
	switch {
	case b.is(BugForgetVote) && hs != nil:
		hs = &wal.HardState{Term: hs.Term, Commit: hs.Commit}
	case b.is(BugForgetTerm) && hs != nil:
		hs = &wal.HardState{Term: 1, Vote: hs.Vote, Commit: hs.Commit}
	case b.is(BugLoseEntryData) && !n.leads() && len(entries) > 0 && b.chance.percent(20):
		entries = append([]wal.Entry(nil), entries...)
		entries[0].Data = nil
	}
	return hs, entries
}

func (b *bugs) retain(r wal.Retention) wal.Retention {
	if b.is(BugCompactLive) && r.Live != nil && !r.Live.IsEmpty() {
		r.Live = r.Live.Clone()
		r.Live.Remove(r.Live.Maximum())
		if !r.Live.IsEmpty() {
			r.Live.Remove(r.Live.Minimum())
		}
	}
	return r
}

// message is what goes out to another node.
func (b *bugs) message(m *raftpb.Message) *raftpb.Message {
	if b.is(BugCorruptMessage) && len(m.GetEntries()) > 0 && b.chance.percent(5) {
		if e := m.GetEntries()[len(m.GetEntries())-1]; len(e.GetData()) > 60 {
			changed := &raftpb.Entry{Type: e.Type, Term: e.Term, Index: e.Index, Data: append([]byte(nil), e.Data...)}
			changed.Data[len(changed.Data)-1] ^= 1
			m = flatCopy(m)
			m.Entries = append(append([]*raftpb.Entry(nil), m.Entries[:len(m.Entries)-1]...), changed)
		}
	}
	return m
}

// apply is what a machine is given of an entry.
func (b *bugs) apply(d *driver, stamp int64, items [][]byte) (int64, [][]byte) {
	switch b.bug {
	case BugLocalClock:
		stamp = d.m.n.wall()
	case BugReorderItems:
		if d.m.n.index == 0 && len(items) > 1 && items[0][0] != typeEnqueue {
			items = append([][]byte(nil), items...)
			items[0], items[len(items)-1] = items[len(items)-1], items[0]
		}
	case BugSkipItem:
		if d.m.n.index == 0 && b.chance.percent(2) {
			items = append([][]byte(nil), items...)
			items[len(items)-1] = queue.AppendTick(nil)
		}
	case BugIgnoreFencing:
		items = b.unfence(d, items)
	case BugSplitKeys, BugLeaveKeys, BugKeepKeys:
		items = b.rekey(items)
	case BugDropSession:
		items = append([][]byte(nil), items...)
		for i, item := range items {
			if item[0] == typeEnqueue {
				items[i] = append([]byte(nil), item...)
				clear(items[i][2:18])
			}
		}
	default:
	}
	return stamp, items
}

// unfence gives items of workers the token of whoever holds the job.
func (b *bugs) unfence(d *driver, items [][]byte) [][]byte {
	items = append([][]byte(nil), items...)
	for i, item := range items {
		if item[0] != typeAck && item[0] != typeFail {
			continue
		}
		pos := queue.Pos(binary.LittleEndian.Uint64(item[2:]))
		info, ok := d.machine.Job(pos, 0, 0)
		token, size := binary.Uvarint(item[10:])
		if !ok || info.State != queue.StateRunning || info.Token == queue.Token(token) {
			continue
		}
		changed := binary.AppendUvarint(append([]byte(nil), item[:10]...), uint64(info.Token))
		items[i] = append(changed, item[10+size:]...)
	}
	return items
}

// mislay gives an answer to a fetch to another one, too.
func (b *bugs) mislay(d *driver, a answer) {
	if !b.is(BugWrongHands) || len(a.leases) == 0 {
		return
	}
	for _, c := range d.waiting {
		if c.fetch {
			c.reply(a)
			return
		}
	}
}

// reuse gives a job that is leased again the token of its first lease.
func (b *bugs) reuse(d *driver, a answer) {
	if !b.is(BugReuseToken) {
		return
	}
	for i := range a.leases {
		l := &a.leases[i]
		if first, ok := b.tokens[l.label]; ok {
			l.Token = first
		} else {
			b.tokens[l.label] = l.Token
		}
	}
}

// guess answers a call before it is known what will come of it.
func guess(c *call, index uint64, first int) answer {
	a := answer{outcome: outcomeDone, index: index}
	for i := range c.items.Len() {
		a.results = append(a.results, queue.Result{Pos: queue.MakePos(index, first+i)})
	}
	for _, w := range c.asked {
		switch r := &a.results[w.item]; w.op.Kind {
		case history.Ack:
			r.State = queue.StateCompleted
		case history.Cancel:
			r.State = queue.StateCancelled
		case history.Discard:
			r.State = queue.StateDiscarded
		default:
			r.State = queue.StateReady
		}
	}
	return a
}

// lyingFS is a disk with a bug in front.
type lyingFS struct {
	*vfs.Sim
	bug Bug
}

func (f lyingFS) SyncDir(dir string) error {
	if f.bug == BugSkipDirSync {
		return nil
	}
	return f.Sim.SyncDir(dir)
}

func (f lyingFS) Create(name string) (vfs.File, error) {
	file, err := f.Sim.Create(name)
	return lyingFile{file, f.bug}, err
}

func (f lyingFS) CreateUncached(name string) (vfs.File, error) { return f.Create(name) }

func (f lyingFS) OpenReadWrite(name string) (vfs.File, error) {
	file, err := f.Sim.OpenReadWrite(name)
	return lyingFile{file, f.bug}, err
}

type lyingFile struct {
	vfs.File
	bug Bug
}

func (f lyingFile) SyncData() error {
	if f.bug == BugSkipSync {
		return nil
	}
	err := f.File.SyncData()
	if f.bug == BugIgnoreSyncError {
		return nil
	}
	return err
}

func (f lyingFile) Sync() error {
	if f.bug == BugSkipSnapshotSync {
		return nil
	}
	return f.File.Sync()
}

// promises has a replica be opened again now and then while a flush is under way, and all nodes lose power before that ends. It is true
// when what the log holds is to be taken for durable.
func (b *bugs) promises(n *node, id wal.ShardID, hs *wal.HardState, entries []wal.Entry) bool {
	if !b.is(BugPromiseUnsynced) {
		return false
	}
	if m := n.members[id]; len(entries) > 0 && !n.w.healing && !n.leads() && b.chance.permille(20) {
		n.w.after(0, func() {
			if n.up && n.members[id] == m && !m.rep.Storing() {
				m.anew(errGone)
				n.w.after(250*time.Millisecond, n.w.blackout)
			}
		})
	}
	return hs == nil && len(entries) == 0
}

// sendLog is the log as what sends snapshots sees it.
type sendLog struct {
	*wal.Log
	bugs *bugs
}

// Retained implements transfer.LeaderLog.
func (l sendLog) Retained(id wal.ShardID) (uint64, *roaring64.Bitmap) {
	snapshot, live := l.Log.Retained(id)
	return snapshot, l.bugs.tooLittle(live)
}

// receiveLog is the log as what takes snapshots in sees it.
type receiveLog struct {
	*wal.Log
	bugs *bugs
}

// Held implements transfer.FollowerLog.
func (l receiveLog) Held(id wal.ShardID) uint64 {
	if l.bugs.is(BugClaimTooMuch) {
		return l.Log.State(id).Last
	}
	return l.Log.Held(id)
}

// tooLittle leaves a job out of what is live.
func (b *bugs) tooLittle(live *roaring64.Bitmap) *roaring64.Bitmap {
	if b.is(BugSendTooLittle) && live != nil && !live.IsEmpty() {
		live = live.Clone()
		live.Remove(live.Minimum())
	}
	return live
}

// mendKey is an entry that was mended.
type mendKey struct {
	shard wal.ShardID
	index uint64
}

// Mend implements replica.Log.
func (l nodeLog) Mend(id wal.ShardID, e *wal.Entry) error {
	if l.n.w.bug.is(BugMendWrongly) {
		for other := e.Index - 1; other > 0; other-- {
			if got, err := l.Log.Read(id, other); err == nil && len(got.Data) > 0 {
				l.n.mended[mendKey{id, e.Index}] = other
				break
			}
		}
	}
	return l.Log.Mend(id, e)
}

// instead is the entry that is read in an entry's place: another one when it was mended wrongly.
func (l nodeLog) instead(id wal.ShardID, index uint64) uint64 {
	if other, wrong := l.n.mended[mendKey{id, index}]; wrong {
		return other
	}
	return index
}
