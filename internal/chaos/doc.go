// Package chaos holds tests only: real server processes, killed at random moments under load.
//
// Invariant: whatever the moment of a kill, no acknowledged job is lost, no completed job runs again, no job has two live
// leases, and no enqueue happens twice. The tests see the product from outside, through package beaver, and keep a history
// of every answer to check it against. They import nothing else of ours.
package chaos
