package wal

import (
	"errors"
	"fmt"
	"slices"
)

// Where the header of a frame is damaged, or the disk cannot read it, not even the name of what was lost is known: it may have been
// entries of any shard, or a hard state. With Options.KeepHoles, Open goes on behind the next good header of the same file, and works
// out for each shard what that means. Let D be the damaged stretch.
//
//   - The hard state is known if a state frame of the shard follows D: the last one counts, and it is that. Every file begins with the
//     state of every shard, so only D in the last file can take one. Damage within these first frames of a file takes nothing, since
//     they repeat what the file before said.
//   - Entries in D may have been new ones, or have replaced some from before. An entry (j, t) that follows D settles it, since an index
//     and a term name one entry, and whoever has it has the same entries before it (log matching): let k be the highest index
//     below j, of before D, that is known committed or has term t. The entries up to k are as they were. Those from k+1 to j-1 are
//     a *gap*: holes without a name.
//   - When no state frame, or no entry, of the shard follows D, what it promised may be *lost*: a vote, a term, the acknowledgement of an entry
//     behind the last that is known. (Not when no entry that could have been replaced is left: a state frame tells the last index too.)
//
// A disk may refuse to read, and later not: then an Open takes for damaged what the next one reads, and the file that it began does not
// follow from that. Where a frame counts entries that are nowhere, they are taken for a damaged stretch before it.
//
// A file that is missing is a damaged stretch like any other, as long as the log is known to have peers (Options.Peers). Between two files all of it is
// damage: the next file begins with what it was to end with. When the last file is missing, which the seal of the one before tells, since
// that is durable before anything of the next file is relied on, nothing of any shard follows. When the first one is missing, the bounds with which
// the next one begins say which entries it had: a gap, or when the last entry is among them, the shard is lost, since a vote goes by its term. When all are missing, every shard is lost. Only two faults at once hide that a file is missing:
// the last file, and the seal of the one before. And of a first file that held nothing but live entries of before the tails' bounds nothing
// is known but that those are missing, as soon as it is known what is live.
//
// A gap is closed by a snapshot of the group alone, which makes its index the base of the tail. The replica is out of its group until then
// (package replica). Let R be as it was before the damage, in the state that its hard state tells, and R' be R after it installs a
// snapshot at S and is back. Everything in a snapshot is committed, so a follower may take one from anybody at any time.
//
//   - S >= j: R' is what R would be. The term at S is known, and says whether R's entries above S stay.
//   - S = j-1: R would compare the term of its entry at S, which is lost. If it was that of the snapshot, R' is what R would be. If not,
//     R' has entries from j on that R would have given up. They are of a branch that is dead: what is committed at S contradicts it,
//     so none of these entries is, or will be, committed, and no leader that has the committed entry at S has one of them (log matching).
//     R had them when it voted and acknowledged, and to keep them is what R does while it hears of no snapshot: votes go by the last
//     entry, which is the same; whoever counts on an acknowledgement of them leads on the dead branch and has no majority; and
//     the first append of a live leader finds the conflict, at j at the latest, and removes them.
//   - Below that a gap is left, and R' stays out.
//
// A shard that lost what it promised is closed: nothing may be appended, and its replica must never speak again. No wait would make it
// safe: whom it voted for in which term is known to that candidate alone, who may be down, or removed. So the group removes the replica and makes the node
// a member under another id, which has promised nothing; that is a change of members like any other, and needs a majority without it.
// Until a state frame without the mark says otherwise (Forget), every Open finds the shard lost: the mark is in its state frame, with
// which the next file begins. A shard of which nothing is known may have been lost whole: the headers of files say so.

// gap is entries of the tail of which nothing is known.
type gap struct {
	first, last uint64
	damage      *CorruptError
}

// doubt is what is not known of a shard behind damage, while Open reads on.
type doubt struct {
	from   uint64 // entries from here on, of before the damage, may have been replaced
	damage *CorruptError
	file   *tailFile
}

// blankState is the state of a shard that the log has nothing of. No replica's state is like it, so it ends that a shard is lost.
var blankState = shardState{first: 1, known: true}

// after keeps what a state frame says lost, until the shard is forgotten.
func (s shardState) after(before shardState) shardState {
	s.lost = s.lost || before.lost && s != blankState
	return s
}

// lostShard is what Lost returns for a shard.
func lostShard(shard ShardID, damage *CorruptError) *CorruptError {
	d := *damage
	d.Shard, d.Index = shard, 0
	d.Reason += "; a vote of the shard, or an entry that it acknowledged, may be lost with it"
	return &d
}

// damaged passes over a bad frame below end.
func (r *recovery) damaged(f *tailFile, scan *tailScan, h *frameHeader, bad error, end int64) error {
	at := scan.offset
	if _, err := scan.pass(h, bad, end); err != nil {
		return err
	}
	damage := &CorruptError{File: f.name, Offset: at, Shard: h.shard, Index: h.index, Reason: bad.Error()}
	r.passedOver(damage)
	switch passed := h.kind != 0 && !errors.Is(bad, errFrameShort); {
	case scan.offset <= r.repeated:
	case passed && isHole(h, bad):
		r.meet(f, h)
		if err := r.apply(f, *h, nil, at, false); err != nil {
			return err
		}
		return r.log.shards[h.shard].noteHole(h)
	case passed && h.kind == kindState:
		r.log.shardFor(h.shard).doubtFrom(f, damage)
		r.log.shards[h.shard].hardLost = damage
	default:
		r.loses(f, damage)
	}
	return nil
}

// loses is told of damage that may have taken anything of any shard.
func (r *recovery) loses(f *tailFile, damage *CorruptError) {
	r.unknown, r.unknownFile = damage, f
	for _, s := range r.log.shards {
		s.doubtFrom(f, damage)
		s.hardLost = damage
	}
}

// passedOver keeps the first damage for who wants to be told.
func (r *recovery) passedOver(damage *CorruptError) {
	if r.found.Damage == nil {
		r.found.Damage = damage
	}
}

func missing(first, last uint64) string {
	return fmt.Sprintf("entries %d to %d are missing before this frame", first, last)
}

// misses is told that a frame counts entries up to last that are nowhere.
func (r *recovery) misses(f *tailFile, s *shardLog, h *frameHeader, last uint64, at int64) {
	if s.doubt != nil || !r.log.opts.KeepHoles {
		return
	}
	damage := &CorruptError{File: f.name, Offset: at, Shard: h.shard, Reason: missing(s.last+1, last)}
	s.doubtFrom(f, damage)
	r.passedOver(damage)
}

// doubtFrom says that what follows the entries that are known is not.
func (s *shardLog) doubtFrom(f *tailFile, damage *CorruptError) {
	if s.doubt == nil {
		s.doubt = &doubt{min(max(s.hard.Commit+1, s.first), s.last+1), damage, f}
	}
}

// meet makes the index of a shard whose first frame follows damage that may have held others of it.
func (r *recovery) meet(f *tailFile, h *frameHeader) {
	if r.unknown == nil || r.log.shards[h.shard] != nil || h.kind == kindEntry && f != r.unknownFile {
		return // A file begins with the states of all shards: an entry comes first only of a shard that is new.
	}
	s := r.log.shardFor(h.shard)
	s.doubtFrom(r.unknownFile, r.unknown)
	s.hardLost = r.unknown
}

// settle ends a doubt by the entry that comes next.
func (r *recovery) settle(s *shardLog, h *frameHeader) {
	d := s.doubt
	s.doubt = nil
	keep := d.from - 1
	for k := min(s.last, h.index-1); k >= d.from; k-- {
		if e, ok := s.find(k); ok && e.term <= h.term {
			if e.term == h.term {
				keep = k
			}
			break // terms do not fall along a log
		}
	}
	if keep >= h.index-1 {
		return
	}
	r.cut(s, keep)
	s.jump(h.index - 1)
	if first := max(keep+1, s.first); first < h.index {
		s.gaps = append(s.gaps, gap{first, h.index - 1, d.damage})
		d.file.highest[h.shard] = max(d.file.highest[h.shard], h.index-1)
	}
}

// keepDoubts is told that what is read from here on is written again, to a file that begins with what was known here. Of a shard in
// doubt that is not the last index: who reads both files shall come to know it from the same frames as this Open does. So the
// file says that there are entries in doubt.
func (r *recovery) keepDoubts() {
	for id, s := range r.log.shards {
		if s.doubt == nil {
			continue
		}
		st, ok := r.log.writer.states[id]
		if !ok {
			st = blankState
		}
		st.last = max(st.last, s.doubt.from)
		r.log.writer.states[id] = st
	}
}

// cut voids the entries above an index.
func (r *recovery) cut(s *shardLog, last uint64) {
	if last < s.last {
		s.truncate(last)
		r.log.unwantAbove(s, last)
	}
}

// doubtState takes a state frame of a shard in doubt. It tells the hard state and the bounds, and which entries are void; of those
// that are left it does not tell whether they were replaced.
func (r *recovery) doubtState(s *shardLog, st shardState) {
	d := s.doubt
	switch {
	case st.last < d.from:
		s.doubt = nil
	case st.first > st.last: // the tail is empty: what was in doubt is below it
		r.cut(s, d.from-1)
		s.doubt = nil
	}
}

// applyLost takes a state frame of a shard that an earlier Open found lost, or that was lost and is forgotten.
func (r *recovery) applyLost(f *tailFile, s *shardLog, st shardState, at int64) {
	switch {
	case st == blankState:
		s.damage = nil
	case s.lost:
		return
	default:
		s.damage = &CorruptError{File: f.name, Offset: at, Reason: "an earlier start found the log damaged"}
	}
	s.doubt = nil
	s.become(st)
	r.log.unwantAbove(s, 0)
}

// closeLost finds the shards that may have lost what they promised, as far as the log was read.
func (r *recovery) closeLost(end *tailEnd) {
	l := r.log
	last := len(l.files) - 1
	if end.lost != nil {
		r.passedOver(end.lost)
		r.unknown, r.unknownFile = end.lost, l.files[last]
	}
	for id, s := range l.shards {
		damage := end.lost
		switch {
		case s.doubt != nil:
			damage = s.doubt.damage
		case s.hardLost != nil:
			damage = s.hardLost
		case s.lost:
			damage = s.damage
		}
		s.doubt, s.hardLost = nil, nil
		if damage != nil {
			r.close(id, s, damage)
		}
	}
	if r.unknown != nil && r.unknownFile == l.files[last] {
		l.unknown = r.unknown
	}
}

// close closes a shard that may have lost what it promised, also in the file that comes next.
func (r *recovery) close(id ShardID, s *shardLog, damage *CorruptError) {
	s.lost, s.damage = true, damage
	st, ok := r.log.writer.states[id]
	if !ok {
		st = blankState
	}
	st.lost = true
	r.log.writer.states[id] = st
}

// addGap adds a gap where there was none.
func (s *shardLog) addGap(g gap) {
	i := 0
	for i < len(s.gaps) && s.gaps[i].first < g.first {
		i++
	}
	s.gaps = slices.Insert(s.gaps, i, g)
}

// cutGaps keeps the gaps between the shard's bounds. REQUIRES: Log.mu.
func (s *shardLog) cutGaps() {
	kept := s.gaps[:0]
	for _, g := range s.gaps {
		g.first, g.last = max(g.first, s.first), min(g.last, s.last)
		if g.first <= g.last {
			kept = append(kept, g)
		}
	}
	s.gaps = kept
}

// gapAt returns the gap that an index is in, or nil.
func (s *shardLog) gapAt(index uint64) *gap {
	for i := range s.gaps {
		if g := &s.gaps[i]; g.first <= index && index <= g.last {
			return g
		}
	}
	return nil
}

// inGap is the error of reading an entry of a gap.
func (g *gap) inGap(shard ShardID, index uint64) error {
	d := *g.damage
	d.Shard, d.Index = shard, index
	return &d
}

// firstMissing are the first entries from first on that are neither in the tail nor in a gap; 0 when there are none.
func (s *shardLog) firstMissing() (first, last uint64) {
	at := s.first
	for i := 0; at <= s.last && i < len(s.runs); {
		switch r := &s.runs[i]; {
		case r.first <= at && at < r.next():
			at = r.next()
		case r.next() <= at:
			i++
		default:
			g := s.gapAt(at)
			if g == nil {
				return at, min(r.first-1, s.last)
			}
			at = g.last + 1
		}
	}
	return 0, 0
}

// Lost says why a shard may have lost what it promised, or cannot tell what it holds, as a *CorruptError; nil when it has not. A shard that is lost takes nothing: the
// caller never lets its replica speak again, and calls Forget when another takes its place.
func (l *Log) Lost(shard ShardID) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch s := l.shards[shard]; {
	case s == nil && l.unknown != nil:
		return lostShard(shard, l.unknown)
	case s != nil && s.lost && s.torn:
		return s.damage
	case s != nil && s.lost:
		return lostShard(shard, s.damage)
	}
	return nil
}

// closedTo is the error of appending to a shard that is lost. REQUIRES: l.mu.
func (l *Log) closedTo(shard ShardID) error {
	s := l.shards[shard]
	if s == nil && l.unknown == nil || s != nil && !s.lost {
		return nil
	}
	return fmt.Errorf("shard %d may have lost what it promised, and takes nothing until it is forgotten", shard)
}

// Gap is the last entry of the tail, from an index on, of which not even the name is known; 0 when there is none.
func (l *Log) Gap(shard ShardID, from uint64) (last uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.shards[shard]; s != nil {
		for _, g := range s.gaps {
			if g.last >= from {
				last = max(last, g.last)
			}
		}
	}
	return last
}
