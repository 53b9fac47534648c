package beaver

import (
	"errors"
	"fmt"
	"time"
)

// The causes that a job's context ends with; context.Cause tells which. ErrLeaseLost is another.
var (
	// ErrCancelled says that the job's cancellation was asked for.
	ErrCancelled = errors.New("beaver: the job is cancelled")
	// ErrStopped says that the worker stops and its grace period is over. The job is given back.
	ErrStopped = errors.New("beaver: the worker stops")
)

// ErrRelease is returned by a handler, alone or wrapped, to give its job back without counting the attempt. The job is ready
// again at once.
var ErrRelease = errors.New("beaver: the job is released")

// Permanent returns an error that makes the job dead at once, for failures that no retry will mend.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &verdict{err: err, final: true}
}

// RetryAfter returns an error that makes the job wait for d, instead of what its retry policy says. A negative d, as
// time.Until may return, makes the job ready again at once; ten years are the most.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		err = fmt.Errorf("retry after %v", d)
	}
	return &verdict{err: err, retryAfter: d}
}

// verdict is an error with an opinion on what happens to the job.
type verdict struct {
	err        error
	final      bool
	retryAfter time.Duration
}

func (v *verdict) Error() string { return v.err.Error() }
func (v *verdict) Unwrap() error { return v.err }

// PanicError is what a handler's panic is turned into.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns the error that was panicked with, if it was one.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
