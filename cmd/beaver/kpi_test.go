package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0, "%", "0 %"},
		{0.0942, "s", "0.0942 s"},
		{12.34, "ms", "12.3 ms"},
		{123.4, "µs", "123 µs"},
		{1234567, "jobs/s", "1,234,567 jobs/s"},
		{-123456, "%", "-123,456 %"},
		{-12345, "", "-12,345"},
		{-3.5, "%", "-3.5 %"},
		{2048, "B", "2.0 KiB"},
		{40, "%", "40 %"},
	} {
		if got := quantity(c.value, c.unit); got != c.want {
			t.Errorf("%v %s: %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

func TestPrintKPI(t *testing.T) {
	var out strings.Builder
	if err := printKPI(&out, []kpiFact{
		kpiFact{Part: "a", Name: "x", Value: 0.5, Unit: "s"}.below(1),
		kpiFact{Part: "a", Name: "y", Value: 0.5, Unit: "s"}.above(1),
		{Part: "b", Name: "z", Value: 7, Unit: "s", SyncRate: 8000, Note: "n"},
	}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{"a x 0.5 s < 1 s met", "a y 0.5 s > 1 s NOT met", "b z 7 s 8,000 n"} {
		if got := strings.Join(strings.Fields(lines[i+1]), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestRateFact: the turn in the middle counts, with its own disk and processor, and the note has the others.
func TestRateFact(t *testing.T) {
	turns := []benchRow{
		{JobsPerSec: 1000, P50Micros: 700, P99Micros: 1, SyncMicros: 100, CPUMicros: 3},
		{JobsPerSec: 3000, P50Micros: 950, P99Micros: 2, SyncMicros: 50, CPUMicros: 1},
		{JobsPerSec: 2000, P50Micros: 800, P99Micros: 3, SyncMicros: 80, CPUMicros: 2},
	}
	for _, c := range []struct {
		scenario kpiRateScenario
		turns    []benchRow
		want     kpiFact
	}{
		{kpiRateScenario{name: "r", target: 1500}, turns, kpiFact{
			Name: "r", Value: 2000, Unit: "jobs/s", SyncRate: 12500, Note: "fdatasync p50 80 µs, 2.0 µs of processor a job; the median of 3 turns from 1,000 to 3,000 jobs/s",
		}.above(1500)},
		{kpiRateScenario{name: "l", target: 900, latency: true}, turns, kpiFact{
			Name: "l", Value: 800, Unit: "µs", SyncRate: 12500, Note: "fdatasync p50 80 µs, p99 of the enqueue 3 µs; the median of 3 turns from 700 to 950 µs",
		}.below(900)},
		{kpiRateScenario{name: "o"}, turns[:1], kpiFact{
			Name: "o", Value: 1000, Unit: "jobs/s", SyncRate: 10000, Note: "fdatasync p50 100 µs, 3.0 µs of processor a job",
		}},
	} {
		if got := c.scenario.fact(c.turns); !reflect.DeepEqual(got, c.want) {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
}

// TestLagsOf: each sample of a leader waits for the first answer of each follower that has as much, later.
func TestLagsOf(t *testing.T) {
	start := time.Now()
	at := func(index uint64, ms int) appliedAt {
		return appliedAt{index, start.Add(time.Duration(ms) * time.Millisecond)}
	}
	led := appliedBy{1: {1: {at(10, 0), at(30, 20), at(20, 10)}}}
	held := appliedBy{1: {
		2: {at(10, 1), at(20, 13), at(19, 11), at(40, 30)},
		3: {at(40, 5), at(41, 15)}, // never behind; and it says nothing after the last sample
	}}
	lags := lengths(lagsOf(led, held))
	var want []time.Duration
	for _, ms := range []int{1, 3, 5, 5, 10} {
		want = append(want, time.Duration(ms)*time.Millisecond)
	}
	if !slices.Equal(lags, want) {
		t.Errorf("got %v, want %v", lags, want)
	}

	// A question of 300 ms, beside others that tell when the leader had as much.
	led = appliedBy{1: {1: {at(60, 0), at(10, 1), at(50, 290), at(60, 299)}}}
	held = appliedBy{1: {2: {at(10, 2), at(50, 292), at(60, 301)}}}
	lags, want = lengths(lagsOf(led, held)), nil
	for _, ms := range []int{1, 2, 2, 11} {
		want = append(want, time.Duration(ms)*time.Millisecond)
	}
	if !slices.Equal(lags, want) {
		t.Errorf("got %v, want %v", lags, want)
	}
}

// TestLagsOfLost: who never has as much lags until its last answer.
func TestLagsOfLost(t *testing.T) {
	start := time.Now()
	at := func(index uint64, ms int) appliedAt {
		return appliedAt{index, start.Add(time.Duration(ms) * time.Millisecond)}
	}
	led := appliedBy{1: {1: {at(10, 0), at(11, 50)}}}
	held := appliedBy{1: {2: {at(9, 1), at(9, 40)}, 3: {at(10, 1), at(10, 70), at(10, 60)}}}
	if got, want := lengths(lagsOf(led, held)), []time.Duration{1e6, 20e6, 40e6}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestLagsOfMovedLead: a node that led until a moment ago has what it had applied then.
func TestLagsOfMovedLead(t *testing.T) {
	start := time.Now()
	at := func(index uint64, ms int) appliedAt {
		return appliedAt{index, start.Add(time.Duration(ms) * time.Millisecond)}
	}
	led := appliedBy{1: {1: {at(10, 0), at(11, 10)}, 2: {at(11, 18), at(30, 200)}}}
	held := appliedBy{1: {
		1: {at(10, 1), at(11, 11), at(12, 19), at(30, 203)},
		2: {at(9, 1), at(10, 2), at(11, 12), at(30, 201)},
	}}
	if got, want := lengths(lagsOf(led, held)), []time.Duration{1e6, 2e6, 2e6, 3e6}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// lengths are how long spans are, the shortest first.
func lengths(spans []span) (all []time.Duration) {
	for _, s := range spans {
		all = append(all, s.length())
	}
	slices.Sort(all)
	return all
}

// TestLagFacts: beside a lag of 1 ms, the target is for the lag without what the disk stood still meanwhile; the whole lag is told as well.
func TestLagFacts(t *testing.T) {
	start := time.Now()
	ms := func(from, to int) span {
		return span{start.Add(time.Duration(from) * time.Millisecond), start.Add(time.Duration(to) * time.Millisecond)}
	}
	watch := &diskWatch{}
	for _, s := range []span{ms(0, 24), ms(30, 55), ms(100, 400), ms(450, 475)} {
		watch.note(s)
	}
	if len(watch.stalls) != 3 || watch.syncs != 4 || watch.slowest != 300*time.Millisecond {
		t.Fatalf("got %+v", watch)
	}
	for _, c := range []struct {
		name string
		lag  span
		max  float64
		own  float64
	}{
		{"no stall", ms(0, 24), 24, 24},
		{"in a stall", ms(150, 350), 200, 1},
		{"it begins in a stall", ms(390, 420), 30, 20},
		{"it ends in a stall", ms(90, 110), 20, 10},
		{"around three", ms(0, 500), 500, 150},
		{"between two", ms(400, 450), 50, 50},
	} {
		facts, err := lagFacts([]span{c.lag, ms(0, 1)}, watch, watch, "n")
		if err != nil || facts[2].Value != c.max || facts[3].Value != c.own || *facts[3].Met != (c.own < 100) {
			t.Errorf("%s: got %+v, %v", c.name, facts, err)
		}
	}
	if _, err := lagFacts(nil, watch, watch, "n"); err == nil {
		t.Error("no sample is no error")
	}
}
