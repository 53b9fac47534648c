// Package cluster is the catalog, the state machine of shard 0: what the whole cluster agrees on. Today that is the
// cluster's id, its nodes and shards, who should lead which shard, the queues with their ids, homes and settings, and the registered workers.
//
// Invariant: a queue has one id for ever, and one set of homes that take its new jobs, a shard for each partition; a queue's version grows with every change of its settings,
// and no id is given twice. The same commands give the same state, the same results and the same fingerprint.
//
// The catalog is pure: Apply takes time only as the stamp of its entry and refuses bad input in its result. Where a new
// queue shall live is decided by the proposer and recorded in the command, so that every replica agrees. Reading the
// catalog's methods and applying to it is one goroutine's business; an Image may be read from another.
//
// A command is one item: a type byte, then its fields. Integers are unsigned varints, a string is its length and its
// bytes, settings are as AppendSettings writes them.
//
//	1 init       cluster id, u64 little endian
//	2 create     name, shard, settings
//	3 configure  name, settings
//	4 pause      name, 0 or 1
//	5 register   name, host, pid, version, labels, queues, concurrency
//	6 remove     worker id
//	7 found      count, count × (node, nonce, info)
//	8 expect     peer address, node that is replaced or 0
//	9 join       nonce, node or 0, info
//	10 move      node, state, new state
//	11 announce  node, nonce, info
//	12 prefer    shard, node or 0
//	13 grow      data shards at the founding, data shards
//	14 relocate  name, home, new home
//	15 opened    name, old home, new home
//	16 settled   name, old home, new home
//	17 create    name, shards, settings; with several partitions
//	18 spread    name, id that it has on its present shards, shards
//	19 opened    name, id that it has on its new shards; after 18
//	20 settled   name, id that it has on its new shards; after 18
//	21 emptied   name, how often its homes changed; ends the move that was the last of these
//
// A node's info is its peer address, public address, zone and version; a nonce is 16 bytes.
//
// Plan, Moves and Cluster are what a cluster does about its nodes: which step brings a shard's group in line with the catalog, and whether
// an operator may wish for something. They decide, and do nothing.
package cluster
