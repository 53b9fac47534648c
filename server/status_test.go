package server

import (
	"slices"
	"testing"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestStatusOfShards: every field of every shard says how things are, before and after a restart.
func TestStatusOfShards(t *testing.T) {
	dir := t.TempDir()
	n := newTestNode(t, Options{DataDir: dir, SnapshotBytes: 1})
	var ended string
	for i := range 5 { // each is an entry, and brings a snapshot
		r := must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: []*beaverv1.NewJob{{Queue: "q"}}})))
		if i == 0 {
			ended = r.GetIds()[0]
		}
	}
	must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: ended})))
	home := must[beaverv1.GetQueueResponse](t)(n.queues.GetQueue(t.Context(), call(&beaverv1.GetQueueRequest{Name: "q"}))).GetQueue().GetShard()
	check := func(n *testNode) *beaverv1.ShardStatus {
		t.Helper()
		s := must[beaverv1.GetStatusResponse](t)(n.node.GetStatus(t.Context(), call(&beaverv1.GetStatusRequest{})))
		for i, sh := range s.GetShards() {
			want := uint64(0)
			if sh.GetId() == home {
				want = 4
			}
			if sh.GetId() != uint32(i) || sh.GetRole() != "leader" || sh.GetLeaderNodeId() != s.GetNodeId() || sh.GetTerm() == 0 ||
				sh.GetAppliedIndex() == 0 || sh.GetLastIndex() < sh.GetAppliedIndex() || sh.GetJobs() != want ||
				len(sh.GetFingerprint()) != 16 || sh.GetProblem() != "" || (sh.GetSnapshotIndex() == 0) != (sh.GetSnapshotBytes() == 0) {
				t.Errorf("shard %d, want %d jobs: %v", i, want, sh)
			}
		}
		return s.GetShards()[slices.IndexFunc(s.GetShards(), func(sh *beaverv1.ShardStatus) bool { return sh.GetId() == home })]
	}
	deadline := time.Now().Add(20 * time.Second)
	sh := check(n)
	for ; sh.GetSnapshotAt() == nil && time.Now().Before(deadline); sh = check(n) {
		t.Log("no snapshot yet")
	}
	if at := sh.GetSnapshotAt(); at == nil || time.Since(at.AsTime()) > time.Minute || sh.GetSnapshotIndex() == 0 || sh.GetSnapshotIndex() > sh.GetAppliedIndex() {
		t.Errorf("snapshot: %v", sh)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	sh = check(newTestNode(t, Options{DataDir: dir}))
	if sh.GetSnapshotIndex() == 0 || sh.GetSnapshotAt() != nil {
		t.Errorf("after a restart: %v; want a snapshot whose time is not known", sh)
	}
}
