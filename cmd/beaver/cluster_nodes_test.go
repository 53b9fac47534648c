package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// TestNodeTables: how nodes that are heard, silent, full, of an earlier version, expected and gone are shown, on lines that fit a terminal.
func TestNodeTables(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	load := beaver.NodeLoad{
		Processors: 8, ProcessorShare: 0.347, DiskBytes: 200 << 30, DiskFreeBytes: 123 << 30, DataBytes: 17 << 30, Leads: 3,
		StoredPerSecond: 12034.4, EndedPerSecond: 3.25, Workers: 12, WorkerSlots: 384,
	}
	full := load
	full.DiskFreeBytes, full.DiskFull, full.Workers, full.StoredPerSecond = 100<<20, true, 0, 0
	node := func(id uint64, state, heartbeat string, ago time.Duration, l *beaver.NodeLoad) beaver.ClusterNode {
		n := beaver.ClusterNode{
			ID: id, State: state, Heartbeat: heartbeat, Load: l, Reachable: heartbeat == "heard", PeerAddress: "10.0.0.1:7401", PublicAddress: "10.0.0.1:7400",
			Zone: "eu-west-1a", Version: "v1.2.3", Since: now.Add(-26 * time.Hour),
		}
		if ago != 0 {
			n.HeardAt = now.Add(-ago)
		}
		return n
	}
	nodes := []beaver.ClusterNode{
		node(1, "active", "heard", 731*time.Millisecond, &load),
		node(2, "draining", "heard", time.Second, &full),
		node(3, "active", "silent", 83*time.Second, &load),
		node(4, "active", "silent", 0, nil),
		node(5, "joining", "unknown", time.Second, nil),
		node(6, "removed", "", 0, nil),
	}
	nodes[1].Reachable = false
	nodes[4].Reachable = true
	var out bytes.Buffer
	a := &app{stdout: &out, now: func() time.Time { return now }}
	if err := a.printNodes(nodes); err != nil {
		t.Fatal(err)
	}
	const want = `
NODE  STATE     HEARD         LEADS  STORED/S  ENDED/S  CPU  DISK FREE       DATA      WORKERS        NOTE
1     active    731ms ago     3      12034     3.2      35%  123.0 GiB, 62%  17.0 GiB  12, 384 slots  -
2     draining  1s ago        3      0         3.2      35%  100.0 MiB, 0%   17.0 GiB  0              did not answer just now; its disk is full
3     active    silent 1m23s  -      -         -        -    123.0 GiB, 62%  17.0 GiB  -              -
4     active    silent        -      -         -        -    -               -         -              -
5     joining   unknown       -      -         -        -    -               -         -              -
6     removed   -             -      -         -        -    -               -         -              -

NODE  PEER ADDRESS   ADDRESS        ZONE        VERSION  SINCE
1     10.0.0.1:7401  10.0.0.1:7400  eu-west-1a  v1.2.3   1d02h ago
`
	if got := "\n" + out.String(); !strings.HasPrefix(got, want) {
		t.Errorf("got:%s\nwant, at its beginning:%s", got, want)
	}
	for line := range strings.Lines(out.String()) {
		if cells, _, _ := strings.Cut(line, "did not answer"); len(cells) > 110 {
			t.Errorf("%d columns without the note: %s", len(cells), line)
		}
	}
}
