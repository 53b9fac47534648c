package founding

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// script is founders on disks of their own.
type script struct {
	t     *testing.T
	disks map[uint64]*vfs.Sim
	nodes map[uint64]*Machine
	lives byte
}

const dir = "data"

func (s *script) start(node uint64, list []Founder, shards int) string {
	disk := s.disks[node]
	if disk == nil {
		disk = vfs.NewSim(node, vfs.SimOptions{})
		if err := disk.MkdirAll(dir); err != nil {
			s.t.Fatal(err)
		}
		s.disks[node] = disk
	}
	r, err := Read(disk, dir)
	if err != nil {
		return err.Error() + "\n"
	}
	way, r, err := Decide(&Start{Founders: list, Node: node, Peers: true, Shards: shards}, &Directory{Record: r}, 4)
	if err != nil {
		return err.Error() + "\n"
	}
	if way == Found && r == nil {
		s.lives++
		r = &Record{State: Born, Nonce: cluster.Nonce{s.lives}}
		if err := Write(disk, dir, r); err != nil {
			s.t.Fatal(err)
		}
	}
	s.nodes[node] = NewMachine(r, node, list, 4)
	return s.show(node)
}

func (s *script) show(node uint64) string {
	m := s.nodes[node]
	switch {
	case m == nil:
		return fmt.Sprintf("node %d is down\n", node)
	case m.Refused() != nil:
		return fmt.Sprintf("node %d is refused: %v\n", node, m.Refused())
	case m.Record() == nil:
		return fmt.Sprintf("node %d waits for %s\n", node, names(m.Missing()))
	case !m.stored:
		return fmt.Sprintf("node %d would found %016x\n", node, m.Record().Cluster)
	}
	return fmt.Sprintf("node %d founded %016x\n", node, m.Record().Cluster)
}

// say has a node introduce itself to another, the bytes included.
func (s *script) say(from, to uint64) string {
	over := func(m Message) *Message {
		b, err := m.Encode()
		if err != nil {
			s.t.Fatal(err)
		}
		got, err := DecodeMessage(b)
		if err != nil {
			s.t.Fatal(err)
		}
		return got
	}
	a, b := s.nodes[from], s.nodes[to]
	refusal := b.Meet(over(Message{Hello: a.Hello()}).Hello)
	answer := over(Message{Hello: b.Hello(), Refused: refusal})
	if answer.Refused != "" {
		a.Turned(answer.Refused)
	} else if refusal := a.Meet(answer.Hello); refusal != "" {
		return fmt.Sprintf("node %d says: %s\n", from, refusal) + s.show(from) + s.show(to)
	}
	return s.show(from) + s.show(to)
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	var numbers []uint64
	for f := range strings.FieldsSeq(d.Input) {
		n, _ := strconv.ParseUint(f, 10, 64)
		numbers = append(numbers, n)
	}
	var shards int
	if d.HasArg("shards") {
		d.ScanArgs(t, "shards", &shards)
	}
	switch d.Cmd {
	case "start": // node, list
		var list []Founder
		for _, n := range numbers[1:] {
			list = append(list, Founder{n, fmt.Sprintf("host%d:7401", n)})
		}
		return s.start(numbers[0], list, shards)
	case "say":
		return s.say(numbers[0], numbers[1])
	case "store":
		m := s.nodes[numbers[0]]
		if err := Write(s.disks[numbers[0]], dir, m.Record()); err != nil {
			t.Fatal(err)
		}
		m.Stored()
		return s.show(numbers[0])
	case "crash":
		s.disks[numbers[0]] = s.disks[numbers[0]].CrashClone(vfs.AllLost())
		delete(s.nodes, numbers[0])
		return s.show(numbers[0])
	case "wipe":
		delete(s.disks, numbers[0])
		delete(s.nodes, numbers[0])
		return s.show(numbers[0])
	}
	t.Fatalf("%s: no such command", d.Pos)
	return ""
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/script", func(t *testing.T, path string) {
		s := &script{disks: map[uint64]*vfs.Sim{}, nodes: map[uint64]*Machine{}}
		datadriven.RunTest(t, path, s.run)
	})
}

func TestDamagedRecords(t *testing.T) {
	r := (&Record{State: Founded, Node: 1, Shards: 4, Members: []Member{{Node: 1, Address: "a:1"}}}).Alone(cluster.Nonce{1})
	b, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if again, reason := decode(b); reason != "" || again.Cluster != r.Cluster {
		t.Fatal(reason)
	}
	for i := range b {
		if _, reason := decode(b[:i]); reason == "" {
			t.Fatalf("a record cut at %d was read", i)
		}
		bad := append([]byte(nil), b...)
		bad[i] ^= 1
		if _, reason := decode(bad); reason == "" {
			t.Fatalf("a record with a flipped bit at %d was read", i)
		}
	}
	newer := append([]byte(nil), b...)
	newer[8] = 2
	if _, reason := decode(newer); !strings.Contains(reason, "newer program") {
		t.Fatal(reason)
	}
}

// TestStarts: which starts fit which directories.
func TestStarts(t *testing.T) {
	three := []Founder{{1, "a:1"}, {2, "b:1"}, {3, "c:1"}}
	nonce := cluster.Nonce{7}
	founded := &Record{State: Founded, Nonce: nonce, Cluster: 9, Node: 2, Shards: 4, Members: []Member{{1, "a:1", cluster.Nonce{1}}, {2, "b:1", nonce}, {3, "c:1", cluster.Nonce{3}}}}
	joined := &Record{State: Joined, Nonce: nonce, Cluster: 9, Node: 5, Shards: 4}
	removed := &Record{State: Removed, Nonce: nonce, Cluster: 9, Node: 5, Shards: 4}
	born := &Record{State: Born, Nonce: nonce}
	for name, c := range map[string]struct {
		start Start
		dir   Directory
		way   Way
		want  string // of the error
	}{
		"alone":                   {Start{}, Directory{}, Alone, ""},
		"alone again":             {Start{}, Directory{Identity: true, Node: 1, Cluster: 5, Shards: 4}, Alone, ""},
		"alone with peers":        {Start{Peers: true, SelfAddress: "a:1"}, Directory{}, Found, ""},
		"was alone, with peers":   {Start{Peers: true, SelfAddress: "a:1"}, Directory{Identity: true, Node: 1, Cluster: 5, Shards: 4}, Found, ""},
		"was alone, shrinks":      {Start{Peers: true, Shards: 2}, Directory{Identity: true, Node: 1, Cluster: 5, Shards: 4}, 0, "cannot shrink"},
		"was alone, bootstraps":   {Start{Peers: true, Founders: three, Node: 1}, Directory{Identity: true, Node: 1, Cluster: 5, Shards: 4}, 0, "started alone"},
		"was alone, joins":        {Start{Peers: true, Join: "a:1"}, Directory{Identity: true, Node: 1, Cluster: 5, Shards: 4}, 0, "lose its jobs"},
		"bootstraps":              {Start{Peers: true, Founders: three, Node: 2}, Directory{}, Found, ""},
		"bootstraps on":           {Start{Peers: true, Founders: three, Node: 2}, Directory{Record: born}, Found, ""},
		"begun, and no flags":     {Start{}, Directory{Record: born}, 0, "begun with"},
		"founded, same flags":     {Start{Peers: true, Founders: three, Node: 2}, Directory{Record: founded, Identity: true}, Return, ""},
		"founded, other address":  {Start{Peers: true, Founders: []Founder{{3, "x:1"}, {2, "b:1"}, {1, "a:1"}}, Node: 2}, Directory{Record: founded}, Return, ""},
		"founded, shorter list":   {Start{Peers: true, Founders: three[:2], Node: 2}, Directory{Record: founded}, 0, "founded with nodes 1, 2 and 3"},
		"founded, other node":     {Start{Peers: true, Founders: three, Node: 3}, Directory{Record: founded}, 0, "belongs to node 2"},
		"founded, more shards":    {Start{Peers: true, Founders: three, Node: 2, Shards: 8}, Directory{Record: founded}, Return, ""},
		"founded, fewer shards":   {Start{Peers: true, Founders: three, Node: 2, Shards: 3}, Directory{Record: founded}, 0, "cannot shrink"},
		"founded, no peers":       {Start{}, Directory{Record: founded}, 0, "needs --peer-listen"},
		"joins":                   {Start{Peers: true, Join: "a:1"}, Directory{}, Come, ""},
		"joins on":                {Start{Peers: true, Join: "a:1"}, Directory{Record: born}, Come, ""},
		"joined":                  {Start{Peers: true, Join: "a:1"}, Directory{Record: joined}, Return, ""},
		"joined, then bootstraps": {Start{Peers: true, Founders: three}, Directory{Record: joined}, 0, "did not found it"},
		"removed":                 {Start{Peers: true, Join: "a:1"}, Directory{Record: removed}, 0, "was removed"},
	} {
		way, r, err := Decide(&c.start, &c.dir, 4)
		if c.want != "" {
			if wrong, ok := errors.AsType[*StartError](err); !ok || !strings.Contains(wrong.Reason, c.want) {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
			continue
		}
		if err != nil || way != c.way {
			t.Errorf("%s: way %d, %v", name, way, err)
			continue
		}
		if way == Found && r != nil && r.State == Founded {
			if r = r.Alone(nonce); !r.valid() || c.dir.Cluster != 0 && r.Cluster != c.dir.Cluster {
				t.Errorf("%s: %+v is not whole", name, r)
			}
		}
	}
}
