package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// membershipKind is the kind of the membership file in the listing.
const membershipKind = "membership"

// membershipSummary is how the node of a directory came to its cluster, and by whom it finds the others.
type membershipSummary struct {
	State     string          `json:"state"` // born, founded, joined or removed
	ClusterID string          `json:"clusterId,omitempty"`
	NodeID    uint64          `json:"nodeId,omitempty"`
	Shards    int             `json:"shards,omitempty"`
	Members   []memberSummary `json:"members"`
}

type memberSummary struct {
	NodeID  uint64 `json:"nodeId"`
	Address string `json:"address"`
}

func (m *membershipSummary) String() string {
	list := make([]string, len(m.Members))
	for i, o := range m.Members {
		list[i] = fmt.Sprintf("%d=%s", o.NodeID, o.Address)
	}
	nodes := strings.Join(list, ", ")
	switch founding.State(m.State) {
	case founding.Born:
		return "it has begun to found or to join a cluster, and is no member yet"
	case founding.Founded:
		return fmt.Sprintf("founded with %s by %s", plural(m.Shards, "data shard"), nodes)
	case founding.Joined:
		return "joined by way of " + nodes
	case founding.Removed:
		return "removed from the cluster: the node starts no more"
	}
	return m.State
}

// membership notes how the node came to its cluster. A node that is alone has no such file; a damaged one keeps it from starting.
func (f *inspection) membership(dir string) error {
	_, err := founding.ReadRuns(vfs.OS(), dir)
	if bad, ok := errors.AsType[*founding.FileError](err); ok {
		f.count(bad.Reason)
		f.Files = append(f.Files, fileSummary{File: founding.RunsFileName, Kind: membershipKind, Damage: bad.Reason})
	} else if err != nil {
		return err
	}
	r, err := founding.Read(vfs.OS(), dir)
	if bad, ok := errors.AsType[*founding.FileError](err); ok {
		f.count(bad.Reason)
		f.Files = append(f.Files, fileSummary{File: founding.FileName, Kind: membershipKind, Damage: bad.Reason})
		return nil
	}
	if r == nil || err != nil {
		return err
	}
	m := &membershipSummary{State: string(r.State), NodeID: r.Node, Shards: r.Shards, Members: []memberSummary{}}
	if r.Cluster != 0 {
		m.ClusterID = fmt.Sprintf("%016x", r.Cluster)
	}
	for _, o := range r.Members {
		m.Members = append(m.Members, memberSummary{o.Node, o.Address})
	}
	f.Membership = m
	return nil
}
