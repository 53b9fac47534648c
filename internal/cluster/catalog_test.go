package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

var codeNames = [...]string{CodeOK: "ok", CodeExists: "exists", CodeNotFound: "not found", CodeLimit: "limit", CodeMoving: "moving", CodePartitioned: "partitioned", CodeMalformed: "malformed"}

// script is a catalog that a datadriven script drives.
type script struct {
	c     *Catalog
	index uint64
	now   queue.Millis
}

func (s *script) apply(item []byte) Result {
	s.index++
	s.now += 1000
	return s.c.Apply(s.index, s.now, [][]byte{item}, nil)[0]
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	arg := func(key string) string {
		for _, a := range d.CmdArgs {
			if a.Key == key && len(a.Vals) > 0 {
				return a.Vals[0]
			}
		}
		return ""
	}
	number := func(key string) int { n, _ := strconv.Atoi(arg(key)); return n }
	settings := func() *queue.Settings {
		v := queue.DefaultSettings()
		if n := number("attempts"); n > 0 {
			v.MaxAttempts = uint32(n)
		}
		return &v
	}
	var r Result
	switch d.Cmd {
	case "init":
		r = s.apply(AppendInit(nil, ID(number("id"))))
	case "create":
		r = s.apply(AppendCreateQueue(nil, arg("name"), uint16(number("shard")), settings()))
	case "configure":
		r = s.apply(AppendConfigureQueue(nil, arg("name"), settings()))
	case "pause", "resume":
		r = s.apply(AppendPauseQueue(nil, arg("name"), d.Cmd == "pause"))
	case "register":
		r = s.apply(AppendRegisterWorker(nil, &WorkerInfo{Name: arg("name"), Queues: strings.Fields(arg("queue"))}))
	case "remove":
		r = s.apply(AppendRemoveWorker(nil, queue.WorkerID(number("worker"))))
	case "found":
		var nodes []Node
		for id := range strings.FieldsSeq(strings.ReplaceAll(arg("nodes"), "+", " ")) {
			n, _ := strconv.Atoi(id)
			nodes = append(nodes, Node{ID: shard.NodeID(n), Nonce: nonceOf("n" + id), Info: NodeInfo{Peer: "host" + id + ":7401"}})
		}
		r = s.apply(AppendFound(nil, nodes))
	case "expect":
		r = s.apply(AppendExpect(nil, arg("peer"), shard.NodeID(number("replaces"))))
	case "join":
		r = s.apply(AppendJoin(nil, nonceOf(arg("nonce")), shard.NodeID(number("want")), &NodeInfo{Peer: arg("peer"), Zone: arg("zone")}))
	case "move":
		state := func(key string) NodeState { return NodeState(slices.Index(nodeStates[:], arg(key))) }
		r = s.apply(AppendMoveNode(nil, shard.NodeID(number("node")), state("from"), state("to")))
	case "announce":
		r = s.apply(AppendAnnounce(nil, shard.NodeID(number("node")), nonceOf(arg("nonce")), &NodeInfo{Peer: arg("peer"), Version: arg("version")}))
	case "prefer":
		r = s.apply(AppendPrefer(nil, shard.ID(number("shard")), shard.NodeID(number("node"))))
	case "grow":
		r = s.apply(AppendGrow(nil, number("founded"), number("shards")))
	case "relocate":
		r = s.apply(AppendRelocate(nil, arg("name"), uint16(number("from")), uint16(number("to"))))
	case "opened":
		r = s.apply(AppendOpened(nil, moving(arg("name"), number("id"), number("from"), number("to"))))
	case "settled":
		r = s.apply(AppendSettled(nil, moving(arg("name"), number("id"), number("from"), number("to"))))
	case "emptied":
		r = s.apply(AppendEmptied(nil, &Queue{Name: arg("name"), Place: Place{Moves: uint64(number("moves"))}}))
	case "spread":
		r = s.apply(AppendSpread(nil, arg("name"), queue.QueueID(number("id")), shardList(arg("shards"))))
	case "create-spread":
		r = s.apply(AppendCreateSpread(nil, arg("name"), shardList(arg("shards")), settings()))
	case "wait":
		s.now += queue.Millis(number("seconds") * 1000)
		return ""
	case "nodes":
		return s.nodes()
	case "shards":
		return s.shards()
	case "raw":
		r = s.apply([]byte(d.Input))
	case "restart":
		s.c = reborn(t, s.c)
		return s.show()
	case "show":
		return s.show()
	case "place":
		return s.place(t, arg("loads"), max(1, number("times")))
	case "spread-over":
		var loads []Load
		for i, leader := range shardList(arg("leaders")) {
			loads = append(loads, Load{Shard: uint16(i + 1), Leader: uint64(leader)})
		}
		return fmt.Sprintf("shards %v\n", s.c.PlaceSeveral(loads, number("count")))
	default:
		t.Fatalf("%s: no such command", d.Pos)
	}
	out := codeNames[r.Code]
	if r.Queue.ID != 0 {
		out += fmt.Sprintf(" queue=%d shard=%d version=%d", r.Queue.ID, r.Queue.Shard(), r.Queue.Version)
	}
	if r.Worker != 0 {
		out += fmt.Sprintf(" worker=%d", r.Worker)
	}
	return out + "\n"
}

func (s *script) show() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster %d\n", s.c.ID())
	for q := range s.c.Queues() {
		fmt.Fprintf(&b, "queue %s id=%d shard=%d version=%d attempts=%d paused=%v\n", q.Name, q.ID, q.Shard(), q.Version, q.Settings.MaxAttempts, q.Settings.Paused)
		switch {
		case !q.plain():
			fmt.Fprintf(&b, "  home=%v from=%v opened=%d formers=%v moves=%d\n", q.Home, q.From, q.Opened, q.Formers, q.Moves)
		case len(q.Formers) > 0:
			from, formers := uint16(0), make([]uint16, len(q.Formers))
			for i, h := range q.Formers {
				formers[i] = h.Shards[0]
			}
			if q.Moving() {
				from = q.From.Shards[0]
			}
			fmt.Fprintf(&b, "  from=%d opened=%d formers=%v\n", from, q.Opened, formers)
		}
	}
	for w := range s.c.Workers() {
		fmt.Fprintf(&b, "worker %d name=%s since=%d\n", w.ID, w.Info.Name, w.Registered)
	}
	return b.String()
}

// moving is a queue as the steps of its move name it: by its shards or, after a spread, by the id of its new homes.
func moving(name string, id, from, to int) *Queue {
	q := &Queue{Name: name}
	q.From, q.Home = Homes{ID: 1, Shards: []uint16{uint16(from)}}, Homes{ID: 1, Shards: []uint16{uint16(to)}}
	if id != 0 {
		q.Home.ID, q.From.ID = queue.QueueID(id), queue.QueueID(id+1)
	}
	return q
}

// shardList is numbers with + between them.
func shardList(text string) []uint16 {
	var shards []uint16
	for word := range strings.FieldsSeq(strings.ReplaceAll(text, "+", " ")) {
		n, _ := strconv.Atoi(word)
		shards = append(shards, uint16(n))
	}
	return shards
}

func nonceOf(text string) (n Nonce) {
	copy(n[:], text)
	return n
}

func (s *script) nodes() string {
	var b strings.Builder
	for n := range s.c.Nodes() {
		fmt.Fprintf(&b, "node %d %s peer=%s nonce=%s replaces=%d since=%d zone=%s version=%s\n", n.ID, n.State, n.Info.Peer,
			strings.TrimRight(string(n.Nonce[:]), "\x00"), n.Replaces, n.Since, n.Info.Zone, n.Info.Version)
	}
	for id := range shard.ID(8) {
		if n := s.c.Preferred(id); n != 0 {
			fmt.Fprintf(&b, "shard %d led by %d\n", id, n)
		}
	}
	return fmt.Sprintf("%slast %d\n", b.String(), s.c.LastNode())
}

// place places queues: loads is what each shard has, as rate/jobs, with + between them.
func (s *script) place(t *testing.T, loads string, times int) string {
	var all []Load
	for i, text := range strings.Split(loads, "+") {
		l := Load{Shard: uint16(i + 1)}
		if _, err := fmt.Sscanf(text, "%d/%d", &l.Rate, &l.Jobs); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	var picked []string
	for range times {
		at := s.c.Place(all)
		all[at-1].Placed++
		picked = append(picked, fmt.Sprint(at))
	}
	return "shards " + strings.Join(picked, " ") + "\n"
}

func (s *script) shards() string {
	var b strings.Builder
	for _, g := range s.c.growths {
		fmt.Fprintf(&b, "shards %d to %d founded by %v\n", g.First, g.Last, g.Founders)
	}
	return fmt.Sprintf("%s%d since it grew\n", b.String(), s.c.Shards())
}

// reborn writes a catalog's image and restores it.
func reborn(t testing.TB, c *Catalog) *Catalog {
	t.Helper()
	var b bytes.Buffer
	n, err := c.Snapshot().WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	again, err := Restore(&b)
	if err != nil {
		t.Fatal(err)
	}
	if again.Fingerprint() != c.Fingerprint() || again.Applied() != c.Applied() {
		t.Fatalf("restored fingerprint %x at %d, want %x at %d", again.Fingerprint(), again.Applied(), c.Fingerprint(), c.Applied())
	}
	return again
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/script", func(t *testing.T, path string) {
		s := &script{c: New()}
		datadriven.RunTest(t, path, s.run)
	})
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("n", QueueNameBytesMax)
	for name, want := range map[string]bool{
		"": false, "a": true, long: true, long + "n": false, "a.b_c:d/e-F9": true, "a b": false, "ä": false, "a\n": false,
	} {
		if got := ValidQueueName(name); got != want {
			t.Errorf("ValidQueueName(%q) is %v", name, got)
		}
	}
	text := strings.Repeat("t", WorkerTextBytesMax)
	label := strings.Repeat("l", WorkerLabelBytesMax)
	good := WorkerInfo{
		Name: text, Host: text, Version: text, PID: WorkerPIDMax, Concurrency: WorkerConcurrencyMax,
		Labels: slices.Repeat([]string{label}, WorkerLabelsMax), Queues: slices.Repeat([]string{long}, WorkerQueuesMax),
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	if n := len(appendWorker(nil, &Worker{ID: 1<<64 - 1, Registered: millisMax, Info: good})); n > workerCommandBytesMax {
		t.Fatalf("the largest worker record has %d bytes, over %d", n, workerCommandBytesMax)
	}
	for field, edit := range map[string]func(*WorkerInfo){
		"name":        func(w *WorkerInfo) { w.Name += "t" },
		"host":        func(w *WorkerInfo) { w.Host += "t" },
		"version":     func(w *WorkerInfo) { w.Version += "t" },
		"pid":         func(w *WorkerInfo) { w.PID = -1 },
		"concurrency": func(w *WorkerInfo) { w.Concurrency++ },
		"labels":      func(w *WorkerInfo) { w.Labels = append(slices.Clone(w.Labels), "x") },
		"queues":      func(w *WorkerInfo) { w.Queues = append(slices.Clone(w.Queues), "x") },
	} {
		bad := good
		edit(&bad)
		var fe *FieldError
		if err := bad.Validate(); !errors.As(err, &fe) || fe.Field != field || fe.TooLarge != (field != "pid" && field != "concurrency") {
			t.Errorf("over the limit of %s: %#v", field, err)
		}
		s := &script{c: New()}
		if bad.PID >= 0 {
			if r := s.apply(AppendRegisterWorker(nil, &bad)); r.Code != CodeMalformed {
				t.Errorf("over the limit of %s: applied with %s", field, codeNames[r.Code])
			}
		}
	}
	c := New()
	settings := queue.DefaultSettings()
	for i := range QueuesMax {
		if r := c.Apply(1, 1, [][]byte{AppendCreateQueue(nil, fmt.Sprint("q", i), 1, &settings)}, nil)[0]; r.Code != CodeOK {
			t.Fatalf("queue %d: %s", i, codeNames[r.Code])
		}
	}
	if r := c.Apply(1, 1, [][]byte{AppendCreateQueue(nil, "over", 1, &settings)}, nil)[0]; r.Code != CodeLimit {
		t.Fatalf("queue over the limit: %s", codeNames[r.Code])
	}
	for i := range WorkersMax {
		if r := c.Apply(1, 1, [][]byte{AppendRegisterWorker(nil, &WorkerInfo{})}, nil)[0]; r.Code != CodeOK {
			t.Fatalf("worker %d: %s", i, codeNames[r.Code])
		}
	}
	if r := c.Apply(1, 1, [][]byte{AppendRegisterWorker(nil, &WorkerInfo{})}, nil)[0]; r.Code != CodeLimit {
		t.Fatalf("worker over the limit: %s", codeNames[r.Code])
	}
	reborn(t, c)
}

// Any commands give the same state on two replicas, and an image restored half-way goes on like the original.
func TestReplicasAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := New(), New()
		for i := range rapid.IntRange(1, 60).Draw(rt, "commands") {
			item := drawCommand(rt)
			index := uint64(i + 1)
			ra := a.Apply(index, queue.Millis(i), [][]byte{item}, nil)
			rb := b.Apply(index, queue.Millis(i), [][]byte{item}, nil)
			if fmt.Sprint(ra) != fmt.Sprint(rb) || a.Fingerprint() != b.Fingerprint() {
				rt.Fatalf("replicas differ after command %d", i)
			}
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				b = reborn(t, b)
			}
		}
	})
}

func drawCommand(rt *rapid.T) []byte {
	name := rapid.SampledFrom([]string{"a", "b", "c", "bad name"}).Draw(rt, "name")
	settings := queue.DefaultSettings()
	settings.MaxAttempts = rapid.Uint32Range(1, 3).Draw(rt, "attempts")
	node, other := shard.NodeID(rapid.IntRange(0, 4).Draw(rt, "node")), shard.NodeID(rapid.IntRange(0, 4).Draw(rt, "other"))
	nonce := nonceOf(name)
	info := NodeInfo{Peer: fmt.Sprintf("h%d:1", rapid.IntRange(1, 4).Draw(rt, "peer"))}
	switch rapid.IntRange(0, 19).Draw(rt, "kind") {
	case 6:
		return AppendFound(nil, []Node{{ID: node, Nonce: nonce, Info: info}})
	case 7:
		return AppendExpect(nil, info.Peer, other)
	case 8:
		return AppendJoin(nil, nonce, node, &info)
	case 9:
		from := NodeState(rapid.IntRange(1, 5).Draw(rt, "from"))
		return AppendMoveNode(nil, node, from, NodeState(rapid.IntRange(1, 6).Draw(rt, "to")))
	case 10:
		return AppendAnnounce(nil, node, nonce, &info)
	case 11:
		return AppendPrefer(nil, shard.ID(other), node)
	case 13, 14, 15:
		step := moving(name, 0, int(max(1, node)), int(max(1, other)))
		switch rapid.IntRange(0, 4).Draw(rt, "move") {
		case 0:
			return AppendOpened(nil, step)
		case 1:
			return AppendSettled(nil, step)
		case 2:
			return AppendEmptied(nil, &Queue{Name: name, Place: Place{Moves: rapid.Uint64Range(0, 4).Draw(rt, "moves")}})
		}
		return AppendRelocate(nil, name, uint16(node), uint16(other))
	case 16, 17, 18, 19:
		id := rapid.IntRange(1, 6).Draw(rt, "id")
		shards := rapid.SliceOfN(rapid.Uint16Range(0, 5), 1, 4).Draw(rt, "shards")
		switch rapid.IntRange(0, 5).Draw(rt, "spread") {
		case 0:
			return AppendCreateSpread(nil, name, shards, &settings)
		case 1, 2:
			return AppendOpened(nil, moving(name, id, 1, 1))
		case 3:
			return AppendSettled(nil, moving(name, id, 1, 1))
		}
		return AppendSpread(nil, name, queue.QueueID(id), shards)
	case 12:
		return AppendGrow(nil, rapid.IntRange(0, 3).Draw(rt, "founded"), rapid.IntRange(0, 20).Draw(rt, "shards"))
	case 0:
		return AppendCreateQueue(nil, name, rapid.Uint16Range(0, 3).Draw(rt, "shard"), &settings)
	case 1:
		return AppendConfigureQueue(nil, name, &settings)
	case 2:
		return AppendPauseQueue(nil, name, rapid.Bool().Draw(rt, "paused"))
	case 3:
		return AppendRegisterWorker(nil, &WorkerInfo{Name: name})
	case 4:
		return AppendRemoveWorker(nil, queue.WorkerID(rapid.Uint64Range(0, 9).Draw(rt, "worker")))
	}
	return AppendInit(nil, ID(rapid.Uint64Range(0, 2).Draw(rt, "id")))
}

// An image keeps the state it was taken of while the catalog goes on.
func TestImageIsFrozen(t *testing.T) {
	s := &script{c: New()}
	settings := queue.DefaultSettings()
	s.apply(AppendCreateQueue(nil, "a", 1, &settings))
	img := s.c.Snapshot()
	want := img.Fingerprint()
	done := make(chan error)
	go func() {
		var b bytes.Buffer
		_, err := img.WriteTo(&b)
		if err == nil {
			_, err = Restore(&b)
		}
		done <- err
	}()
	for i := range 1000 {
		s.apply(AppendCreateQueue(nil, fmt.Sprint("q", i), 1, &settings))
		s.apply(AppendPauseQueue(nil, "a", i%2 == 0))
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if img.Fingerprint() != want || !img.Live().IsEmpty() {
		t.Fatal("the image has changed")
	}
}

func FuzzApply(f *testing.F) {
	settings := queue.DefaultSettings()
	f.Add(AppendInit(nil, 5))
	f.Add(AppendCreateQueue(nil, "a", 1, &settings))
	f.Add(AppendConfigureQueue(nil, "a", &settings))
	f.Add(AppendPauseQueue(nil, "a", true))
	f.Add(AppendRegisterWorker(nil, &WorkerInfo{Name: "w", Labels: []string{"l"}, Queues: []string{"a"}}))
	f.Add(AppendRemoveWorker(nil, 1))
	f.Add(AppendFound(nil, []Node{{ID: 1, Nonce: nonceOf("a"), Info: NodeInfo{Peer: "h:1"}}}))
	f.Add(AppendExpect(nil, "h:1", 0))
	f.Add(AppendJoin(nil, nonceOf("a"), 0, &NodeInfo{Peer: "h:1"}))
	f.Add(AppendMoveNode(nil, 1, NodeJoining, NodeActive))
	f.Add(AppendAnnounce(nil, 1, nonceOf("a"), &NodeInfo{Peer: "h:2"}))
	f.Add(AppendPrefer(nil, 1, 1))
	f.Add(AppendGrow(nil, 4, 8))
	f.Add(AppendRelocate(nil, "a", 1, 2))
	f.Add(AppendOpened(nil, moving("a", 0, 1, 2)))
	f.Add(AppendSettled(nil, moving("a", 0, 1, 2)))
	f.Add(AppendCreateSpread(nil, "b", []uint16{1, 2}, &settings))
	f.Add(AppendSpread(nil, "a", 1, []uint16{1, 2}))
	f.Add(AppendOpened(nil, moving("a", 2, 1, 1)))
	f.Add(AppendSettled(nil, moving("a", 2, 1, 1)))
	f.Add(AppendEmptied(nil, &Queue{Name: "a", Place: Place{Moves: 1}}))
	f.Fuzz(func(t *testing.T, item []byte) {
		c := New()
		c.Apply(1, 1, [][]byte{AppendCreateQueue(nil, "a", 1, &settings), item, item}, nil)
		reborn(t, c)
	})
}

func FuzzRestore(f *testing.F) {
	s := &script{c: New()}
	settings := queue.DefaultSettings()
	s.apply(AppendInit(nil, 5))
	s.apply(AppendCreateQueue(nil, "a", 1, &settings))
	s.apply(AppendRegisterWorker(nil, &WorkerInfo{Name: "w"}))
	s.apply(AppendFound(nil, []Node{{ID: 3, Nonce: nonceOf("a"), Info: NodeInfo{Peer: "h:1"}}}))
	s.apply(AppendPrefer(nil, 1, 3))
	s.apply(AppendGrow(nil, 2, 6))
	s.apply(AppendRelocate(nil, "a", 1, 3))
	s.apply(AppendCreateSpread(nil, "b", []uint16{1, 2}, &settings))
	s.apply(AppendSpread(nil, "b", 2, []uint16{2, 3, 1}))
	var b bytes.Buffer
	if _, err := s.c.Snapshot().WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, image []byte) {
		c, err := Restore(bytes.NewReader(image))
		if err != nil {
			if !errors.Is(err, ErrBadImage) {
				t.Fatalf("error %v is no ErrBadImage", err)
			}
			return
		}
		reborn(t, c)
	})
}

func TestDamagedImages(t *testing.T) {
	s := &script{c: New()}
	settings := queue.DefaultSettings()
	s.apply(AppendInit(nil, 5))
	s.apply(AppendCreateQueue(nil, "a", 1, &settings))
	s.apply(AppendRegisterWorker(nil, &WorkerInfo{Name: "w"}))
	s.apply(AppendFound(nil, []Node{{ID: 3, Nonce: nonceOf("a"), Info: NodeInfo{Peer: "h:1"}}}))
	s.apply(AppendPrefer(nil, 1, 3))
	s.apply(AppendGrow(nil, 2, 6))
	s.apply(AppendRelocate(nil, "a", 1, 3))
	s.apply(AppendCreateSpread(nil, "b", []uint16{1, 2}, &settings))
	s.apply(AppendSpread(nil, "b", 2, []uint16{2, 3, 1}))
	var b bytes.Buffer
	if _, err := s.c.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	image := b.Bytes()
	for n := range image {
		if _, err := Restore(bytes.NewReader(image[:n])); !errors.Is(err, ErrBadImage) {
			t.Fatalf("an image cut at %d: %v", n, err)
		}
	}
	for i := range len(image) {
		bad := slices.Clone(image)
		bad[i] ^= 1
		c, err := Restore(bytes.NewReader(bad))
		// The index is not part of the state's fingerprint; the snapshot file's checksum covers it.
		if err == nil && (i < 8 || i >= 16) {
			t.Fatalf("a flipped bit at %d gives %+v", i, c)
		}
	}
}
