// Package engine is the job operations of a node: it routes a request to its shard, proposes it or forwards it, waits,
// and answers.
//
// Invariant: an acknowledged operation is committed, and a retry with the same session and sequence number is the same
// operation. Limits and names are checked here before anything is proposed; every error carries one of the Codes and a
// machine-readable Reason.
//
// The front doors call it from any goroutine; it never calls them.
package engine
