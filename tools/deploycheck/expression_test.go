package main

import (
	"slices"
	"testing"
)

func TestVectors(t *testing.T) {
	for promQL, want := range map[string][]string{
		`up{job="beaver"} == 0`: {`up{job="beaver"}`},
		`a / b < 0.1`:           {`a / b`},
		`max by (q) (a{x="1 and 2 > 3"}) > 0 and (b > 1)`: {`max by (q) (a{x="1 and 2 > 3"})`, `(b > 1)`},
		`a > 1 and on (instance, peer) b == 1`:            {`a`, `b`},
		`a{x="\" > "} != 1`:                               {`a{x="\" > "}`},
		`a`:                                               {`a`},
	} {
		if got := vectors(promQL); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", promQL, got, want)
		}
	}
}
