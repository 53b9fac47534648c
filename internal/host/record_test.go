package host

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(Record{3, shard.NewReplicaID(2, 77), Joining}))
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, reason := decodeRecord(b)
		if reason != "" {
			return
		}
		// What is accepted is what this version writes, but for reserved bytes.
		want := encodeRecord(r)
		if len(b) != len(want) || !bytes.Equal(b[:15], want[:15]) || !bytes.Equal(b[16:24], want[16:24]) {
			t.Errorf("accepted %x as %+v", b, r)
		}
	})
}

// A record reads back, and no flipped bit and no cut goes unnoticed.
func TestRecordDamage(t *testing.T) {
	t.Parallel()
	want := Record{3, shard.NewReplicaID(2, 77), Retired}
	b := encodeRecord(want)
	if got, reason := decodeRecord(b); got != want || reason != "" {
		t.Fatalf("%+v, %s", got, reason)
	}
	for bit := range 8 * len(b) {
		bad := slices.Clone(b)
		bad[bit/8] ^= 1 << (bit % 8)
		if got, reason := decodeRecord(bad); reason == "" {
			t.Errorf("with bit %d flipped it reads as %+v", bit, got)
		}
	}
	for n := range b {
		if _, reason := decodeRecord(b[:n]); reason == "" {
			t.Errorf("cut to %d bytes it reads", n)
		}
	}
}

// TestAdmission shows which replicas may run beside what the data directory says.
func TestAdmission(t *testing.T) {
	t.Parallel()
	const data = true
	var (
		first  = shard.NewReplicaID(1, 0)
		second = shard.NewReplicaID(1, 70)
		third  = shard.NewReplicaID(1, 90)
		alone  = []shard.ReplicaID{first}
		three  = []shard.ReplicaID{first, shard.NewReplicaID(2, 0), shard.NewReplicaID(3, 0)}
		h      = &Host{opts: Options{Node: 1}}
	)
	rec := func(id shard.ReplicaID, s RecordState) *Record { return &Record{5, id, s} }
	for _, tc := range []struct {
		name   string
		r      Replica
		record *Record
		data   bool
		want   RecordState
		id     shard.ReplicaID
		reason string
	}{
		{"a lone founder", Replica{5, first, alone, false}, nil, false, Founding, first, ""},
		{"one of three founders", Replica{5, first, three, false}, nil, false, Founding, first, ""},
		{"a founder that others do not know", Replica{5, first, three[1:], false}, nil, false, 0, 0, "not one of the founders"},
		{"no permission to found", Replica{5, first, nil, false}, nil, false, 0, 0, "has nothing of"},
		{"a new member", Replica{5, second, nil, true}, nil, false, Joining, second, ""},
		{"a founder that would join", Replica{5, first, nil, true}, nil, false, 0, 0, "has nothing of"},
		{"one that was a member, on an empty disk", Replica{5, second, nil, false}, nil, false, 0, 0, "has nothing of"},
		{"another node's", Replica{5, shard.NewReplicaID(2, 70), nil, true}, nil, false, 0, 0, "not an id of this node"},
		{"no id and no record", Replica{5, 0, nil, false}, nil, false, 0, 0, "not an id of this node"},
		{"data of before there were records", Replica{5, first, alone, false}, nil, data, Member, first, ""},
		{"data of a group without a record", Replica{5, first, three, false}, nil, data, 0, 0, "no record"},
		{"data of a new member without a record", Replica{5, second, nil, true}, nil, data, 0, 0, "no record"},
		{"a founding that was interrupted", Replica{5, first, three, false}, rec(first, Founding), false, Founding, first, ""},
		{"the same without the others", Replica{5, first, nil, false}, rec(first, Founding), false, 0, 0, "other founders' names"},
		{"the same with the genesis there", Replica{5, first, nil, false}, rec(first, Founding), data, Founding, first, ""},
		{"a member", Replica{5, first, three, false}, rec(first, Member), data, Member, first, ""},
		{"a member by its record", Replica{5, 0, nil, false}, rec(second, Member), data, Member, second, ""},
		{"a member that lost everything", Replica{5, first, three, false}, rec(first, Member), false, 0, 0, "its data is gone"},
		{"one that waits", Replica{5, 0, nil, false}, rec(second, Joining), false, Joining, second, ""},
		{"another in the place of a member", Replica{5, second, nil, true}, rec(first, Member), data, 0, 0, "remove that before"},
		{"another in the place of one that waits", Replica{5, third, nil, true}, rec(second, Joining), false, 0, 0, "remove that before"},
		{"one that is retired", Replica{5, second, nil, true}, rec(second, Retired), false, 0, 0, "no id is used twice"},
		{"one before it", Replica{5, first, three, false}, rec(second, Retired), false, 0, 0, "no id is used twice"},
		{"one after it", Replica{5, third, nil, true}, rec(second, Retired), false, Joining, third, ""},
		{"one after it that may not join", Replica{5, third, nil, false}, rec(second, Retired), false, 0, 0, "has nothing of"},
		{"by the record of one that is retired", Replica{5, 0, nil, false}, rec(second, Retired), false, 0, 0, "no id is used twice"},
	} {
		got, err := h.admit(tc.r, admission{tc.record, tc.data})
		if tc.reason != "" {
			if bad, ok := errors.AsType[*ReplicaError](err); !ok || !strings.Contains(bad.Reason, tc.reason) {
				t.Errorf("%s: %v, want an error about %q", tc.name, err, tc.reason)
			}
			continue
		}
		if err != nil || got != (Record{5, tc.id, tc.want}) {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
}

// A node writes the records of its replicas, those of a directory of before there were any too, refuses to start without one
// that is there, and does not take a member whose files are gone for a new one.
func TestRecordsOfANode(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	if _, err := n.add(1, "k"); err != nil {
		t.Fatal(err)
	}
	n.mustClose(t)
	own := shard.NewReplicaID(1, 0)
	want := []Record{{0, own, Member}, {1, own, Member}}
	if got, err := ReadRecords(disk, "data"); err != nil || !slices.Equal(got, want) {
		t.Fatalf("records %+v, %v", got, err)
	}
	_, err := openNode(t.Context(), disk, nil, func(o *Options) { o.Shards = o.Shards[:1] })
	if err == nil || !strings.Contains(err.Error(), "not configured for") {
		t.Errorf("without shard 1: %v", err)
	}

	for _, r := range want {
		if err := disk.Remove("data/replicas/" + recordName(r.Shard)); err != nil {
			t.Fatal(err)
		}
	}
	n = mustOpen(t, disk, nil, nil)
	if v, err := n.value(t.Context(), 1, "k"); err != nil || v != 1 {
		t.Errorf("a directory without records: %d, %v", v, err)
	}
	if got, err := ReadRecords(disk, "data"); err != nil || !slices.Equal(got, want) {
		t.Errorf("records %+v, %v", got, err)
	}
	n.mustClose(t)

	for _, dir := range []string{"data/snapshots/00001", "data/log/tail"} {
		names, _ := disk.List(dir)
		for _, name := range names {
			if err := disk.Remove(dir + "/" + name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := openNode(context.Background(), disk, nil, nil); err == nil {
		t.Error("a node whose files are gone starts anew")
	}
}
