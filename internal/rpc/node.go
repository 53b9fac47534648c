package rpc

import (
	"context"
	"fmt"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

func (h *Handler) getStatus(ctx context.Context, e Engine, _ *beaverv1.GetStatusRequest) (*beaverv1.GetStatusResponse, error) {
	s, err := e.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := &beaverv1.GetStatusResponse{
		NodeId: s.Node, ClusterId: s.ClusterID, Version: s.Version, StartedAt: pbInstant(s.StartedAt),
		Ready: s.Ready, NotReadyReason: s.Reason, Workers: uint32(s.Workers),
		Shards: make([]*beaverv1.ShardStatus, len(s.Shards)),
		Log:    &beaverv1.LogStatus{DiskFull: s.DiskFull},
	}
	for i := range s.Shards {
		out.Shards[i] = pbShard(&s.Shards[i])
	}
	return out, nil
}

func pbShard(s *engine.ShardStatus) *beaverv1.ShardStatus {
	role := "follower"
	if s.Leading {
		role = "leader"
	}
	return &beaverv1.ShardStatus{
		Id: uint32(s.ID), Role: role, Term: s.Term, AppliedIndex: s.Applied, SnapshotIndex: s.SnapshotIndex,
		SnapshotBytes: uint64(s.SnapshotBytes), Fingerprint: fmt.Sprintf("%016x", s.Fingerprint),
	}
}
