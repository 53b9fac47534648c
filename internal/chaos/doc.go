// Package chaos holds tests only: real server processes under load, to which happens what happens to processes, networks, disks, clocks
// and clusters.
//
// Invariant: whatever happens at whatever moment, no acknowledged job is lost, no completed job runs again, no job has two live
// leases, and no enqueue happens twice. The tests see the product from outside, through package beaver and the binary, and keep
// a record of every answer to check it against: a ledger that judges each as it comes, or a history that package history judges at
// the end.
package chaos
