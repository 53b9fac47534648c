package main

import (
	"context"
	"fmt"
	"testing"
)

// TestDemoFeed: what is held back is not taken before it is released, single files always are, and each comes once.
func TestDemoFeed(t *testing.T) {
	f := demoFeed{changed: make(chan struct{})}
	for i := range 2*demoProbes + 10 {
		f.files = append(f.files, fmt.Sprint(i))
	}
	seen := make(map[string]bool)
	take := func(want int) {
		t.Helper()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		files, err := f.take(ended, 1000)
		if len(files) != want || (want == 0) != (err != nil) {
			t.Fatalf("%d files, %v; want %d", len(files), err, want)
		}
		for _, name := range files {
			seen[name] = true
		}
	}
	take(0)
	f.release(0.5)
	take((demoProbes + 10) / 2)
	take(0)
	for range demoProbes {
		name, err := f.takeNow()
		if err != nil {
			t.Fatal(err)
		}
		seen[name] = true
	}
	f.release(0.7) // less than what is taken
	take(0)
	f.releaseAll()
	take(demoProbes + 10 - (demoProbes+10)/2)
	if len(seen) != len(f.files) {
		t.Errorf("%d different files, want %d", len(seen), len(f.files))
	}
	if files, err := f.take(t.Context(), 1); len(files) != 0 || err != nil {
		t.Errorf("at the end: %v, %v", files, err)
	}
	if name, err := f.takeNow(); err == nil {
		t.Errorf("at the end: %s", name)
	}
}
