// Package transport carries what the nodes of a cluster say to each other, over TCP: Raft messages, the chunks of snapshots, and calls
// that a node makes on behalf of its clients.
//
// Invariant: it is bounded, best-effort and authenticated, and never reorders within a stream. What is sent is delivered once or not at
// all; what one node sends another for one purpose arrives in the order of sending, with gaps where connections broke or a
// bound was reached. Nothing of a peer is looked at before the peer has proven which node it is.
//
// The caller tells who the peers are (SetPeer, RemovePeer), treats everything as possibly lost, and does not change what it has given
// away. Raft's own resending is what makes up for losses: nothing here is repeated or kept for a peer that cannot be reached.
//
// The package knows no shard, job or member beyond their numbers. It neither keeps state on disk nor interprets what it carries.
//
// # Streams
//
// For each of three purposes a node makes a connection of its own to a peer, when there is something to send: messages, transfers,
// calls. So a chunk of a snapshot never stands in front of a heartbeat. Whoever dialled sends; only pongs and answers to calls come
// back. Whatever waits for a peer when the connection is ready to take more goes out in one frame, the heartbeats of a hundred
// shards included: it is batched by the pace of the connection, and not by a timer.
//
// After a failure nothing is kept: what waited is dropped, and so is all that comes during the pause before the next attempt. Old
// messages would be of no use to Raft, and would only be in the way of new ones. A connection that the peer makes ends the pause.
//
// When connections for messages are lost, and the peer's machine then says that nobody listens at its address, the peer's process has
// ended. The handler hears of that at once: those who waited for a dead leader to speak need not wait any longer.
//
// A peer has one connection in for each purpose. A new one replaces the one before, and is read only when nothing of that one is in
// the handler's hands any more.
//
// Both sides cut a connection by which nothing comes for SilenceMax. Pings see to it that something does.
//
// # Handshake
//
// First comes TLS 1.3 with certificates on both sides, unless both are on one machine and security is off; see Security. Then the dialler says
// which cluster, node, version and purpose it is of, and whom it means; the other side compares and answers. See handshake.go.
//
// A node that has no identity yet introduces itself instead: one request, one answer, under an authority that is not the cluster's when that
// is derived from the secret. What is said that way is for the owner to judge. See introduce.go.
//
// # Goroutines
//
// Close waits for all of them.
//
//	accept         one: takes connections from the listener
//	reader         one for each accepted connection: handshake, then frames into the handler
//	answer writer  one for each accepted connection for calls
//	call server    one for each call that is being served: it is in the handler
//	writer         one for each peer and purpose: dials, pauses, writes
//	answer reader  one for each connection that was made: pongs, and answers to calls
//
// docs/format.md draws the bytes; message.go, frame.go and handshake.go write and read them.
package transport
