package main

import "testing"

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "1048576": 1 << 20, "16MiB": 16 << 20, "16mib": 16 << 20, "1 GiB": 1 << 30, "3KiB": 3 << 10, "7B": 7,
		"9223372036854775807": 1<<63 - 1, "8589934591GiB": 8589934591 << 30,
	} {
		if n, err := parseSize(text); err != nil || n != want {
			t.Errorf("%q is %d, %v", text, n, err)
		}
	}
	for text, want := range map[string]error{
		"": errNoSize, "MiB": errNoSize, "-1": errNoSize, "1.5MiB": errNoSize, "16MB": errNoSize, "16M": errNoSize, "0x10": errNoSize, "ten": errNoSize,
		"9223372036854775808": errSizeTooGreat, "8589934592GiB": errSizeTooGreat,
	} {
		if n, err := parseSize(text); err != want { //nolint:errorlint // exactly this one
			t.Errorf("%q is %d, %v, want %v", text, n, err, want)
		}
	}
	for n, want := range map[int]string{0: "", 1: "1B", 1 << 10: "1KiB", 1<<10 + 1: "1025B", 64 << 20: "64MiB", 1 << 30: "1GiB"} {
		if s := sizeValue(n); s.String() != want {
			t.Errorf("%d is %q, want %q", n, s.String(), want)
		}
	}
}
