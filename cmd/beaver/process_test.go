package main

import (
	"io"
	"strings"
	"testing"
)

// TestLastWords: why a server ended before it was ready is in what it said last.
func TestLastWords(t *testing.T) {
	var all strings.Builder
	w := &lastWords{to: &all}
	long := strings.Repeat("x", 3*lastWordsBytes)
	for _, said := range []string{"one\n", long, "\nbeaver: listen on ", "127.0.0.1:1: address already in use\n"} {
		if n, err := io.WriteString(w, said); n != len(said) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if got := w.line(); got != "beaver: listen on 127.0.0.1:1: address already in use" {
		t.Errorf("the last line is %q", got)
	}
	if !strings.HasPrefix(all.String(), "one\nxx") || len(w.tail) > lastWordsBytes {
		t.Errorf("%d bytes were passed on, and %d kept", all.Len(), len(w.tail))
	}
	if got := (&lastWords{to: io.Discard}).line(); got != "" {
		t.Errorf("of nothing the last line is %q", got)
	}
}
