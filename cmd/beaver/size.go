package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// sizeValue is a flag that takes a number of bytes, with or without a unit.
type sizeValue int

var _ pflag.Value = (*sizeValue)(nil)

// sizeUnits are the units that a size may have, from the largest on.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

var (
	errNoSize       = errors.New("is not a size; write it like 16MiB, with KiB, MiB or GiB, or as a number of bytes")
	errSizeTooGreat = errors.New("is too large")
)

// Set implements pflag.Value.
func (s *sizeValue) Set(text string) error {
	n, err := parseSize(text)
	if err == nil && n > math.MaxInt {
		err = errSizeTooGreat
	}
	if err != nil {
		return err
	}
	*s = sizeValue(n)
	return nil
}

// String implements pflag.Value. Zero, which is the default of whoever takes it, is empty.
func (s *sizeValue) String() string {
	if *s == 0 {
		return ""
	}
	for _, u := range sizeUnits {
		if int64(*s)%u.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(*s)/u.bytes, u.name)
		}
	}
	return ""
}

// Type implements pflag.Value.
func (s *sizeValue) Type() string { return "size" }

// parseSize reads a number of bytes: digits, and a unit whose case does not count.
func parseSize(text string) (int64, error) {
	digits, unit := text, int64(1)
	for _, u := range sizeUnits {
		if n := len(text) - len(u.name); n > 0 && strings.EqualFold(text[n:], u.name) {
			digits, unit = strings.TrimSpace(text[:n]), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && int64(n) > math.MaxInt64/unit:
		return 0, errSizeTooGreat
	case err != nil:
		return 0, errNoSize
	}
	return int64(n) * unit, nil
}
