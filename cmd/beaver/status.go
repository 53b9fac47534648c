package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

func newStatusCommand(a *app) *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the node: its shards, log, disk and last recovery", Args: cobra.NoArgs,
		Example: "  beaver status\n  beaver status --addr http://10.0.0.5:7400 --output json\n  beaver status --ready",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				s, err := c.Status(cmd.Context())
				if err != nil {
					return err
				}
				switch {
				case ready && s.Ready:
					return nil
				case ready:
					return statusError{fmt.Errorf("the node is not ready: %s", s.NotReadyReason), exitUnavailable}
				case a.json():
					return a.printJSON(statusOutput(s))
				}
				return a.printStatus(s)
			})
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "print nothing, and end with 0 if the node is ready, else with 4: for health checks")
	return a.clientFlags(cmd)
}

func (a *app) printStatus(s *beaver.Status) error {
	var b strings.Builder
	field := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	field("node", "%d of cluster %s, version %s", s.NodeID, s.ClusterID, s.Version)
	if s.Ready {
		field("ready", "yes, started %s", a.ago(s.StartedAt))
	} else {
		field("ready", "no: %s", s.NotReadyReason)
	}
	field("data", "%s", s.DataDir)
	field("workers", "%d", s.Workers)
	field("disk", "%s free of %s", byteSize(s.Log.DiskFreeBytes), byteSize(s.Log.DiskTotalBytes))
	if s.Log.DiskFull {
		field("", "FULL: enqueues are refused; make room, or discard dead jobs")
	}
	field("log", "%s, %s of %s (%s alive)", plural(s.Log.TailFiles, "file"), plural(s.Log.Segments, "segment"),
		byteSize(s.Log.SegmentBytes), byteSize(s.Log.SegmentLiveBytes))
	field("written", "%s in %s", byteSize(s.Log.FlushedBytes), fmt.Sprintf("%d flushes", s.Log.Flushes))
	field("recovery", "%s, %d entries replayed, %s torn", short(s.Recovery.Duration), s.Recovery.EntriesReplayed,
		byteSize(s.Recovery.TornBytes))
	if err := a.print("%s\n", b.String()); err != nil {
		return err
	}
	rows := make([]string, len(s.Shards))
	for i, sh := range s.Shards {
		rows[i] = row(sh.ID, sh.Role, sh.Jobs, sh.Term, sh.AppliedIndex, sh.SnapshotIndex, byteSize(sh.SnapshotBytes),
			a.ago(sh.SnapshotAt), sh.Fingerprint)
	}
	if err := a.table("SHARD\tROLE\tJOBS\tTERM\tAPPLIED\tSNAPSHOT\tSIZE\tTAKEN\tFINGERPRINT", rows); err != nil {
		return err
	}
	for _, sh := range s.Shards {
		if sh.Problem != "" {
			if err := a.print("shard %d does not serve: %s\n", sh.ID, sh.Problem); err != nil {
				return err
			}
		}
	}
	return nil
}
