package transfer_test

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestScripts turns a leader and a follower by hand. The commands:
//
//	new                                a group without a past; payloads have 100 bytes
//	commit n=20 [term=1] [ends=(i,j)]  the group commits entries, the last of which ends jobs
//	leader|follower [follow=i] [snapshot] [diverge=n] [crash]
//	offer term=2 number=1              a new Sender, of the leader's newest snapshot
//	send [n=1] [max=1024] [lose] [twice] [keep] [damage]
//	                                   chunks from the sender; keep puts one aside
//	late                               delivers what was kept
//	resend                             the sender gives up waiting
//	show                               where the follower is
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, name string) {
		s := &script{}
		datadriven.RunTest(t, name, s.run)
	})
}

type script struct {
	pair
	sender *transfer.Sender
	kept   [][]byte
	out    strings.Builder
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	var err error
	switch d.Cmd {
	case "new":
		h := newHistory(1)
		s.pair = pair{h, mustOpen(t, h, 1), mustOpen(t, h, 2)}
	case "commit":
		s.commit(t, d)
	case "leader":
		err = s.replica(t, d, &s.leader)
	case "follower":
		err = s.replica(t, d, &s.follower)
	case "offer":
		var term, number uint64
		d.ScanArgs(t, "term", &term)
		d.ScanArgs(t, "number", &number)
		s.sender, err = s.leader.sender(term, number)
	case "send":
		err = s.send(t, d)
	case "late":
		for _, b := range s.kept {
			err = errors.Join(err, s.deliver(b))
		}
		s.kept = nil
	case "resend":
		s.sender.Resend()
	case "show":
		s.show(t)
	default:
		d.Fatalf(t, "unknown command")
	}
	if err != nil {
		fmt.Fprintf(&s.out, "error: %v\n", err)
	}
	return s.out.String()
}

func (s *script) commit(t *testing.T, d *datadriven.TestData) {
	n, term := 1, uint64(1)
	d.MaybeScanArgs(t, "n", &n)
	d.MaybeScanArgs(t, "term", &term)
	ends, _ := d.Arg("ends")
	for i := range n {
		var ended []uint64
		for j := range ends.Vals {
			if i == n-1 {
				var index uint64
				_, err := fmt.Sscan(ends.Vals[j], &index)
				must(t, err)
				ended = append(ended, index)
			}
		}
		s.h.add(term, true, ended, make([]byte, 100))
	}
	fmt.Fprintf(&s.out, "committed up to %d\n", s.h.last())
}

func (s *script) replica(t *testing.T, d *datadriven.TestData, n **node) error {
	for _, arg := range d.CmdArgs {
		var err error
		var number uint64
		if len(arg.Vals) > 0 {
			arg.Scan(t, 0, &number)
		}
		switch arg.Key {
		case "follow":
			err = (*n).follow(number)
		case "snapshot":
			err = (*n).snapshot(0)
		case "diverge":
			err = (*n).diverge(int(number), 99)
		case "crash":
			*n, err = (*n).reopen(vfs.AllLost())
		default:
			d.Fatalf(t, "unknown argument %s", arg.Key)
		}
		if err != nil {
			return err
		}
	}
	s.describe(*n)
	return nil
}

func (s *script) describe(n *node) {
	state := n.log.State(testShard)
	fmt.Fprintf(&s.out, "applied %d, snapshot %d with %d live, tail %d to %d, held %d\n",
		n.m.applied, n.newest, n.m.live.GetCardinality(), state.First, state.Last, n.log.Held(testShard))
}

func (s *script) send(t *testing.T, d *datadriven.TestData) error {
	n, most := 1, 1024
	d.MaybeScanArgs(t, "n", &n)
	d.MaybeScanArgs(t, "max", &most)
	for range n {
		b, err := s.sender.Next(most)
		if err != nil {
			return err
		}
		if b == nil {
			s.out.WriteString("nothing to send\n")
			return nil
		}
		s.out.WriteString("> " + transfer.Describe(b) + "\n")
		switch {
		case d.HasArg("lose"):
			continue
		case d.HasArg("keep"):
			s.kept = append(s.kept, b)
			continue
		case d.HasArg("damage"):
			b[len(b)/2]++
		}
		if err := s.deliver(b); err != nil {
			return err
		}
		if d.HasArg("twice") {
			if err := s.deliver(b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *script) deliver(b []byte) error {
	ack, err := s.follower.take(b)
	if err != nil {
		return err
	}
	state := s.sender.Acked(ack)
	_, says, _ := strings.Cut(transfer.Describe(ack), ": ")
	fmt.Fprintf(&s.out, "< %s", says)
	if state != transfer.Sending {
		fmt.Fprintf(&s.out, " (%s)", [...]string{"", "", "waiting", "installed", "not needed", "failed"}[state])
	}
	s.out.WriteByte('\n')
	return nil
}

func (s *script) show(t *testing.T) {
	s.describe(s.follower)
	must(t, s.follower.check())
	var names []string
	for name, b := range files(t, s.follower.disk, transfer.Dir("node", testShard)) {
		names = append(names, fmt.Sprintf("%s %d\n", path.Base(name), len(b)))
	}
	slices.Sort(names)
	s.out.WriteString(strings.Join(names, ""))
}
