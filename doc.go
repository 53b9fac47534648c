// Package beaver is the Go client of Beaver-Raft, a job queue that never loses a job, and its worker SDK.
package beaver
