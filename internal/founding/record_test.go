package founding

import (
	"bytes"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestCrashAtEveryCall: before each call that changes the disk, in every outcome, there is the record of before or the next one; and
// the one that was read is still there after another crash.
func TestCrashAtEveryCall(t *testing.T) {
	sim := vfs.NewSim(1, vfs.SimOptions{})
	if err := sim.MkdirAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := sim.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	records := []*Record{{State: Born, Nonce: cluster.Nonce{1}}}
	records = append(records, (&Record{State: Founded, Node: 1, Shards: 4, Members: []Member{{Node: 1, Address: "a:1"}}}).Alone(records[0].Nonce))
	durable, crashes := -1, 0
	sim.SetHook(func(op vfs.Op) error {
		for _, o := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed(), vfs.Mixed(1), vfs.Mixed(2), vfs.Mixed(3)} {
			crashes++
			after := sim.CrashClone(o)
			got, err := Read(after, dir)
			if err != nil {
				t.Errorf("before %v, %v: %v", op, o, err)
				continue
			}
			found := -1
			for i, r := range records {
				if got != nil && got.State == r.State && got.Nonce == r.Nonce && got.Cluster == r.Cluster {
					found = i
				}
			}
			if found != durable && found != durable+1 || got != nil && found < 0 {
				t.Errorf("before %v, %v: record %d, and %d is durable", op, o, found, durable)
			}
			again, err := Read(after.CrashClone(vfs.AllLost()), dir)
			if err != nil || (again == nil) != (got == nil) || got != nil && again.State != got.State {
				t.Errorf("before %v, %v: %+v was read, and is %+v after another crash, %v", op, o, got, again, err)
			}
			if err := Write(after, dir, records[1]); err != nil {
				t.Errorf("before %v, %v: write anew: %v", op, o, err)
			}
		}
		return nil
	})
	for i, r := range records {
		if err := Write(sim, dir, r); err != nil {
			t.Fatal(err)
		}
		durable = i
	}
	if crashes < 50 {
		t.Errorf("only %d crashes", crashes)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := encode((&Record{State: Founded, Node: 1, Shards: 4, Members: []Member{{Node: 1, Address: "a:1"}}}).Alone(cluster.Nonce{1}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, reason := decode(b)
		if (r == nil) != (reason != "") {
			t.Fatalf("%+v, %q", r, reason)
		}
		if r == nil {
			return
		}
		again, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, reason := decode(again); reason != "" {
			t.Fatal(reason)
		}
	})
}

// FuzzMessage: whatever is said, a founder survives it, and what it makes of it can be stored.
func FuzzMessage(f *testing.F) {
	nonce := cluster.Nonce{1}
	list := []Founder{{1, "a:1"}, {2, "b:1"}}
	for _, m := range []Message{
		{Hello: NewMachine(&Record{State: Born, Nonce: cluster.Nonce{2}}, 2, list, 4).Hello()},
		{Join: &Join{Nonce: nonce, Address: "a:1"}},
		{Still: &Still{Cluster: 1, Node: 2}},
		{Run: &Run{Cluster: 1, Node: 2, Count: 3, Nonce: nonce, Begun: true}},
		{Refused: "no", Later: true},
	} {
		b, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil || m.Hello == nil {
			return
		}
		machine := NewMachine(&Record{State: Born, Nonce: nonce}, 1, list, 4)
		machine.Meet(m.Hello)
		if r := machine.Record(); r != nil {
			b, err := encode(r)
			if err != nil {
				t.Fatal(err)
			}
			if again, reason := decode(bytes.Clone(b)); reason != "" || again.Cluster != r.Cluster {
				t.Fatal(reason)
			}
		}
	})
}
