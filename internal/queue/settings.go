package queue

import (
	"errors"
	"fmt"
)

// The defaults of Settings, and of an anonymous lease.
const (
	MaxAttemptsDefault = 25
	RetryBaseDefault   = 1000
	RetryMaxDefault    = 3600 * 1000
	RetryJitterDefault = 20
	PoisonLimitDefault = 5
	KeepEndedDefault   = 1000
	DepthMaxDefault    = 100_000_000
	LeaseMillisDefault = 60 * 1000
	jitterPercentMax   = 100
	timeoutNone        = -1
)

// ErrInvalid is what every error of Validate wraps.
var ErrInvalid = errors.New("invalid")

func invalid(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

func tooLarge(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...), TooLarge: true}
}

// FieldError names a field that breaks a limit.
type FieldError struct {
	Field    string // as in the API, e.g. "max_attempts"
	Message  string
	TooLarge bool // it has too many bytes or items, which says nothing against each of them
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// Unwrap returns ErrInvalid.
func (e *FieldError) Unwrap() error { return ErrInvalid }

// DefaultSettings returns the settings of a queue that sets none.
func DefaultSettings() Settings { return Settings{}.WithDefaults() }

// WithDefaults returns s with its zero fields replaced by their defaults.
func (s Settings) WithDefaults() Settings {
	if s.MaxAttempts == 0 {
		s.MaxAttempts = MaxAttemptsDefault
	}
	if s.Retry.Kind == RetryDefault {
		s.Retry = Retry{
			Kind: RetryExponential, JitterPercent: RetryJitterDefault,
			BaseMillis: RetryBaseDefault, MaxMillis: RetryMaxDefault,
		}
	}
	if s.PoisonLimit == 0 {
		s.PoisonLimit = PoisonLimitDefault
	}
	if s.KeepEnded == 0 {
		s.KeepEnded = KeepEndedDefault
	}
	if s.DepthMax == 0 {
		s.DepthMax = DepthMaxDefault
	}
	return s
}

// Validate names the first field that breaks a limit. Zero fields are valid: they mean the default.
func (s *Settings) Validate() error {
	switch {
	case s.MaxAttempts > MaxAttemptsMax:
		return invalid("max_attempts", "is %d; at most %d are allowed", s.MaxAttempts, MaxAttemptsMax)
	case s.TimeoutMillis < 0 || s.TimeoutMillis > DelayMillisMax:
		return invalid("timeout", "is %d ms; want 0 (none) to %d ms", s.TimeoutMillis, int64(DelayMillisMax))
	case s.PoisonLimit > PoisonLimitMax:
		return invalid("poison_limit", "is %d; at most %d are allowed", s.PoisonLimit, PoisonLimitMax)
	case s.KeepEnded > KeepEndedMax:
		return invalid("keep_ended", "is %d; at most %d are allowed", s.KeepEnded, KeepEndedMax)
	}
	return s.Retry.validate()
}

func (r *Retry) validate() error {
	switch r.Kind {
	case RetryDefault, RetryNever:
		return nil
	case RetryExponential, RetryFixed, RetryList:
	default:
		return invalid("retry.kind", "is %d; want a known policy", r.Kind)
	}
	if r.JitterPercent > jitterPercentMax {
		return invalid("retry.jitter_percent", "is %d; at most %d are allowed", r.JitterPercent, jitterPercentMax)
	}
	if r.Kind == RetryList {
		if len(r.List) == 0 {
			return invalid("retry.list", "has no delays; want 1 to %d", RetryListMax)
		}
		if len(r.List) > RetryListMax {
			return tooLarge("retry.list", "has %d delays; at most %d are allowed", len(r.List), RetryListMax)
		}
		for i, d := range r.List {
			if d < 0 || d > DelayMillisMax {
				return invalid("retry.list", "delay %d is %d ms; want 0 to %d ms", i+1, d, int64(DelayMillisMax))
			}
		}
		return nil
	}
	if r.BaseMillis < 0 || r.BaseMillis > DelayMillisMax {
		return invalid("retry.base", "is %d ms; want 0 to %d ms", r.BaseMillis, int64(DelayMillisMax))
	}
	if r.MaxMillis < 0 || r.MaxMillis > DelayMillisMax {
		return invalid("retry.max", "is %d ms; want 0 (no limit but %d) to %d ms",
			r.MaxMillis, int64(DelayMillisMax), int64(DelayMillisMax))
	}
	return nil
}

// delay is how long a job waits after its failures-th failure, counted from 1. The jitter only shortens it.
func (r *Retry) delay(p Pos, failures uint32) int64 {
	var d int64
	switch r.Kind {
	case RetryDefault, RetryNever:
		return 0
	case RetryList:
		d = r.List[min(int(failures)-1, len(r.List)-1)]
	case RetryFixed:
		d = r.BaseMillis
	case RetryExponential:
		limit := r.MaxMillis
		if limit == 0 {
			limit = DelayMillisMax
		}
		d = min(r.BaseMillis, limit)
		for n := uint32(1); n < failures && d > 0 && d < limit; n++ {
			d = min(2*d, limit)
		}
	}
	if span := d * int64(r.JitterPercent) / 100; span > 0 {
		d -= int64(hash3(hashSeedJitter, uint64(p), uint64(failures)) % uint64(span+1))
	}
	return d
}
