package main

import (
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
	lags := lagsOf(led, held)
	slices.Sort(lags)
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
	lags, want = lagsOf(led, held), nil
	slices.Sort(lags)
	for _, ms := range []int{1, 2, 2, 11} {
		want = append(want, time.Duration(ms)*time.Millisecond)
	}
	if !slices.Equal(lags, want) {
		t.Errorf("got %v, want %v", lags, want)
	}
}
