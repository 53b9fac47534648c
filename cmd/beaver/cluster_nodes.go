package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/beaver-raft/beaver"
)

// printNodes prints how the nodes are, and then where.
func (a *app) printNodes(nodes []beaver.ClusterNode) error {
	how, where := make([]string, len(nodes)), make([]string, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		how[i] = row(slices.Concat([]any{n.ID, n.State, a.heard(n)}, nodeDoes(n), []any{nodeNote(n)})...)
		where[i] = row(n.ID, n.PeerAddress, n.PublicAddress, n.Zone, n.Version, a.ago(n.Since))
	}
	if err := a.table("NODE\tSTATE\tHEARD\tLEADS\tSTORED/S\tENDED/S\tCPU\tDISK FREE\tDATA\tWORKERS\tNOTE", how); err != nil {
		return err
	}
	if err := a.print("\n"); err != nil {
		return err
	}
	return a.table("NODE\tPEER ADDRESS\tADDRESS\tZONE\tVERSION\tSINCE", where)
}

// heard is when a node was heard of. Earlier versions of the server do not say.
func (a *app) heard(n *beaver.ClusterNode) string {
	switch n.Heartbeat {
	case "heard":
		return a.ago(n.HeardAt)
	case "silent":
		if n.HeardAt.IsZero() {
			return n.Heartbeat
		}
		return n.Heartbeat + " " + short(a.now().Sub(n.HeardAt))
	}
	return n.Heartbeat
}

// nodeDoes are the cells of what a node has told of itself. What a silent one did is old news; what its disk had is not.
func nodeDoes(n *beaver.ClusterNode) []any {
	cells := []any{"", "", "", "", "", "", ""}
	l := n.Load
	if l == nil {
		return cells
	}
	if l.DiskBytes > 0 {
		cells[4] = fmt.Sprintf("%s, %.0f%%", byteSize(l.DiskFreeBytes), 100*float64(l.DiskFreeBytes)/float64(l.DiskBytes))
	}
	cells[5] = byteSize(l.DataBytes)
	if n.Heartbeat == "silent" {
		return cells
	}
	cells[0], cells[1], cells[2] = l.Leads, rate(l.StoredPerSecond), rate(l.EndedPerSecond)
	cells[3] = fmt.Sprintf("%.0f%%", 100*l.ProcessorShare)
	cells[6] = strconv.Itoa(l.Workers)
	if l.Workers > 0 {
		cells[6] = fmt.Sprintf("%d, %s", l.Workers, plural(l.WorkerSlots, "slot"))
	}
	return cells
}

// rate is a number a second for people: with a digit behind the point when it is small.
func rate(perSecond float64) string {
	if perSecond > 0 && perSecond < 10 {
		return strconv.FormatFloat(perSecond, 'f', 1, 64)
	}
	return strconv.FormatFloat(perSecond, 'f', 0, 64)
}

func nodeNote(n *beaver.ClusterNode) string {
	var notes []string
	if n.Replaces != 0 && n.State != "removed" {
		notes = append(notes, fmt.Sprintf("in the place of node %d", n.Replaces))
	}
	switch {
	case n.State == "expected" || n.State == "removed":
	case n.Problem != "":
		notes = append(notes, "does not serve: "+n.Problem)
	case !n.Reachable && n.Heartbeat != "silent":
		notes = append(notes, "did not answer just now")
	}
	if n.Load != nil && n.Load.DiskFull {
		notes = append(notes, "its disk is full")
	}
	return strings.Join(notes, "; ")
}
