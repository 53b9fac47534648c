package shard

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestNobodyLeadsOneTermTwice: a member asks for votes while its own disk stands still, has those of the others, and loses power before its
// term is durable. It does not know that term any more, and asks for the same votes again. If it had led by the first ones, it would lead one
// term twice, and put other entries to the same places: to those who hold the first ones they are the same by index and term.
func TestNobodyLeadsOneTermTwice(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, 2, 3)
	one, two, three := s.members[1], s.members[2], s.members[3]
	s.check(one.shard.Campaign())
	for range 8 {
		for one.shard.HasReady() { // and nothing is synced
			s.check(s.ready(one, &s.out))
		}
		if two.shard.Leader() == 1 {
			s.check(two.shard.Nudge())
		}
		s.turn(two)
		s.turn(three)
		if _, err := s.deliver(func(m *raftpb.Message) bool { return m.GetTo() != 3 || m.GetType() != raftpb.MsgApp }); err != nil {
			t.Fatal(err)
		}
	}
	s.bag = nil
	one.log.crash()
	s.check(one.open())
	for _, m := range []*member{two, three} {
		_, err := m.shard.ForgetLeader(1)
		s.check(err)
	}
	s.check(one.shard.Campaign())
	for range 8 {
		s.round(func(m *raftpb.Message) bool { return m.GetFrom() != 2 && m.GetTo() != 2 })
	}
	if leads, _ := one.shard.Leading(); !leads {
		t.Fatalf("nobody leads\n%s", &s.out)
	}
	s.check(one.shard.Propose(sealed("job", 1)))
	s.check(s.stabilize(&s.out))
	for range 3 {
		s.check(one.shard.Tick())
		s.check(s.stabilize(&s.out))
	}
	for _, m := range []*member{one, two, three} {
		if !slices.Equal(m.machine.text, []string{"job"}) {
			t.Errorf("member %d applied %q", m.id, m.machine.text)
		}
	}
	if t.Failed() {
		t.Log(&s.out)
	}
}

// TestVotesAreAskedForWhenDurable: nobody hears of a term before it is durable at who began it.
func TestVotesAreAskedForWhenDurable(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, 2, 3)
	one := s.members[1]
	s.check(one.shard.Campaign())
	late := func() {
		for _, m := range s.bag {
			says := m.GetType() == raftpb.MsgVote || m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgHeartbeat
			if m.GetFrom() == 1 && says && m.GetTerm() > one.log.durable.state.HardState.Term {
				t.Fatalf("1 sends %s, and its term %d is durable\n%s", describeMessage(m), one.log.durable.state.HardState.Term, &s.out)
			}
		}
	}
	for range 8 {
		for one.shard.HasReady() {
			s.check(s.ready(one, &s.out))
			late()
		}
		s.turn(s.members[2])
		s.turn(s.members[3])
		_, err := s.deliver(all)
		s.check(err)
	}
	s.check(one.sync())
	s.check(s.stabilize(&s.out))
	if leads, _ := one.shard.Leading(); !leads {
		t.Fatalf("it does not lead when its disk goes on\n%s", &s.out)
	}
}
