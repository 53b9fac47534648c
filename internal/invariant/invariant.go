// Package invariant holds the assertions that guard the engine's own state.
//
// A failed assertion is a bug of ours, never a user's mistake: it panics, since going on would risk the jobs.
// Bad input is refused with an error and never reaches an assertion. The package imports nothing of ours.
package invariant

import "fmt"

// Check panics with the formatted message when ok is false. It is always on: keep its condition cheap.
// Pass only constants and integers as arguments on hot paths, so that a call that holds does not allocate.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}
