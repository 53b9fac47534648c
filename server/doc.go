// Package server is a whole Beaver-Raft node inside your process.
//
//	srv, err := server.Open(ctx, server.Options{DataDir: "/var/lib/beaver"})
//	if err != nil { … }
//	defer srv.Close(ctx)
//	client, err := srv.Client()
//
// Open listens at once and recovers before it returns: meanwhile /livez answers and /readyz says how far it is. Client
// hands out the same beaver.Client that remote programs use, over a pipe in memory.
//
// Invariant: the order of starting and stopping. Starting: listen, recover, serve. Stopping: not ready, hand out no more
// jobs, finish what clients asked for, close the engine, and only then the listener. What was acknowledged is durable
// whatever happens in between.
//
// A node that has peers first finds its cluster, see package founding, and then keeps it: the *keeper* has each shard that the node
// leads follow the nodes of the catalog, one step at a time, and the *inquirer* asks the other nodes whether this one still is a
// member, and tells them where it is. Both end before the engine is closed. They keep nothing: what an operator wishes is in the
// catalog, so whoever leads goes on with it.
//
// The *watch* notices that the node stood still, and closes the connections that were accepted before; stopping the listener ends it.
//
// This is the only place where the parts of a node are wired together. It prints nothing: all it has to say goes to
// Options.Logger.
package server
