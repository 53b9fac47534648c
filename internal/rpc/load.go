package rpc

import (
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// TellHeard puts what is heard of a node into its description.
func TellHeard(out *beaverv1.ClusterNode, heard *engine.NodeHeard) {
	out.Heartbeat = heard.Hearing.String()
	if heard.Ever {
		out.HeardAgo = durationpb.New(heard.Ago)
	}
	l := heard.Load
	if l == nil {
		return
	}
	out.Load = &beaverv1.NodeLoad{
		Processors: uint32(l.Processors), ProcessorShare: l.ProcessorShare,
		DiskBytes: l.DiskBytes, DiskFreeBytes: l.DiskFree, DiskFull: l.DiskFull, DataBytes: l.DataBytes,
		Leads: uint32(l.Leads), StoredPerSecond: l.Stored, EndedPerSecond: l.Ended, Workers: uint32(l.Workers), WorkerSlots: uint32(l.Slots),
	}
}
