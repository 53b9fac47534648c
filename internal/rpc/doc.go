// Package rpc is the Connect front door: gRPC, gRPC-Web and HTTP/JSON on one port, with the probes beside them.
//
// Invariant: limits and names of fields are checked before the engine is called, every error carries one Connect code and
// a beaver.v1.ErrorInfo, and an answer is sent only after the engine's. What is in flight when the node stops is
// finished before its stream ends. A panic in any goroutine of a call is logged and counted, and ends that call alone.
//
// The server package makes a Handler, gives it the engine once that is open (Serve), and calls Drain before closing it.
// The Handler never opens files and keeps no state of jobs.
//
// # Streams
//
// EnqueueStream keeps up to EnqueueInFlightMax messages of a stream in flight and answers them in order, as many at once
// as are done. Messages in flight together may be stored in either order.
//
// Work serves one worker. Goroutines, each waited for before the call returns:
//
//	reader   the call's own: credits, outcomes, heartbeats in
//	fetcher  one Fetch at a time for as many jobs as there are credits; sends them too when the writer is idle
//	finisher hands all waiting outcomes to the engine at once
//	writer   sends whatever is waiting as one message
//
// The fetcher also compares, once in a TTL, what the worker says to hold with the leases it has, and gives back those that it
// left out and that are not on their way to it; see work_transit.go. WorkerService.Heartbeat cannot do so: whether the answer
// to a Fetch has been read is not known there, and a lease taken back from a worker that has it runs its job twice. Such
// leases go back when the worker ends, or with the timeout of the job.
//
// The server says something every sixth of the TTL too. Any message is a heartbeat; the server expects one at least every third of the TTL it announced. A stream that the
// worker ends (half-close) deregisters it; one that breaks leaves its leases alone until its TTL runs out, so that the
// worker may come back with its id and say what it holds.
//
// # Hot messages
//
// The messages that carry jobs by the thousand (EnqueueRequest, EnqueueStreamRequest, WorkRequest and the answers) are
// read and written by hand in wire.go, straight between protobuf bytes and the engine's types; a test holds them against
// the generated code.
package rpc
