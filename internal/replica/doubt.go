package replica

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
)

// Verification is a fingerprint that a leader put through the log, beside this replica's own after the same entry.
type Verification struct{ Index, Logged, Own uint64 }

// Trust says what is known of a replica's state.
type Trust uint8

// What is known of a state.
const (
	Trusted Trust = iota // nothing speaks against it, or a majority has the same
	Suspect              // the log has another fingerprint, and it is not known who is wrong
	Wrong                // a majority of the voters has another: it is replaced by a snapshot of the leader
)

func (t Trust) String() string { return [...]string{"trusted", "suspect", "wrong"}[t] }

// Doubt is what speaks against a state.
type Doubt struct {
	Trust Trust
	Index uint64 // after this entry the states differed; 0 when it is trusted
	// Judged says that there are other voters, whose majority decides. A lone voter has nobody to ask.
	Judged bool
}

// testimony is what a voter says of its state after the entry that is inquired about.
type testimony struct {
	voter shard.ReplicaID
	print uint64
}

// inquiry is about the entry after which states differ.
type inquiry struct {
	index, own uint64
	said       []testimony // one a voter
	tries      int         // to ask the others
}

// doubts is what a replica knows of its own state, and of those that disagree with it.
type doubts struct {
	Doubt
	last    Verification   // the last that was looked at
	prints  []Verification // the last ones, oldest first
	inquiry *inquiry       // nil: nobody disagrees
	again   time.Duration  // when others are asked again
	marked  bool           // that the state is wrong is on the disk
	upTo    uint64         // the newest snapshot of a wrong state

	// Of a leader: to whom it brings a snapshot, in which term, and what is still to be said of it.
	bringing []shard.ReplicaID
	term     uint64
	wishes   []shard.SnapshotWish

	passed []Mail // the wish of a member that does not know the leader, for the leader
}

// Doubt tells what is known of the state.
func (r *Replica) Doubt() Doubt { return r.doubts.Doubt }

// Renewing says that the state is wrong, and that a snapshot above an index is to take its place: the owner has told that to its
// transfer.Receiver, which it makes for each Open.
func (r *Replica) Renewing() (above uint64, ok bool) { return r.doubts.upTo, r.doubts.marked }

// barred reports whether the replica must not serve and not lead. A lone voter goes on, and its driver refuses.
func (r *Replica) barred() bool { return r.doubts.Trust != Trusted && r.doubts.Judged }

// judged reports whether there are other voters.
func (r *Replica) judged() bool {
	members := r.sh.Members()
	return slices.ContainsFunc(members.Voters, func(v shard.ReplicaID) bool { return v != r.cfg.Replica })
}

// setTrust tells the driver, and whoever reads the log of the program.
func (r *Replica) setTrust(t Trust, index uint64) {
	judged := r.judged()
	d := Doubt{Trust: t, Index: index, Judged: judged}
	before := r.doubts.Doubt
	r.doubts.Doubt = d
	r.settle = true
	r.cfg.Driver.Doubted(d)
	if r.barred() {
		// Not even what the next entries of the same round make of it is an answer.
		for _, seq := range r.inflight {
			r.count.Dropped++
			r.cfg.Driver.Dropped(seq, true)
		}
		r.inflight = r.inflight[:0]
	}
	logger := r.cfg.Logger.With("shard", r.cfg.Shard, "index", index)
	switch {
	case t == Wrong:
		logger.Error("a majority of the voters has another state: this replica serves no more, and is rebuilt from a snapshot of its leader")
	case t == Suspect && judged:
		logger.Error("the log has another fingerprint than this replica's state: it serves no more, until a majority of the voters says who is wrong")
	case t == Suspect:
		logger.Error("the log has another fingerprint than this replica's state, and there is no other voter to ask: it serves no more")
	case before.Trust == Suspect:
		logger.Warn("a majority of the voters has the same state: this replica serves again")
	}
}

// verify looks at what the entry that was just applied says of the state.
func (r *Replica) verify(index uint64, proposer shard.NodeID) {
	d := &r.doubts
	v := r.cfg.Driver.Verified()
	if v == d.last || v.Index == 0 {
		return
	}
	d.last = v
	if len(d.prints) >= PrintsKept {
		d.prints = slices.Delete(d.prints, 0, 1)
	}
	d.prints = append(d.prints, v)
	if d.Trust == Wrong || d.Trust == Trusted && v.Own == v.Logged {
		return
	}
	r.inquire(v.Index, v.Own)
	if id := r.proposedBy(index, proposer); id != 0 && id != r.cfg.Replica {
		d.inquiry.hear(id, v.Logged)
	}
	if d.Trust == Trusted {
		r.setTrust(Suspect, v.Index)
	}
	r.weigh()
}

// proposedBy is the member that proposed an entry that is being applied, which names its node alone; 0 when that is no member any more.
//
// It is the member that the node has as of that entry. A node has one member at a time, and its id says behind which entry it was made one:
// one born at the entry or behind it did not propose it. And none of the node from before proposed an entry behind a birth: whoever gives
// out an id has applied the removal of the former, and an entry of its own term. All who are elected later have both, and the former
// never has, since it is sent nothing any more.
func (r *Replica) proposedBy(index uint64, node shard.NodeID) shard.ReplicaID {
	members := r.sh.Members()
	return proposerOf(members.All(), index, node)
}

func proposerOf(members []shard.ReplicaID, index uint64, node shard.NodeID) shard.ReplicaID {
	for _, id := range members {
		if id.Node() == node && id.Birth() < index {
			return id
		}
	}
	return 0
}

// inquire begins an inquiry about an entry, in the place of one about an earlier entry.
func (r *Replica) inquire(index, own uint64) {
	if q := r.doubts.inquiry; q == nil || q.index != index {
		r.doubts.inquiry, r.doubts.again = &inquiry{index: index, own: own}, 0
	}
}

// hear takes what a voter says; its last word counts.
func (q *inquiry) hear(voter shard.ReplicaID, print uint64) {
	at := slices.IndexFunc(q.said, func(t testimony) bool { return t.voter == voter })
	if at < 0 {
		q.said = append(q.said, testimony{voter, print})
		return
	}
	q.said[at].print = print
}

// majority reports whether a majority of each set of voters has a print, self counting for its own.
func (q *inquiry) majority(m *shard.Members, self shard.ReplicaID, print uint64) bool {
	for _, voters := range [][]shard.ReplicaID{m.Voters, m.Outgoing} {
		count := 0
		for _, v := range voters {
			if v == self && print == q.own || slices.Contains(q.said, testimony{v, print}) {
				count++
			}
		}
		if count <= len(voters)/2 && len(voters) > 0 {
			return false
		}
	}
	return true
}

// weigh decides when a majority has spoken.
func (r *Replica) weigh() {
	d, q := &r.doubts, r.doubts.inquiry
	if q == nil || d.Trust == Wrong {
		return
	}
	members := r.sh.Members()
	dissent, support := false, false
	for _, t := range q.said {
		support = support || t.print == q.own && members.Votes(t.voter)
		if t.print == q.own {
			continue
		}
		dissent = true
		if q.majority(&members, r.cfg.Replica, t.print) {
			d.inquiry, d.again = nil, 0
			r.setTrust(Wrong, q.index)
			return
		}
	}
	if !support || !q.majority(&members, r.cfg.Replica, q.own) {
		return
	}
	if d.Trust == Suspect {
		r.setTrust(Trusted, 0)
	}
	if !dissent {
		d.inquiry = nil // Else those who dissent are told, for they must find out.
	}
}

// stepPrint takes what another member says of its state.
func (r *Replica) stepPrint(from shard.NodeID, data []byte) (answer []byte) {
	p, err := transfer.DecodePrint(r.cfg.Shard, data)
	members := r.sh.Members()
	speaker := shard.ReplicaID(p.Speaker)
	if err != nil || speaker.Node() != from || speaker == r.cfg.Replica || !members.Has(speaker) {
		return nil
	}
	d := &r.doubts
	own, known := uint64(0), false
	for _, v := range d.prints {
		if v.Index == p.Index && d.Trust != Wrong { // a wrong state is no evidence
			own, known = v.Own, true
		}
	}
	if p.Known && known {
		if own != p.Fingerprint && d.Trust == Trusted && (d.inquiry == nil || d.inquiry.index < p.Index) {
			r.inquire(p.Index, own) // The word of one takes nobody's state away, and nobody out of service.
		}
		if d.inquiry != nil && d.inquiry.index == p.Index {
			d.inquiry.hear(speaker, p.Fingerprint)
			r.weigh()
		}
	}
	if !p.Asks {
		return nil
	}
	reply := transfer.Print{Speaker: transfer.PeerID(r.cfg.Replica), Index: p.Index, Fingerprint: own, Known: known}
	return reply.Append(nil, r.cfg.Shard)
}

// stepRenew takes the request of a member whose state is wrong, or whose log has a hole. It comes again until the member has what it
// wants. Who asks may have last heard of the members before they changed, and not know the leader: whom it does know passes it on.
func (r *Replica) stepRenew(from shard.NodeID, data []byte) {
	w, err := transfer.DecodeRenew(r.cfg.Shard, data)
	members := r.sh.Members()
	to, term := shard.ReplicaID(w.Speaker), r.LeadTerm()
	if err != nil || to == r.cfg.Replica || !members.Has(to) {
		return
	}
	d := &r.doubts
	own := to.Node() == from
	if leader := r.sh.Leader(); own && term == 0 && leader != 0 && leader != r.cfg.Replica && leader != to {
		d.passed = []Mail{{leader, w.Append(nil, r.cfg.Shard)}} // one at a time: it is asked again
	}
	if term == 0 || !own && !slices.ContainsFunc(members.All(), func(m shard.ReplicaID) bool { return m.Node() == from }) {
		return
	}
	if d.term != term {
		d.term, d.bringing, d.wishes = term, nil, nil
	}
	switch {
	case slices.Contains(d.bringing, to):
	case r.snap.index <= w.Above:
		r.snap.wanted = true
	default:
		d.bringing = append(d.bringing, to)
		d.wishes = append(d.wishes, shard.SnapshotWish{To: to, Term: term, Index: r.snap.index})
	}
}

// settleDoubts does what there is to do about doubts: says to others what they are asked for, makes a verdict durable, and has a
// wrong state replaced.
func (r *Replica) settleDoubts() error {
	d := &r.doubts
	r.eff.Snapshots = append(r.eff.Snapshots, d.wishes...)
	d.wishes = nil
	r.eff.Mends = append(r.eff.Mends, d.passed...)
	d.passed = nil
	if d.Trust != Trusted && d.Judged != r.judged() {
		r.setTrust(d.Trust, d.Index) // The group has changed.
	}
	if r.barred() {
		r.stepAside()
	}
	if r.now.Mono < d.again {
		return nil
	}
	switch {
	case d.Trust == Wrong && !d.marked && !r.snap.running: // what is being stored is a snapshot of this state too
		return r.condemn()
	case d.Trust == Wrong && d.marked:
		d.again = r.now.Mono + AskPause
		if leader := r.sh.Leader(); leader != 0 && leader != r.cfg.Replica {
			w := transfer.Renew{Speaker: transfer.PeerID(r.cfg.Replica), Above: d.upTo}
			r.eff.Mends = append(r.eff.Mends, Mail{leader, w.Append(nil, r.cfg.Shard)})
		}
	case d.inquiry != nil:
		r.askOthers()
	}
	return nil
}

// askOthers tells what this replica's state was, and asks for that of the others, of all who do not have the same.
func (r *Replica) askOthers() {
	d, q := &r.doubts, r.doubts.inquiry
	if q.tries++; d.Trust == Trusted && q.tries > AskTries {
		d.inquiry = nil
		return
	}
	d.again = r.now.Mono + AskPause
	p := transfer.Print{Speaker: transfer.PeerID(r.cfg.Replica), Index: q.index, Fingerprint: q.own, Known: true, Asks: true}
	members := r.sh.Members()
	for _, id := range members.All() {
		if id != r.cfg.Replica && !slices.Contains(q.said, testimony{id, q.own}) {
			r.eff.Mends = append(r.eff.Mends, Mail{id, p.Append(nil, r.cfg.Shard)})
		}
	}
}

// stepAside hands the lead to another voter: this one must not use it.
func (r *Replica) stepAside() {
	if leading, _ := r.sh.Leading(); !leading || r.sh.Transferring() {
		return
	}
	if heir := r.heir(); heir != 0 {
		_ = r.sh.Transfer(heir) // It leads, and the heir votes: there is nothing to refuse.
	}
}

// condemn makes durable that the snapshots here are of a wrong state, and lets the log forget what they said. Before it is durable, a
// crash forgets the verdict, and the log shows again what led to it.
func (r *Replica) condemn() error {
	d := &r.doubts
	mark := snapshot.Mark{Shard: uint16(r.cfg.Shard), UpTo: r.snap.index, Index: d.Index}
	err := snapshot.Condemn(r.cfg.FS, r.cfg.SnapshotDir, mark)
	for NoSpace(err) && r.cfg.Log.ReleaseReserve() {
		err = snapshot.Condemn(r.cfg.FS, r.cfg.SnapshotDir, mark)
	}
	if NoSpace(err) {
		d.again = r.now.Mono + SnapshotRetry
		return nil
	}
	if err != nil {
		return err
	}
	d.marked, d.upTo = true, r.snap.index
	r.cfg.Log.Distrust(r.cfg.Shard)
	r.eff.Renew, r.eff.More = true, true
	return nil
}

// acquit looks whether the snapshot that was restored is of a state that was found wrong, and removes those that are when there is a
// right one above them.
func (r *Replica) acquit(restored uint64) (wrong bool, err error) {
	mark, found, err := snapshot.Condemned(r.cfg.FS, r.cfg.SnapshotDir)
	if err != nil || !found {
		return false, err
	}
	if restored <= mark.UpTo {
		r.doubts.marked, r.doubts.upTo, r.doubts.Index = true, mark.UpTo, mark.Index
		return true, nil
	}
	if err := snapshot.Acquit(r.cfg.FS, r.cfg.SnapshotDir, mark); err != nil {
		return false, err
	}
	r.count.Rebuilt++
	r.cfg.Logger.Info("the wrong state is rebuilt", "shard", r.cfg.Shard, "wrong_at", mark.Index, "index", restored)
	return false, nil
}

// mute drops what would make a replica lead that must not: it stands for no election, and votes in those of others.
func (r *Replica) mute(messages []*raftpb.Message) []*raftpb.Message {
	if !r.barred() {
		return messages
	}
	return slices.DeleteFunc(slices.Clone(messages), func(m *raftpb.Message) bool {
		return m.GetType() == raftpb.MsgPreVote || m.GetType() == raftpb.MsgVote
	})
}
