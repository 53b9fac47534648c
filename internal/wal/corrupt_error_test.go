package wal

import "testing"

// TestCorruptErrorText: what is not known is not said.
func TestCorruptErrorText(t *testing.T) {
	for want, e := range map[string]CorruptError{
		"f is damaged at offset 7: r":                    {File: "f", Offset: 7, Reason: "r"},
		"f is damaged at offset 7 (shard 3): r":          {File: "f", Offset: 7, Shard: 3, Reason: "r"},
		"f is damaged at offset 7 (shard 0, index 5): r": {File: "f", Offset: 7, Index: 5, Reason: "r"},
		"f is damaged at offset 0 (shard 3, index 5): r": {File: "f", Shard: 3, Index: 5, Reason: "r"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
