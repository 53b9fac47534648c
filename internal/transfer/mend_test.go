package transfer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/wal"
)

// mendLog is a log in memory, with what is damaged in it.
type mendLog struct {
	entries map[uint64]wal.Entry
	damaged map[uint64]bool
	wanted  []wal.Name
	held    uint64
	lost    []uint64
	full    bool
}

func (l *mendLog) Read(_ wal.ShardID, index uint64) (wal.Entry, error) {
	e, ok := l.entries[index]
	switch {
	case l.damaged[index]:
		return e, &wal.CorruptError{Index: index}
	case !ok:
		return e, wal.ErrCompacted
	}
	return e, nil
}

func (l *mendLog) Held(wal.ShardID) uint64 { return l.held }

func (l *mendLog) Wanted(_ wal.ShardID, from uint64, count int) []wal.Name {
	at := 0
	for at < len(l.wanted) && l.wanted[at].Index < from {
		at++
	}
	return l.wanted[at:min(len(l.wanted), at+count)]
}

func (l *mendLog) Mend(_ wal.ShardID, e *wal.Entry) error {
	if l.full {
		return wal.ErrBacklogged
	}
	at := slices.IndexFunc(l.wanted, func(n wal.Name) bool { return n.Index == e.Index })
	if at < 0 {
		return nil
	}
	if crc := testEntry(0, string(e.Data)).crc; !l.wanted[at].Names(e, crc) {
		return wal.ErrNotNamed
	}
	l.wanted = slices.Delete(slices.Clone(l.wanted), at, at+1)
	return nil
}

func (l *mendLog) GiveUp(_ wal.ShardID, index uint64) { l.lost = append(l.lost, index) }

func (l *mendLog) NoteDamage(wal.ShardID, uint64) <-chan struct{} { return nil }

// nameOf is the name of a test entry.
func nameOf(index uint64, data string) wal.Name {
	e := testEntry(index, data)
	return wal.Name{Index: index, Term: e.Term, Known: true, Type: e.Type, Bytes: len(data), CRC: e.crc}
}

func logOf(held uint64, entries ...entry) *mendLog {
	l := &mendLog{entries: map[uint64]wal.Entry{}, damaged: map[uint64]bool{}, held: held}
	for i := range entries {
		l.entries[entries[i].Index] = entries[i].Entry
	}
	return l
}

func serve(t *testing.T, l *mendLog, request []byte, maxBytes int) []byte {
	t.Helper()
	answer, err := Serve(7, l, request, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// A peer answers with the very entry, or with what the group committed; else it says whether its own is damaged.
func TestServe(t *testing.T) {
	t.Parallel()
	peer := logOf(20, testEntry(11, "one"), testEntry(12, "two"), testEntry(13, "three"), testEntry(30, "open"))
	peer.damaged[13] = true
	other := nameOf(12, "two")
	other.Term = 9
	request := appendWant(nil, 7, 3, []wal.Name{
		nameOf(11, "one"), other, nameOf(13, "three"), {Index: 14}, nameOf(30, "open"),
	})
	c, err := decode(serve(t, peer, request, 1<<20))
	if err != nil || c.transfer != 3 || c.index != 30 {
		t.Fatalf("%+v, %v", c, err)
	}
	for i, want := range []struct {
		index uint64
		flags byte
		data  string
	}{{11, 0, "one"}, {12, flagAbsent, ""}, {13, flagDamaged, ""}, {14, flagAbsent, ""}, {30, 0, "open"}} {
		if e := &c.entries[i]; e.Index != want.index || e.flags != want.flags || string(e.Data) != want.data {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	// Without a term only what is committed will do.
	for index, flags := range map[uint64]byte{12: 0, 30: flagAbsent} {
		c, err := decode(serve(t, peer, appendWant(nil, 7, 4, []wal.Name{{Index: index}}), 1<<20))
		if err != nil || c.entries[0].flags != flags {
			t.Errorf("entry %d by its index alone: %+v, %v", index, c.entries, err)
		}
	}
	// At least one is sent, and no more than fits.
	request = appendWant(nil, 7, 5, []wal.Name{nameOf(11, "one"), nameOf(12, "two")})
	if c, err := decode(serve(t, peer, request, 0)); err != nil || len(c.entries) != 1 {
		t.Errorf("in no room: %+v, %v", c.entries, err)
	}
	for what, b := range map[string][]byte{"an acknowledgement": samples()["ack"], "nothing": nil, "of another shard": appendWant(nil, 8, 1, testNames)} {
		if _, err := Serve(7, peer, b, 1<<20); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Peers are asked in turn, each for what it has not refused yet; answers that are late or of others change nothing.
func TestMender(t *testing.T) {
	t.Parallel()
	mine := logOf(20)
	mine.wanted = []wal.Name{nameOf(11, "one"), nameOf(12, "two")}
	peers := map[PeerID]*mendLog{1: logOf(20, testEntry(11, "one")), 2: logOf(20, testEntry(12, "two"), testEntry(11, "one"))}
	m := NewMender(7, mine)
	ids := []PeerID{1, 2}
	to, request, ok := m.Next(0, ids)
	if !ok || to != 2 {
		t.Fatalf("asks %d, %v", to, ok)
	}
	if _, _, again := m.Next(MendTimeout-1, ids); again {
		t.Error("asks before an answer or a timeout")
	}
	if pause, ok := m.Pause(MendTimeout / 2); !ok || pause != MendTimeout/2 {
		t.Errorf("pauses %v, %v", pause, ok)
	}
	late := serve(t, peers[2], request, 1<<20)
	if to, request, ok = m.Next(MendTimeout, ids); !ok || to != 1 {
		t.Fatalf("asks %d, %v", to, ok)
	}
	if err := m.Accept(MendTimeout, late); err != nil || len(mine.wanted) != 2 {
		t.Errorf("a late answer was taken: %v", err)
	}
	if err := m.Accept(MendTimeout, serve(t, peers[1], request, 1<<20)); err != nil || len(mine.wanted) != 1 {
		t.Errorf("wanted are %v, %v", mine.wanted, err)
	}
	to, request, ok = m.Next(MendTimeout, ids)
	if !ok || to != 2 {
		t.Fatalf("asks %d, %v", to, ok)
	}
	mine.full = true
	if err := m.Accept(MendTimeout, serve(t, peers[2], request, 1<<20)); err != nil || len(mine.wanted) != 1 {
		t.Errorf("wanted are %v, %v", mine.wanted, err)
	}
	mine.full = false
	if _, _, ok := m.Next(MendTimeout, ids); ok {
		t.Error("asks at once though nothing could be taken")
	}
	if to, request, ok = m.Next(2*MendTimeout, ids); !ok || to != 2 {
		t.Fatalf("asks %d, %v", to, ok) // 1 does not have it
	}
	if err := m.Accept(2*MendTimeout, serve(t, peers[2], request, 1<<20)); err != nil || len(mine.wanted) != 0 {
		t.Errorf("wanted are %v, %v", mine.wanted, err)
	}
	if _, _, ok := m.Next(3*MendTimeout, ids); ok || len(mine.lost) > 0 {
		t.Errorf("asks for nothing, or has lost %v", mine.lost)
	}
	if err := m.Accept(0, samples()["ack"]); !errors.Is(err, ErrMalformed) {
		t.Errorf("an acknowledgement: %v", err)
	}
}

// What every peer lost too is given up at once, what is behind on one when too much time has passed; both are asked for again.
func TestMenderGivesUp(t *testing.T) {
	t.Parallel()
	for _, damaged := range []bool{true, false} {
		var out strings.Builder
		mine, peer := logOf(20), logOf(20, testEntry(11, "one"))
		mine.wanted = []wal.Name{nameOf(11, "one")}
		peer.damaged[11] = damaged
		if !damaged {
			peer.entries = nil
		}
		m := NewMender(7, mine)
		asked := 0
		gave := time.Duration(-1)
		for now := time.Duration(0); now <= 2*MendGiveUp; now += 100 * time.Millisecond {
			if _, request, ok := m.Next(now, []PeerID{5}); ok {
				asked++
				if err := m.Accept(now, serve(t, peer, request, 1<<20)); err != nil {
					t.Fatal(err)
				}
			}
			if len(mine.lost) > 0 && gave < 0 {
				gave = now
			}
		}
		fmt.Fprintf(&out, "asked %d times, given up after %v, %d times", asked, gave, len(mine.lost))
		want := map[bool]string{
			true: "asked 12 times, given up after 100ms, 1 times", false: "asked 12 times, given up after 1m0.6s, 1 times",
		}[damaged]
		if out.String() != want {
			t.Errorf("damaged %v: %s, want %s", damaged, &out, want)
		}
	}
}
