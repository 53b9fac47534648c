package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	// durationHint is how a duration is written.
	durationHint = "write it like 30s, 15m or 1h30m"
	// durationMax is the longest that jobs, queues and policies take: ten years.
	durationMax = 10 * 365 * 24 * time.Hour
)

// flagRange is where a flag has the text that says what it takes.
const flagRange = "beaver_range"

// takes says what a flag takes, for the error of a value that is far out of it.
func takes(flags *pflag.FlagSet, name, text string) {
	f := flags.Lookup(name)
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[flagRange] = []string{text}
}

// explainFlag makes an error of a flag's value one that says what is right. Others it returns as they are.
func explainFlag(_ *cobra.Command, err error) error {
	if wrong, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return wrongValue(wrong.GetFlag(), "--"+wrong.GetFlag().Name, wrong.GetValue(), errors.Unwrap(wrong))
	}
	return err
}

// wrongValue says why a flag does not take a value, and what it takes. where is how the value was given: by flag or variable.
func wrongValue(f *pflag.Flag, where, value string, err error) error {
	use := f.Annotations[flagRange]
	switch kind := f.Value.Type(); kind {
	case "duration":
		if err = durationError(value, use...); err == nil {
			err = fmt.Errorf("%q is not a duration; %s", value, durationHint)
		}
		return fmt.Errorf("%s: %w", where, err)
	case "int", "int64", "uint64":
		if isWhole(value) {
			if len(use) == 0 {
				use = []string{"a smaller number"}
			}
			if value[0] == '-' && kind == "uint64" {
				use = []string{"0 or more"}
			}
			return fmt.Errorf("%s: %s is out of range; use %s", where, value, use[0])
		}
		hint := "use digits alone"
		if len(use) > 0 {
			hint = "use " + use[0]
		}
		return fmt.Errorf("%s: %q is not a whole number; %s", where, value, hint)
	case "bool":
		return fmt.Errorf("%s: %q is neither true nor false", where, value)
	case "size":
		if errors.Is(err, errSizeTooGreat) && len(use) > 0 {
			return fmt.Errorf("%s: %q %w; use %s", where, value, err, use[0])
		}
		return fmt.Errorf("%s: %q %w", where, value, err)
	case "stringToString":
		return fmt.Errorf("%s: %q is not a pair; write it like tenant=42", where, value)
	}
	return fmt.Errorf("%s: %q: %w", where, value, err)
}

// isWhole tells a whole number of whatever size.
func isWhole(s string) bool {
	digits := strings.TrimLeft(strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+"), "0123456789")
	return digits == "" && strings.ContainsAny(s, "0123456789")
}

// parseDuration reads a duration. use is what it may be, instead of what most durations may be.
func parseDuration(text string, use ...string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, durationError(text, use...)
	}
	return d, nil
}

// durationError says why a text is no duration: too long to be counted, without a unit, or none at all. It is nil for one
// that is a duration.
func durationError(text string, use ...string) error {
	if _, err := time.ParseDuration(text); err == nil {
		return nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Errorf("%q has no unit; %s", text, durationHint)
	}
	if _, err := time.ParseDuration(shorten(text)); err == nil {
		what := "too long"
		if text[0] == '-' {
			what = "negative"
		}
		if len(use) == 0 {
			use = []string{fmt.Sprintf("0 to %.0fh (ten years)", durationMax.Hours())}
		}
		return fmt.Errorf("%q is %s; use %s", text, what, use[0])
	}
	if _, err := time.ParseDuration(strings.NewReplacer("d", "h", "w", "h").Replace(shorten(text))); err == nil {
		return fmt.Errorf("%q has a unit that is not known; use hours: a day is 24h, a week 168h", text)
	}
	return fmt.Errorf("%q is not a duration; %s", text, durationHint)
}

// shorten leaves the last digit of each number.
func shorten(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if isDigit(text[i]) && i+1 < len(text) && isDigit(text[i+1]) {
			continue
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
