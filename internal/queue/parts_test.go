package queue

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func TestJobID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		id   JobID
		text string
	}{
		{JobID{}, "0000000000000000"},
		{JobID{Pos: 1}, "0000000000000001"},
		{JobID{Shard: 1}, "000g000000000000"},
		{JobID{Shard: 3, Pos: MakePos(1000, 7)}, ""},
		{JobID{Shard: 1<<16 - 1, Pos: 1<<64 - 1}, "zzzzzzzzzzzzzzzz"},
	} {
		text := c.id.String()
		if c.text != "" && text != c.text {
			t.Errorf("%v prints as %s, want %s", c.id, text, c.text)
		}
		if got, err := ParseJobID(text); err != nil || got != c.id {
			t.Errorf("%s parses as %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "0", "000000000000000i", "00000000000000000", "000000000000000 "} {
		if _, err := ParseJobID(bad); !errors.Is(err, ErrBadJobID) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	a, b := JobID{Shard: 2, Pos: MakePos(9, 4095)}, JobID{Shard: 2, Pos: MakePos(10, 0)}
	if a.String() >= b.String() || b.String() >= (JobID{Shard: 3}).String() {
		t.Error("ids do not sort as (shard, age)")
	}
	upper := []byte("ZZZZZZZZZZZZZZZZ")
	var id JobID
	if err := id.UnmarshalText(upper); err != nil || id.Shard != 1<<16-1 {
		t.Errorf("upper case: %v %v", id, err)
	}
	if b, err := id.MarshalText(); err != nil || string(b) != "zzzzzzzzzzzzzzzz" {
		t.Errorf("%s %v", b, err)
	}
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	exponential := Retry{Kind: RetryExponential, BaseMillis: 1000, MaxMillis: 5000}
	for _, c := range []struct {
		name     string
		retry    Retry
		failures uint32
		want     int64
	}{
		{"first", exponential, 1, 1000},
		{"second", exponential, 2, 2000},
		{"third", exponential, 3, 4000},
		{"at most the maximum", exponential, 4, 5000},
		{"for ever", exponential, 1000, 5000},
		{"no maximum of its own", Retry{Kind: RetryExponential, BaseMillis: 1000}, 1000, DelayMillisMax},
		{"base over the maximum", Retry{Kind: RetryExponential, BaseMillis: 9000, MaxMillis: 5000}, 1, 5000},
		{"no base", Retry{Kind: RetryExponential, MaxMillis: 5000}, 9, 0},
		{"fixed", Retry{Kind: RetryFixed, BaseMillis: 7}, 9, 7},
		{"list", Retry{Kind: RetryList, List: []int64{1, 2, 3}}, 2, 2},
		{"end of the list", Retry{Kind: RetryList, List: []int64{1, 2, 3}}, 9, 3},
	} {
		if got := c.retry.delay(1, c.failures); got != c.want {
			t.Errorf("%s: %d ms, want %d", c.name, got, c.want)
		}
	}
}

func TestRetryJitter(t *testing.T) {
	t.Parallel()
	r := Retry{Kind: RetryFixed, BaseMillis: 1000, JitterPercent: 20}
	seen := map[int64]bool{}
	for p := range Pos(1000) {
		d := r.delay(p, 1)
		if d < 800 || d > 1000 || d != r.delay(p, 1) {
			t.Fatalf("job %d waits %d ms", p, d)
		}
		seen[d] = true
	}
	if len(seen) < 150 {
		t.Fatalf("only %d different delays", len(seen))
	}
}

// TestRunSet compares a runSet with a sorted slice.
func TestRunSet(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := &runSet{}
		var want []Pos
		next := Pos(1)
		for range 300 {
			switch rng.IntN(8) {
			case 0, 1:
				next += Pos(rng.IntN(3))
				s.append(next)
				want = append(want, next)
				next++
			case 2, 3:
				p := Pos(rng.Int64N(int64(next)))
				if i, found := slices.BinarySearch(want, p); !found {
					s.insert(p)
					want = slices.Insert(want, i, p)
				}
			case 4:
				p := Pos(rng.Int64N(int64(next)))
				i, found := slices.BinarySearch(want, p)
				if s.contains(p) != found || s.remove(p) != found {
					t.Fatalf("remove %d: was a member: %v", p, found)
				}
				if found {
					want = slices.Delete(want, i, i+1)
				}
			case 5, 6:
				if len(want) > 0 {
					if first, ok := s.first(); !ok || first != want[0] || s.pop() != want[0] {
						t.Fatal("pop out of order")
					}
					want = want[1:]
				}
			case 7:
				s = s.clone()
			}
			checkRuns(t, s, want, Pos(rng.Int64N(int64(next))))
		}
	}
}

func checkRuns(t *testing.T, s *runSet, want []Pos, from Pos) {
	t.Helper()
	var got []Pos
	s.runs(from, func(r run) bool {
		for p := r.start; p < r.end(); p++ {
			got = append(got, p)
		}
		return true
	})
	i, _ := slices.BinarySearch(want, from)
	if !slices.Equal(got, want[i:]) || s.count != uint64(len(want)) {
		t.Fatalf("from %d: got %v, want %v (count %d)", from, got, want[i:], s.count)
	}
}

// TestPosFIFO compares a posFIFO with a slice, and a frozen copy with what it was.
func TestPosFIFO(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	f := posFIFO{first: 77, next: 77}
	var want []Pos
	for i := range Pos(20_000) {
		if rng.IntN(100) == 0 {
			frozen := f
			f = f.clone()
			checkFIFO(t, &frozen, want)
		}
		if pops := len(want) > 0 && rng.IntN(int(1+i%400)) > 100; pops {
			p, seq := f.pop()
			if p != want[0] || seq != f.first-1 {
				t.Fatalf("pop %d, want %d", p, want[0])
			}
			want = want[1:]
			continue
		}
		f.push(i)
		want = append(want, i)
		if i%500 == 0 {
			checkFIFO(t, &f, want)
		}
	}
}

func checkFIFO(t *testing.T, f *posFIFO, want []Pos) {
	t.Helper()
	var got []Pos
	f.all(func(_ uint64, p Pos) bool {
		got = append(got, p)
		return true
	})
	if !slices.Equal(got, want) {
		t.Fatalf("%d members, want %d", len(got), len(want))
	}
}

// TestCheckFindsDamage proves that CheckInvariants would see what it looks for.
func TestCheckFindsDamage(t *testing.T) {
	t.Parallel()
	image := imageOf(t, busyMachine(t))
	for name, damage := range map[string]func(*Machine){
		"fingerprint": func(m *Machine) { m.sum++ },
		"clock":       func(m *Machine) { m.now++ },
		"counter":     func(m *Machine) { m.counts[StateReady]++ },
		"queue total": func(m *Machine) { m.byID[1].totals.enqueued++ },
		"queue mask":  func(m *Machine) { m.byID[1].nonEmpty ^= 1 },
		"ended":       func(m *Machine) { m.byID[1].ended.first-- },
		"timer":       func(m *Machine) { m.arm(5, 5, timerRun) },
		"lost timer":  func(m *Machine) { m.timers.PopMin() },
		"record": func(m *Machine) {
			p, r, _ := m.records.Min()
			r.attempt++
			m.records.Set(p, r)
		},
		"lost record": func(m *Machine) { m.records.PopMin() },
		"lost extra":  func(m *Machine) { m.extras.PopMin() },
		"lost error":  func(m *Machine) { m.errors.PopMin() },
		"lost claim":  func(m *Machine) { m.claims.PopMin() },
		"claim": func(m *Machine) {
			p, c, _ := m.claims.Min()
			c.key[3]++
			m.claims.Set(p, c)
		},
		"lost key": func(m *Machine) {
			for k := range m.keys {
				delete(m.keys, k)
				return
			}
		},
		"deduplicated": func(m *Machine) { m.byID[1].totals.deduplicated++ },
		"unique":       func(m *Machine) { m.byID[1].unique++ },
		"holders": func(m *Machine) {
			key, a, _ := m.answers.Min()
			a.holders += "a"
			m.answers.Set(key, a)
		},
		"session": func(m *Machine) { m.sessions.PopMin() },
		"answer":  func(m *Machine) { m.answers.PopMin() },
		"ready": func(m *Machine) {
			for _, s := range m.byID[1].ready {
				if s != nil && s.count > 0 {
					s.pop()
					return
				}
			}
		},
	} {
		m, err := Restore(3, bytes.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		damage(m)
		if m.CheckInvariants() == nil {
			t.Errorf("%s: damage not found", name)
		}
	}
}

// TestQueueInfoAdd: what shards count of a queue adds up.
func TestQueueInfoAdd(t *testing.T) {
	t.Parallel()
	a := QueueInfo{Queue: 1, Version: 3, Deduplicated: 2, Unique: 3, Enqueued: 5, Completed: 1, Failed: 2, Crashed: 3, Died: 4, Cancelled: 5, Expired: 6, Retried: 7, Discarded: 8}
	a.ByState[StateReady], a.ByState[StateCompleted] = 3, 1
	b := QueueInfo{Queue: 1, Version: 2, Deduplicated: 5, Unique: 6, Enqueued: 10, OldestReady: 9}
	b.ByState[StateReady], b.ByState[StateDead] = 6, 1
	a.Add(&b)
	want := QueueInfo{Queue: 1, Version: 3, Deduplicated: 7, Unique: 9, Enqueued: 15, Completed: 1, Failed: 2, Crashed: 3, Died: 4, Cancelled: 5, Expired: 6, Retried: 7, Discarded: 8, OldestReady: 9}
	want.ByState[StateReady], want.ByState[StateCompleted], want.ByState[StateDead] = 9, 1, 1
	if !reflect.DeepEqual(a, want) || a.Live() != 10 {
		t.Errorf("%+v, %d live", a, a.Live())
	}
}
