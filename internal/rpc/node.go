package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

func (h *Handler) getStatus(ctx context.Context, e Engine, _ *beaverv1.GetStatusRequest) (*beaverv1.GetStatusResponse, error) {
	s, err := e.Status(ctx)
	if err != nil {
		return nil, err
	}
	l := &s.Host.Log
	out := &beaverv1.GetStatusResponse{
		NodeId: s.Node, ClusterId: s.ClusterID, Version: s.Version, StartedAt: pbInstant(s.StartedAt),
		Ready: s.Ready, NotReadyReason: s.Reason, DataDir: h.opts.DataDir, Workers: uint32(s.Workers),
		Shards: make([]*beaverv1.ShardStatus, len(s.Shards)),
		Log: &beaverv1.LogStatus{
			TailFiles: uint32(l.TailFiles), Segments: uint32(l.Segments),
			SegmentBytes: uint64(l.SegmentBytes), SegmentLiveBytes: uint64(l.SegmentLiveBytes),
			Flushes: l.Flushes, FlushedBytes: l.FlushedBytes,
			DiskFreeBytes: l.DiskFree, DiskTotalBytes: l.DiskTotal, DiskFull: s.DiskFull,
		},
		Recovery: &beaverv1.RecoveryStatus{
			Duration:  durationpb.New(time.Duration(s.Host.RecoverySeconds * float64(time.Second))),
			TornBytes: uint64(s.Host.Recovery.TornBytes),
		},
	}
	for i := range s.Host.Shards {
		out.Recovery.EntriesReplayed += s.Host.Shards[i].EntriesReplayed
	}
	for i := range s.Shards {
		out.Shards[i] = pbShard(&s.Shards[i])
	}
	return out, nil
}

func pbShard(s *engine.ShardStatus) *beaverv1.ShardStatus {
	role := "follower"
	switch {
	case s.Leading:
		role = "leader"
	case s.Leader == 0:
		role = "candidate" // it looks for a leader
	}
	return &beaverv1.ShardStatus{
		Id: uint32(s.ID), Role: role, Term: s.Term, AppliedIndex: s.Applied, LastIndex: s.Last, SnapshotIndex: s.SnapshotIndex,
		SnapshotBytes: uint64(s.SnapshotBytes), SnapshotAt: pbInstant(s.SnapshotAt), Fingerprint: fmt.Sprintf("%016x", s.Fingerprint),
		Jobs: s.Jobs, LeaderNodeId: s.Leader, Problem: s.Problem,
	}
}
