package transfer

import (
	"errors"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// LeaderLog is what Senders need of the leader's log. *wal.Log is one.
type LeaderLog interface {
	Log
	// Retained is the newest snapshot that the log was told of, and its live set; nil when there is none.
	Retained(shard wal.ShardID) (snapshot uint64, live *roaring64.Bitmap)
}

// SendersConfig describes a leader's side.
type SendersConfig struct {
	FS          vfs.FS
	Shard       wal.ShardID
	SnapshotDir string
	Log         LeaderLog
	ChunkBytes  int // 0 is ChunkBytesDefault
}

// Outgoing is one chunk for a member.
type Outgoing struct {
	To   uint64
	Data []byte
}

// Ended is what became of one transfer.
type Ended struct {
	To    uint64
	Index uint64 // of the snapshot; 0 when there was none to send
	OK    bool   // the member has the snapshot, or needs it no more
	Stats Stats
	// Reason says why it failed, for a person; Err is set when that was reading what was to be sent.
	Reason string
	Err    error
	// Refused says that the member refused what was sent, which may be because the snapshot is damaged here.
	Refused bool
}

// refusal is of a member that refused the last snapshot.
type refusal struct {
	to      uint64
	waiting bool // ended is reported at a later time
	ended   Ended
	at      time.Duration
}

// Transfer describes one transfer under way.
type Transfer struct {
	To, Index uint64
	Stats     Stats
}

// sending is one transfer under way.
type sending struct {
	to     uint64
	sender *Sender
	heard  time.Duration // when the member was last heard of, or was asked again
	tries  int           // since it was heard of

	refused []byte        // a chunk that the network had no room for
	notyet  time.Duration // when that is offered again
}

// Senders are the transfers of one leader, each to another member: they begin again when answers fail to come, go on with a
// newer snapshot when theirs is outdated, and give up on members that are not heard of. Like a Sender they are a step machine
// for one goroutine at a time, and are told the time.
//
// The owner calls Begin for each wish of the group, Acked for each acknowledgement, and Lead when the lead changes; then Held, Next
// until there is nothing, and Ended. It does so again when something has happened, and when Due says.
type Senders struct {
	cfg    SendersConfig
	term   uint64
	number uint64 // of the last Sender
	turn   int    // whose turn it is
	all    []*sending
	ended  []Ended

	refusals []refusal // one a member
}

// NewSenders returns Senders without a transfer.
func NewSenders(cfg SendersConfig) *Senders {
	if cfg.ChunkBytes <= 0 {
		cfg.ChunkBytes = ChunkBytesDefault
	}
	return &Senders{cfg: cfg}
}

// Lead says in which term this replica leads; 0 is in none. The transfers of other terms end, and nobody is told: whoever
// leads now wishes anew, and the members go on with what they have.
func (s *Senders) Lead(term uint64) {
	if term == s.term {
		return
	}
	s.term = term
	for _, t := range s.all {
		t.close()
	}
	s.all, s.refusals = nil, nil
	s.ended = s.ended[:0]
}

// Begin begins to send the newest snapshot to a member. REQUIRES: it was told by Lead that this replica leads.
func (s *Senders) Begin(now time.Duration, to uint64) {
	s.all = slices.DeleteFunc(s.all, func(t *sending) bool {
		if t.to == to {
			t.close()
		}
		return t.to == to
	})
	for i := range s.refusals {
		if s.refusals[i].to == to {
			s.refusals[i].waiting = false // it is wished anew already
		}
	}
	t := &sending{to: to, heard: now}
	s.all = append(s.all, t)
	if err := s.newSender(t); err != nil {
		s.end(t, Ended{Err: err, Reason: err.Error()})
	}
}

// newSender makes the sender of the newest snapshot.
func (s *Senders) newSender(t *sending) error {
	t.close()
	index, live := s.cfg.Log.Retained(s.cfg.Shard)
	loaded, err := snapshot.OpenAt(s.cfg.FS, s.cfg.SnapshotDir, index)
	if err != nil {
		return err
	}
	s.number++
	t.refused = nil
	t.sender, err = NewSender(SenderConfig{Term: s.term, Transfer: s.number, Snapshot: loaded, Live: live, Log: s.cfg.Log})
	return err
}

func (t *sending) close() {
	if t.sender != nil {
		_ = t.sender.Close() // only read from
		t.sender = nil
	}
}

// Acked takes what a member answered. What is late or not for these Senders changes nothing.
func (s *Senders) Acked(now time.Duration, b []byte) {
	a, err := DecodeAck(b)
	if err != nil {
		return
	}
	at := slices.IndexFunc(s.all, func(t *sending) bool {
		h := t.sender.head
		return a.header.term == h.term && a.header.transfer == h.transfer
	})
	if at < 0 {
		return
	}
	t := s.all[at]
	t.heard, t.tries = now, 0
	switch t.sender.Acked(b) {
	case Installed, NotNeeded:
		s.refusals = slices.DeleteFunc(s.refusals, func(r refusal) bool { return r.to == t.to })
		s.end(t, Ended{OK: true})
	case Failed:
		s.refusedBy(now, t)
	case Sending, Waiting:
	}
}

// refusedBy ends a transfer that the member refused: at once when it did not refuse the one before.
func (s *Senders) refusedBy(now time.Duration, t *sending) {
	e := Ended{Reason: t.sender.Reason(), Refused: true}
	at := slices.IndexFunc(s.refusals, func(r refusal) bool { return r.to == t.to })
	if at < 0 {
		s.refusals = append(s.refusals, refusal{to: t.to})
		s.end(t, e)
		return
	}
	s.refusals[at] = refusal{t.to, true, s.over(t, e), now + RefusalPause}
}

// reportRefusals reports those whose time has come.
func (s *Senders) reportRefusals(now time.Duration) {
	for i := range s.refusals {
		if r := &s.refusals[i]; r.waiting && now >= r.at {
			r.waiting = false
			s.ended = append(s.ended, r.ended)
		}
	}
}

// Next returns the next chunk to send; false when there is none at the moment. Members take turns.
func (s *Senders) Next(now time.Duration) (Outgoing, bool) {
	s.reportRefusals(now)
	for _, t := range slices.Clone(s.all) {
		s.urge(t, now)
	}
	for range len(s.all) {
		if len(s.all) == 0 {
			break // the last one failed
		}
		s.turn = (s.turn + 1) % len(s.all)
		t := s.all[s.turn]
		if t.refused != nil {
			if now < t.notyet {
				continue
			}
			b := t.refused
			t.refused = nil
			return Outgoing{t.to, b}, true
		}
		b, err := t.sender.Next(s.cfg.ChunkBytes)
		if errors.Is(err, ErrOutdated) {
			if err = s.newSender(t); err == nil {
				b, err = t.sender.Next(s.cfg.ChunkBytes)
			}
		}
		switch {
		case err != nil:
			s.end(t, Ended{Err: err, Reason: err.Error()})
		case b != nil:
			return Outgoing{t.to, b}, true
		}
	}
	return Outgoing{}, false
}

// urge begins again when nothing was heard for a while, and at last gives up.
func (s *Senders) urge(t *sending, now time.Duration) {
	if now-t.heard < ResendAfter {
		return
	}
	if t.tries++; t.tries > ResendsMax {
		s.end(t, Ended{Reason: "the member does not answer"})
		return
	}
	t.sender.Resend()
	t.heard, t.refused = now, nil
}

// Refused takes back a chunk that the network has no room for: it is offered again a little later.
func (s *Senders) Refused(now time.Duration, o Outgoing) {
	for _, t := range s.all {
		if t.to == o.To {
			t.refused, t.notyet = o.Data, now+RefusedPause
		}
	}
}

// Held says which members' chunks still wait for the network, as when it is throttled: what a member has not been sent it cannot answer, so
// its silence does not count.
func (s *Senders) Held(now time.Duration, held func(to uint64) bool) {
	for _, t := range s.all {
		if held(t.to) {
			t.heard = now
		}
	}
}

// Due is when Next is to be called although nothing happened; false is never.
func (s *Senders) Due() (at time.Duration, ok bool) {
	for _, t := range s.all {
		due := t.heard + ResendAfter
		if t.refused != nil {
			due = min(due, t.notyet)
		}
		if !ok || due < at {
			at, ok = due, true
		}
	}
	for _, r := range s.refusals {
		if r.waiting && (!ok || r.at < at) {
			at, ok = r.at, true
		}
	}
	return at, ok
}

// end ends a transfer, and reports it.
func (s *Senders) end(t *sending, e Ended) { s.ended = append(s.ended, s.over(t, e)) }

// over ends a transfer, and completes what is to be reported.
func (s *Senders) over(t *sending, e Ended) Ended {
	e.To = t.to
	if t.sender != nil {
		e.Index, e.Stats = t.sender.Index(), t.sender.Stats()
	}
	t.close()
	s.all = slices.DeleteFunc(s.all, func(o *sending) bool { return o == t })
	return e
}

// Ended returns what has ended since the last call; valid until the next.
func (s *Senders) Ended() []Ended {
	ended := s.ended
	s.ended = nil
	return ended
}

// Under appends the transfers under way.
func (s *Senders) Under(dst []Transfer) []Transfer {
	for _, t := range s.all {
		dst = append(dst, Transfer{To: t.to, Index: t.sender.Index(), Stats: t.sender.Stats()})
	}
	return dst
}

// Close ends all transfers.
func (s *Senders) Close() { s.Lead(0) }
