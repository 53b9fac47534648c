// Package history judges what clients of a queue were told: for every job it looks for an order of what they did to it that
// real time and a model of a job allow.
//
// Invariant: a history that has such an order is never refused, and one that has none is refused or counted as undecided.
//
// The caller records each call with the times at which it was made and answered, on one clock, and names a job by a label of
// its own, which it puts into the payload: so a job whose enqueue was never answered is known when somebody is handed it. A call
// that was never answered may have taken effect at any time after it was made, or not at all. The judge sees only what a client
// sees, so it needs no trust in the machine, the log or whoever records them.
//
// The package has no clock, no goroutine and no lock. Package sim records what simulated clients do, and the tests of package
// chaos what real ones do to real servers.
package history
