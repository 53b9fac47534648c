package shard

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/wal"
)

// journal is a machine that remembers what it applied.
type journal struct {
	index uint64
	text  []string
}

func (j *journal) Apply(index uint64, _ Header, items [][]byte) {
	if index <= j.index {
		panic(fmt.Sprintf("index %d applied after %d", index, j.index))
	}
	j.index = index
	for _, item := range items {
		j.text = append(j.text, string(item))
	}
}

func (j *journal) Snapshot() Image         { return nil }
func (j *journal) Restore(io.Reader) error { return nil }
func (j *journal) Fingerprint() uint64     { return uint64(len(j.text)) }

// electionTicks is so long that the library's random part of an election timeout never matters in a script.
const electionTicks = 100_000

// member is one replica with its log. It is turned by hand.
type member struct {
	id      ReplicaID
	log     *crashLog
	shard   *Shard
	machine *journal
	snap    Restored
	text    []string // of the snapshot
	waits   []Done
}

// group wires members with a bag of messages.
type group struct {
	members map[ReplicaID]*member
	bag     []*raftpb.Message
	reads   uint64
}

func (g *group) ids() []ReplicaID {
	var ids []ReplicaID
	for id := range g.members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (m *member) open() error {
	m.machine = &journal{index: m.snap.Index, text: slices.Clone(m.text)}
	m.waits = nil
	var err error
	m.shard, err = Open(Config{ID: 7, Replica: m.id, Log: m.log, Machine: m.machine, ElectionTicks: electionTicks}, m.snap)
	return err
}

// ready carries out one Ready and describes it.
func (g *group) ready(m *member, out *strings.Builder) error {
	eff, err := m.shard.Ready()
	if err != nil {
		return err
	}
	a := eff.Append
	m.log.append(a.HardState, a.Entries)
	if !a.Empty() || a.Done.Waits() {
		fmt.Fprintf(out, "%d append", m.id)
		if hs := a.HardState; hs != nil {
			fmt.Fprintf(out, " term=%d vote=%d commit=%d", hs.Term, hs.Vote, hs.Commit)
		}
		for _, e := range a.Entries {
			fmt.Fprintf(out, " %s", describe(e.Index, e.Term, e.Data))
		}
		if a.Done.Waits() {
			m.waits = append(m.waits, a.Done)
			fmt.Fprint(out, " (must be durable)")
		}
		fmt.Fprintln(out)
	}
	for _, msg := range eff.Messages {
		fmt.Fprintf(out, "%d sends %s\n", m.id, describeMessage(msg))
	}
	g.bag = append(g.bag, eff.Messages...)
	if eff.Committed.Len() > 0 {
		before := len(m.machine.text)
		if err := m.shard.Apply(eff.Committed); err != nil {
			return err
		}
		index, _, _ := m.shard.Applied()
		fmt.Fprintf(out, "%d applied to %d: %s\n", m.id, index, strings.Join(m.machine.text[before:], " "))
	}
	for _, w := range eff.Snapshots {
		fmt.Fprintf(out, "%d wishes snapshot %d for %d\n", m.id, w.Index, w.To)
	}
	for _, r := range eff.Reads {
		fmt.Fprintf(out, "%d read %d at index %d\n", m.id, r.ID, r.Index)
	}
	return nil
}

// sync makes everything durable and tells the shard.
func (m *member) sync() error {
	m.log.sync()
	waits := m.waits
	m.waits = nil
	for _, d := range waits {
		if err := m.shard.AppendDone(d); err != nil {
			return err
		}
	}
	return nil
}

// deliver hands out the messages of the bag that match, and forgets those of stopped members.
func (g *group) deliver(match func(*raftpb.Message) bool) (delivered int, err error) {
	bag := g.bag
	g.bag = nil
	for _, msg := range bag {
		to := g.members[ReplicaID(msg.GetTo())]
		switch {
		case !match(msg):
			g.bag = append(g.bag, msg)
		case to != nil && to.shard != nil:
			delivered++
			if err := to.shard.Step(msg); err != nil {
				return delivered, err
			}
		}
	}
	return delivered, nil
}

// stabilize runs everything until nothing moves.
func (g *group) stabilize(out *strings.Builder) error {
	for moved := true; moved; {
		moved = false
		for _, id := range g.ids() {
			m := g.members[id]
			for m.shard != nil && m.shard.HasReady() {
				moved = true
				if err := g.ready(m, out); err != nil {
					return err
				}
			}
			if m.shard != nil && len(m.waits) > 0 {
				moved = true
				if err := m.sync(); err != nil {
					return err
				}
			}
		}
		n, err := g.deliver(func(*raftpb.Message) bool { return true })
		if err != nil {
			return err
		}
		moved = moved || n > 0
	}
	return nil
}

func describe(index, term uint64, data []byte) string {
	if len(data) == 0 {
		return fmt.Sprintf("%d/%d:-", term, index)
	}
	_, items, err := DecodeBatch(data, nil)
	if err != nil {
		return fmt.Sprintf("%d/%d:undecodable", term, index)
	}
	text := make([]string, len(items))
	for i := range items {
		text[i] = string(items[i])
	}
	return fmt.Sprintf("%d/%d:%s", term, index, strings.Join(text, ","))
}

func describeMessage(m *raftpb.Message) string {
	s := fmt.Sprintf("%s to %d term=%d index=%d", strings.TrimPrefix(m.GetType().String(), "Msg"), m.GetTo(), m.GetTerm(), m.GetIndex())
	if m.GetReject() {
		s += " reject"
	}
	for _, e := range m.GetEntries() {
		s += " " + describe(e.GetIndex(), e.GetTerm(), e.GetData())
	}
	return s
}

// TestGroup turns groups by script. Commands:
//
//	new voters=(1,2,3)         a new group
//	campaign id=1              stand for election
//	tick id=1 n=2
//	propose id=1 items=(a,b)
//	read id=1
//	ready id=1                 carry out one Ready; what it appends is not durable yet
//	sync id=1                  make it durable and say so
//	deliver [from=1] [to=2] [term=2]   hand out messages of the bag
//	drop [from=1] [to=2] [term=2]      lose them
//	stabilize                  all of that until nothing moves
//	crash id=1                 lose what is not durable, and stop
//	restart id=1
//	snapshot id=1              restart from here
//	damage id=1                reading the log fails
//	status                     what each member knows
func TestGroup(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/group", func(t *testing.T, path string) {
		g := &group{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			if err := g.run(t, d, &out); err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
			return out.String()
		})
	})
}

func (g *group) run(t *testing.T, d *datadriven.TestData, out *strings.Builder) error {
	var (
		id    uint64
		n     int
		items []string
	)
	d.MaybeScanArgs(t, "id", &id)
	m := g.members[ReplicaID(id)]
	switch d.Cmd {
	case "new":
		return g.create(t, d)
	case "campaign":
		return m.shard.Campaign()
	case "tick":
		d.ScanArgs(t, "n", &n)
		for range n {
			if err := m.shard.Tick(); err != nil {
				return err
			}
		}
		return nil
	case "propose":
		d.ScanArgs(t, "items", &items)
		var b BatchBuilder
		b.Add(itemsOf(items...))
		return m.shard.Propose(b.SealInPlace(Header{Stamp: 1, Proposer: id, Sequence: 1}))
	case "propose-garbage":
		return m.shard.Propose([]byte("garbage"))
	case "read":
		g.reads++
		return m.shard.ReadIndex(g.reads)
	case "ready":
		if !m.shard.HasReady() {
			fmt.Fprintln(out, "nothing")
			return nil
		}
		return g.ready(m, out)
	case "sync":
		return m.sync()
	case "deliver", "drop":
		return g.route(t, d)
	case "stabilize":
		return g.stabilize(out)
	case "crash":
		m.shard = nil
		m.log.crash()
		return nil
	case "restart":
		return m.open()
	case "snapshot":
		return m.snapshot()
	case "damage":
		m.log.readErr = &wal.CorruptError{File: "0000000001.wal", Offset: 4096, Shard: 7, Index: 3, Reason: "payload checksum"}
		return nil
	case "status":
		g.status(out)
		return nil
	}
	return errors.New("unknown command")
}

func (g *group) create(t *testing.T, d *datadriven.TestData) error {
	var ids []uint64
	d.ScanArgs(t, "voters", &ids)
	*g = group{members: map[ReplicaID]*member{}}
	voters := replicaIDs(ids)
	conf, err := GenesisConfState(voters)
	if err != nil {
		return err
	}
	for _, id := range voters {
		m := &member{id: id, log: newCrashLog(), snap: Restored{Index: GenesisIndex, Term: GenesisTerm, ConfState: conf}}
		g.members[id] = m
		if err := m.open(); err != nil {
			return err
		}
	}
	return nil
}

// route delivers or drops.
func (g *group) route(t *testing.T, d *datadriven.TestData) error {
	var from, to, term uint64
	d.MaybeScanArgs(t, "from", &from)
	d.MaybeScanArgs(t, "term", &term)
	d.MaybeScanArgs(t, "to", &to)
	match := func(m *raftpb.Message) bool {
		return (from == 0 || m.GetFrom() == from) && (to == 0 || m.GetTo() == to) && (term == 0 || m.GetTerm() == term)
	}
	if d.Cmd == "drop" {
		g.bag = slices.DeleteFunc(g.bag, match)
		return nil
	}
	_, err := g.deliver(match)
	return err
}

// snapshot makes the present state the one that the member restarts from.
func (m *member) snapshot() error {
	index, term, _ := m.shard.Applied()
	conf, err := m.shard.ConfState()
	if err != nil {
		return err
	}
	m.snap = Restored{Index: index, Term: term, ConfState: conf}
	m.text = slices.Clone(m.machine.text)
	m.shard.Snapshotted(m.snap, index+1)
	return nil
}

func (g *group) status(out *strings.Builder) {
	for _, id := range g.ids() {
		m := g.members[id]
		if m.shard == nil {
			fmt.Fprintf(out, "%d stopped, durable to %d\n", id, m.log.durable.state.Last)
			continue
		}
		leading, term := m.shard.Leading()
		index, _, _ := m.shard.Applied()
		fmt.Fprintf(out, "%d term=%d leader=%d leading=%v last=%d durable=%d applied=%d: %s\n",
			id, term, m.shard.Leader(), leading, m.shard.Last(), m.log.durable.state.Last, index, strings.Join(m.machine.text, " "))
	}
}
