package shard

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/wal"
)

// leader returns a group of one that leads.
func leader(t testing.TB, edit func(*Config)) (*Shard, *crashLog) {
	t.Helper()
	conf, err := GenesisConfState([]ReplicaID{1})
	if err != nil {
		t.Fatal(err)
	}
	log := newCrashLog()
	cfg := Config{ID: 7, Replica: 1, Log: log, Machine: &journal{}}
	if edit != nil {
		edit(&cfg)
	}
	s, err := Open(cfg, Restored{GenesisIndex, GenesisTerm, conf})
	if err == nil {
		err = s.CampaignAlone()
	}
	if err != nil {
		t.Fatal(err)
	}
	turn(t, s, log)
	if leading, _ := s.Leading(); !leading || s.NeedsTicks() {
		t.Fatalf("leading %v, needs ticks %v", leading, s.NeedsTicks())
	}
	return s, log
}

// turn carries out everything; all of it is durable at once.
func turn(t testing.TB, s *Shard, log *crashLog) {
	t.Helper()
	for s.HasReady() {
		eff, err := s.Ready()
		if err != nil {
			t.Fatal(err)
		}
		log.append(eff.Append.HardState, eff.Append.Entries)
		log.sync()
		if err := s.AppendDone(eff.Append.Done); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(eff.Committed); err != nil {
			t.Fatal(err)
		}
	}
}

func batchOf(bodies ...string) []byte {
	var b BatchBuilder
	b.Add(itemsOf(bodies...))
	return b.Seal(Header{Stamp: 1, Proposer: 1, Sequence: 1})
}

// The builder's memory is used again right after Propose: the library must have copied it.
func TestProposeCopies(t *testing.T) {
	t.Parallel()
	s, log := leader(t, nil)
	data := batchOf("kept")
	if err := s.Propose(data); err != nil {
		t.Fatal(err)
	}
	clear(data)
	turn(t, s, log)
	index, _, _ := s.Applied()
	if _, item, ok, err := s.CachedItem(index, 0); !ok || err != nil || string(item) != "kept" {
		t.Fatalf("cached item %q, %v, %v", item, ok, err)
	}
}

func TestCacheBound(t *testing.T) {
	t.Parallel()
	const size = 1000
	s, log := leader(t, func(c *Config) { c.CacheBytes = 10 * size })
	for range 50 {
		if err := s.Propose(batchOf(strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
		turn(t, s, log)
		if s.store.cache.bytes > 10*size {
			t.Fatalf("the cache has %d bytes", s.store.cache.bytes)
		}
	}
	last, _, _ := s.Applied()
	if _, _, ok, err := s.CachedItem(last, 0); !ok || err != nil {
		t.Errorf("the newest entry is not cached: %v", err)
	}
	if _, _, ok, _ := s.CachedItem(last-20, 0); ok {
		t.Error("an old entry is still cached")
	}
	if _, _, ok, err := s.CachedItem(last, 1); !ok || !errors.Is(err, ErrNoItem) {
		t.Errorf("an ordinal past the end: %v, %v", ok, err)
	}
}

// Below the cache the shard reads its log, and gets the same.
func TestReplayBeyondCache(t *testing.T) {
	t.Parallel()
	s, log := leader(t, func(c *Config) { c.CacheBytes = 1 })
	want := s.cfg.Machine.(*journal)
	for word := range strings.FieldsSeq("the quick brown fox") {
		if err := s.Propose(batchOf(word)); err != nil {
			t.Fatal(err)
		}
	}
	turn(t, s, log)
	conf, err := s.ConfState()
	if err != nil {
		t.Fatal(err)
	}
	again := &journal{}
	r, err := Open(Config{ID: 7, Replica: 1, Log: log, Machine: again}, Restored{GenesisIndex, GenesisTerm, conf})
	if err != nil {
		t.Fatal(err)
	}
	turn(t, r, log)
	if got, want := strings.Join(again.text, " "), strings.Join(want.text, " "); got != want || want != "the quick brown fox" {
		t.Fatalf("replayed %q, want %q", got, want)
	}
}

// Over the limit of uncommitted bytes a proposal is dropped; what was accepted before is not harmed.
func TestUncommittedLimit(t *testing.T) {
	t.Parallel()
	s, log := leader(t, func(c *Config) { c.UncommittedBytes = 1 }) // a batch of any size is taken when nothing is uncommitted
	big := batchOf(strings.Repeat("x", CommandBytesMax))
	if err := s.Propose(big); err != nil {
		t.Fatal(err)
	}
	if err := s.Propose(big); !errors.Is(err, ErrDropped) {
		t.Fatalf("a proposal over the limit: %v", err)
	}
	turn(t, s, log)
	if err := s.Propose(big); err != nil {
		t.Fatalf("after the first was applied: %v", err)
	}
}

// A change of members that was dropped, since too much was uncommitted, makes the library put an empty entry in the place of the next one. That
// does not count as one under way for ever.
func TestChangeAfterADroppedOne(t *testing.T) {
	t.Parallel()
	s, log := leader(t, func(c *Config) { c.UncommittedBytes = 1 })
	if err := s.Propose(batchOf("x")); err != nil {
		t.Fatal(err)
	}
	change := Change{Kind: AddLearner, Replica: NewReplicaID(2, 0)}
	if _, err := s.ChangeMembers(change); !errors.Is(err, ErrDropped) {
		t.Fatalf("a change over the limit: %v", err)
	}
	tries := 0
	for members := s.Members(); len(members.Learners) == 0; members = s.Members() {
		if tries++; tries > 2 {
			t.Fatal("the change is not made")
		}
		turn(t, s, log)
		if _, err := s.ChangeMembers(change); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ChangeMembers(change); !errors.Is(err, ErrChangePending) {
			t.Fatalf("a second change: %v", err)
		}
		turn(t, s, log)
	}
	if tries != 2 {
		t.Errorf("the change was made at try %d: the library does not replace it any more", tries)
	}
}

// Snapshot and log that do not belong together are refused, and the error says what is wrong.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	conf, err := GenesisConfState([]ReplicaID{1})
	if err != nil {
		t.Fatal(err)
	}
	logOf := func(s wal.ShardState) *crashLog { return &crashLog{now: logState{state: s, term: 1}} }
	good := wal.ShardState{First: 2, Last: 1}
	for _, tc := range []struct {
		name string
		log  *crashLog
		snap Restored
		want string
	}{
		{"log ends early", logOf(good), Restored{9, 3, conf}, "the log ends at index 1, the snapshot is of index 9"},
		{"log begins late", logOf(wal.ShardState{First: 12, Last: 20}), Restored{9, 3, conf}, "the log begins at index 12"},
		{"committed is gone", logOf(wal.ShardState{First: 2, Last: 5, HardState: wal.HardState{Term: 1, Commit: 6}}), Restored{1, 1, conf}, "index 6 was committed"},
		{"other term at the snapshot", logOf(good), Restored{1, 2, conf}, "entry 1 of the log has term 1, the snapshot of it has 2"},
		{"no index", logOf(good), Restored{0, 0, conf}, "names index 0"},
		{"no voters", logOf(good), Restored{1, 1, nil}, "no voters"},
		{"garbage voters", logOf(good), Restored{1, 1, bytes.Repeat([]byte{0xff}, 9)}, "unreadable"},
	} {
		_, err := Open(Config{ID: 7, Replica: 1, Log: tc.log, Machine: &journal{}}, tc.snap)
		var se *StateError
		if !errors.As(err, &se) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// A snapshot of a term that the replica had not heard of tells that term, in which it has voted for nobody; any other leaves the vote.
func TestTermOfSnapshot(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		snapshot   uint64
		term, vote uint64
	}{{5, 7, 2}, {7, 7, 2}, {8, 8, 0}} {
		log := &crashLog{now: logState{state: wal.ShardState{First: 10, Last: 9, HardState: wal.HardState{Term: 7, Vote: 2, Commit: 4}}, term: tc.snapshot}}
		s, err := openStorage(Config{ID: 7, Replica: 1, Log: log}, Restored{9, tc.snapshot, nil}, nil)
		if err != nil {
			t.Fatal(err)
		}
		hard, _, err := s.InitialState()
		if err != nil || hard.GetTerm() != tc.term || hard.GetVote() != tc.vote || hard.GetCommit() != 9 {
			t.Errorf("a snapshot of term %d under term 7: %v, %v; want term %d, vote %d, commit 9", tc.snapshot, hard, err, tc.term, tc.vote)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{Replica: 0, Log: newCrashLog(), Machine: &journal{}},
		{Replica: 1, Machine: &journal{}},
		{Replica: 1, Log: newCrashLog()},
		{Replica: 1, Log: newCrashLog(), Machine: &journal{}, ElectionTicks: 3, HeartbeatTicks: 3},
	} {
		if _, err := Open(c, Restored{}); err == nil {
			t.Errorf("accepted: %+v", c)
		}
	}
	for _, voters := range [][]ReplicaID{nil, {0}, {1, 1}, {1 << nodeBits}, make([]ReplicaID, VotersMax+1)} {
		if _, err := GenesisConfState(voters); err == nil {
			t.Errorf("voters accepted: %v", voters)
		}
	}
}

// BenchmarkPropose is one batch through the library and the machine, without a disk.
func BenchmarkPropose(b *testing.B) {
	for _, size := range []int{100, 64 << 10, 256 << 10} {
		b.Run(byteSize(size), func(b *testing.B) {
			s, log := leader(b, func(c *Config) { c.Machine = nullMachine{} })
			data := batchOf(strings.Repeat("x", size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Propose(data); err != nil {
					b.Fatal(err)
				}
				for s.HasReady() {
					eff, err := s.Ready()
					if err == nil {
						err = s.AppendDone(eff.Append.Done)
					}
					if err == nil {
						err = s.Apply(eff.Committed)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			_ = log
		})
	}
}

func byteSize(n int) string {
	if n < 1<<10 {
		return "100B"
	}
	return map[int]string{64 << 10: "64KiB", 256 << 10: "256KiB"}[n]
}

// nullMachine applies nothing.
type nullMachine struct{}

func (nullMachine) Apply(uint64, Header, [][]byte) {}
func (nullMachine) Fingerprint() uint64            { return 0 }
func (nullMachine) Snapshot() Image                { return nil }
func (nullMachine) Restore(io.Reader) error        { return nil }
