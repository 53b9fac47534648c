// Package beaverv1 is the public API of Beaver-Raft as generated from beaver.proto: messages here, Connect stubs in
// beaverv1connect.
//
// Invariant: within v1 a field's number, type and meaning never change; fields are only added. It imports nothing of ours.
package beaverv1
