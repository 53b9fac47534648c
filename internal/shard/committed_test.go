package shard

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// stage is a group that a test turns by hand.
type stage struct {
	*group
	t   *testing.T
	out strings.Builder
	at  Restored
}

func newStage(t *testing.T, voters ...ReplicaID) *stage {
	t.Helper()
	conf, err := GenesisConfState(voters)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{group: &group{members: map[ReplicaID]*member{}}, t: t, at: Restored{Index: GenesisIndex, Term: GenesisTerm, ConfState: conf}}
	for _, id := range voters {
		s.begin(id)
	}
	return s
}

func (s *stage) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, &s.out)
	}
}

func (s *stage) begin(id ReplicaID) *member {
	s.t.Helper()
	m := &member{id: id, log: newCrashLog(), snap: s.at}
	s.members[id] = m
	s.check(m.open())
	return m
}

// elect makes a member the leader of all that are there.
func (s *stage) elect(id ReplicaID) *member {
	s.t.Helper()
	s.check(s.members[id].shard.Campaign())
	s.check(s.stabilize(&s.out))
	return s.members[id]
}

// learner makes a node a member.
func (s *stage) learner(leader *member, node NodeID) *member {
	s.t.Helper()
	made, err := leader.shard.ChangeMembers(Change{Kind: AddLearner, Replica: NewReplicaID(node, 0)})
	s.check(err)
	m := s.begin(made[0].Replica)
	s.check(s.stabilize(&s.out))
	return m
}

// gone takes a member away, and what is on its way.
func (s *stage) gone(id ReplicaID) {
	delete(s.members, id)
	s.bag = nil
	for _, m := range s.members {
		_, err := m.shard.ForgetLeader(id.Node())
		s.check(err)
	}
}

// round has every member carry out what there is to do, and delivers those messages that match; the others stay in the bag.
func (s *stage) round(match func(*raftpb.Message) bool) {
	s.t.Helper()
	for _, id := range s.ids() {
		s.turn(s.members[id])
	}
	_, err := s.deliver(match)
	s.check(err)
}

func (s *stage) turn(m *member) {
	s.t.Helper()
	for m.shard.HasReady() {
		s.check(s.ready(m, &s.out))
		s.check(m.sync())
	}
	s.check(m.sync())
}

// leader has those that may stand do so in turn, and returns who leads then; 0 is nobody.
func (s *stage) leader(match func(*raftpb.Message) bool) ReplicaID {
	s.t.Helper()
	for range 4 {
		for _, id := range s.ids() {
			s.check(s.members[id].shard.Campaign())
			for range 8 {
				s.round(match)
			}
			for _, at := range s.ids() {
				if leads, _ := s.members[at].shard.Leading(); leads {
					return at
				}
			}
		}
	}
	return 0
}

func all(*raftpb.Message) bool      { return true }
func untold(m *raftpb.Message) bool { return m.GetType() != raftpb.MsgReadIndexResp }

func sealed(text string, sequence uint64) []byte {
	var b BatchBuilder
	b.Add(itemsOf(text))
	return slices.Clone(b.SealInPlace(Header{Stamp: 1, Proposer: 1, Sequence: sequence}))
}

// Voter 1 takes the place of 3, which leads when that ends. It alone hears that the change was committed, has one entry more than the others, and leads
// no more: neither can the others win without it, nor does it stand.
func demotedLeader(t *testing.T) *stage {
	s := newStage(t, 2, 3)
	second, third := s.elect(2), s.members[3]
	first := s.learner(second, 1)

	// The end of the change is in all logs when the leader, which is the only one that could know it to be committed, crashes and forgets.
	_, err := second.shard.ChangeMembers(Change{Kind: Promote, Replica: first.id}, Change{Kind: Demote, Replica: 3})
	s.check(err)
	changed := second.shard.Last() + 2
	for second.shard.Last() < changed || first.shard.Last() < changed || third.shard.Last() < changed {
		s.round(func(m *raftpb.Message) bool { return m.GetType() != raftpb.MsgAppResp || m.GetIndex() < changed })
	}
	second.log.crash()
	s.check(second.open())
	s.bag = nil

	// Member 3 leads next. It has one more entry for itself when it learns that all have what it began with.
	_, err = first.shard.ForgetLeader(2)
	s.check(err)
	s.check(third.shard.Campaign())
	for !third.shard.leads || first.shard.Last() == changed || second.shard.Last() == changed {
		s.round(func(m *raftpb.Message) bool { return m.GetType() != raftpb.MsgAppResp || m.GetIndex() <= changed })
	}
	s.check(third.shard.Propose(sealed("late", 1)))
	s.turn(third)
	for range 3 {
		s.round(func(m *raftpb.Message) bool { return m.GetTo() == 3 })
	}
	if leads, _ := third.shard.Leading(); leads || third.shard.Role() != RoleLearner || third.shard.Last() != changed+2 {
		t.Fatalf("member 3 leads: %v, is a %s, and has entries to %d\n%s", leads, third.shard.Role(), third.shard.Last(), &s.out)
	}
	s.bag = nil
	for _, m := range []*member{first, second} {
		_, err = m.shard.ForgetLeader(3)
		s.check(err)
	}
	return s
}

// Of voters 1, 2 and 3, 3 was a learner until just now, and knows that it is none any more. It lacks an entry that 2 has, which does not know
// that 3 votes. 1 is gone.
func promotedAlone(t *testing.T) *stage {
	s := newStage(t, 1, 2)
	one := s.elect(1)
	three := s.learner(one, 3)
	for range 3 {
		s.check(one.shard.Tick())
		s.check(s.stabilize(&s.out))
	}
	_, err := one.shard.ChangeMembers(Change{Kind: Promote, Replica: three.id})
	s.check(err)
	changed := one.shard.Last() + 1
	s.turn(one)
	s.check(one.shard.Propose(sealed("late", 1)))
	for range 4 {
		s.round(func(m *raftpb.Message) bool {
			switch {
			case m.GetTo() == 2:
				return m.GetType() == raftpb.MsgApp && m.GetCommit() < changed
			case m.GetTo() == uint64(three.id):
				return m.GetType() == raftpb.MsgApp && m.GetIndex() < changed
			}
			return true
		})
	}
	s.bag = nil
	for range 2 {
		s.check(one.shard.Tick())
		s.round(func(m *raftpb.Message) bool {
			return m.GetTo() == uint64(three.id) && m.GetType() == raftpb.MsgHeartbeat
		})
	}
	s.round(func(*raftpb.Message) bool { return false })
	if two := s.members[2]; three.shard.Role() != RoleFollower || two.shard.Last() <= three.shard.Last() || two.shard.applied >= changed {
		t.Fatalf("member 3 is a %s, its log ends at %d, and that of 2 at %d\n%s", three.shard.Role(), three.shard.Last(), two.shard.Last(), &s.out)
	}
	s.gone(1)
	return s
}

// A learner is the only one to know that voter 2 is none any more. It is gone, and so is 1, which led.
func learnerKnows(t *testing.T) *stage {
	s := newStage(t, 1, 2, 3)
	one := s.elect(1)
	four, five := s.learner(one, 4), s.learner(one, 5)
	for range 3 {
		s.check(one.shard.Tick())
		s.check(s.stabilize(&s.out))
	}
	_, err := one.shard.ChangeMembers(Change{Kind: Promote, Replica: four.id}, Change{Kind: Demote, Replica: 2})
	s.check(err)
	changed := one.shard.Last() + 2
	for one.shard.applied < changed || five.shard.applied < changed {
		s.check(one.shard.Tick())
		s.round(func(m *raftpb.Message) bool {
			return m.GetCommit() < changed || m.GetTo() == uint64(five.id) || m.GetFrom() != 1
		})
	}
	s.gone(1)
	s.gone(2)
	return s
}

// Whoever stands, a majority that is there has a leader again, though no leader told all of them of the last change.
func TestLeaderAfterUnheardChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		begin func(*testing.T) *stage
	}{{"demoted leader", demotedLeader}, {"promoted alone", promotedAlone}, {"learner knows", learnerKnows}} {
		for _, told := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, told=%v", c.name, told), func(t *testing.T) {
				t.Parallel()
				s, match := c.begin(t), untold
				if told {
					match = all
				}
				if leader := s.leader(match); (leader != 0) != told {
					t.Fatalf("%s leads\n%s", leader, &s.out)
				}
			})
		}
	}
}

// A member that hears of a change while it stands wins the very election that it would have won.
func TestElectionGoesOnAfterHearing(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, 2, 3)
	one, two := s.elect(1), s.members[2]
	_, err := one.shard.ChangeMembers(Change{Kind: AddLearner, Replica: 4})
	s.check(err)
	changed := one.shard.Last() + 1
	for s.members[3].shard.applied < changed {
		s.check(one.shard.Tick())
		s.round(func(m *raftpb.Message) bool { return m.GetTo() != 2 || m.GetCommit() < changed })
	}
	s.gone(1)
	s.check(two.shard.Campaign())
	for range 12 {
		s.round(all)
	}
	if leads, _ := two.shard.Leading(); !leads || two.shard.applied < changed {
		t.Fatalf("2 leads: %v, applied %d of %d\n%s", leads, two.shard.applied, changed, &s.out)
	}
}

// change is an entry that makes 6 a learner.
func change(t *testing.T, index, term uint64) *raftpb.Entry {
	t.Helper()
	cc, err := proto.Marshal(&raftpb.ConfChangeV2{
		Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(6))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryConfChangeV2.Enum(), Data: cc}
}

func batch(index, term uint64, text string) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Data: sealed(text, index)}
}

// appends is what a leader sends to 2, which has only the beginning of the log.
func appends(from, term uint64, entries ...*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(from), To: new(uint64(2)), Term: new(term), Index: new(uint64(GenesisIndex)), LogTerm: new(uint64(GenesisTerm)),
		Commit: new(uint64(GenesisIndex)), Entries: entries,
	}
}

func says(from, term, index, logTerm uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgReadIndexResp.Enum(), From: new(from), To: new(uint64(2)), Term: new(term), Index: new(index), LogTerm: new(logTerm), Reject: new(true),
	}
}

// alone is member 2 of five, with nothing of the others but what the test hands it.
func alone(t *testing.T) (*stage, *member) {
	s := newStage(t, 1, 2, 3, 4, 5)
	two := s.members[2]
	for _, id := range []ReplicaID{1, 3, 4, 5} {
		delete(s.members, id)
	}
	return s, two
}

func TestHeardCommitted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		log    []*raftpb.Entry // of leader 1, in term 2
		forget bool            // that leader is gone
		heard  *raftpb.Message
		want   uint64 // applied
	}{
		{"a change", []*raftpb.Entry{batch(2, 2, "a"), change(t, 3, 2)}, true, says(3, 4, 3, 2), 3},
		{"a change, and more", []*raftpb.Entry{change(t, 2, 2), batch(3, 2, "a")}, true, says(3, 4, 3, 2), 3},
		{"no change", []*raftpb.Entry{batch(2, 2, "a"), batch(3, 2, "b")}, true, says(3, 4, 3, 2), 1},
		{"the change is behind it", []*raftpb.Entry{batch(2, 2, "a"), change(t, 3, 2)}, true, says(3, 4, 2, 2), 1},
		{"another term", []*raftpb.Entry{batch(2, 2, "a"), change(t, 3, 2)}, true, says(3, 4, 3, 3), 1},
		{"more than the log has", []*raftpb.Entry{batch(2, 2, "a"), change(t, 3, 2)}, true, says(3, 4, 4, 2), 1},
		{"the leader lives", []*raftpb.Entry{batch(2, 2, "a"), change(t, 3, 2)}, false, says(3, 2, 3, 2), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, two := alone(t)
			s.check(two.shard.Step(appends(1, 2, c.log...)))
			s.turn(two)
			if c.forget {
				_, err := two.shard.ForgetLeader(1)
				s.check(err)
			}
			s.check(two.shard.Step(c.heard))
			s.turn(two)
			if two.shard.applied != c.want || two.shard.Leaderless() != c.forget {
				t.Errorf("applied %d, want %d; follows nobody: %v\n%s", two.shard.applied, c.want, two.shard.Leaderless(), &s.out)
			}
		})
	}
}

// An entry that was committed elsewhere may have been replaced here by a leader of a term before, a moment ago.
func TestHeardOfWhatIsReplaced(t *testing.T) {
	t.Parallel()
	for replaced := 1; replaced <= 2; replaced++ {
		s, two := alone(t)
		s.check(two.shard.Step(appends(1, 2, batch(2, 2, "right"), change(t, 3, 2))))
		s.turn(two)
		s.check(two.shard.Step(appends(5, 3, []*raftpb.Entry{batch(2, 3, "wrong"), batch(3, 3, "wrong")}[:replaced]...)))
		_, err := two.shard.ForgetLeader(5)
		s.check(err)
		s.check(two.shard.Step(says(3, 4, 3, 2))) // before the next Ready
		s.turn(two)
		if two.shard.applied > GenesisIndex {
			t.Errorf("applied %d after %d were replaced: %v\n%s", two.shard.applied, replaced, two.machine.text, &s.out)
		}
	}
}

// Who knows what a later leader committed acknowledges nothing to one of a term before.
func TestHeardWithTheTerm(t *testing.T) {
	t.Parallel()
	s, two := alone(t)
	s.check(two.shard.Step(appends(1, 2, batch(2, 2, "right"), change(t, 3, 2))))
	s.turn(two)
	_, err := two.shard.ForgetLeader(1)
	s.check(err)
	s.check(two.shard.Step(says(3, 4, 3, 2)))
	s.turn(two)
	s.bag = nil
	s.check(two.shard.Step(appends(5, 3, batch(2, 3, "wrong"), batch(3, 3, "wrong"))))
	s.turn(two)
	for _, m := range s.bag {
		if m.GetTo() == 5 && (m.GetTerm() < 4 || m.GetIndex() > 0) {
			t.Errorf("it answers %s", describeMessage(m))
		}
	}
	if !slices.Equal(two.machine.text, []string{"right"}) {
		t.Errorf("applied %v", two.machine.text)
	}
}

// Who knows more answers, once, and a leader is told nothing.
func TestAnswersWhoAsks(t *testing.T) {
	t.Parallel()
	s, two := alone(t)
	message := appends(1, 2, batch(2, 2, "a"), change(t, 3, 2))
	message.Commit = new(uint64(3))
	s.check(two.shard.Step(message))
	s.turn(two)
	s.bag = nil
	asks := says(3, 2, 2, 2)
	asks.Reject = new(false)
	s.check(two.shard.Step(asks))
	s.check(two.shard.Step(says(3, 2, 2, 2)))
	s.turn(two)
	if len(s.bag) != 1 || !s.bag[0].GetReject() || s.bag[0].GetIndex() != 3 || s.bag[0].GetLogTerm() != 2 || s.bag[0].GetTo() != 3 {
		t.Errorf("it sends %v\n%s", s.bag, &s.out)
	}
}

// Who is being elected, or leads, is not disturbed; who does not vote listens also while it believes in a leader, since it never misses one.
func TestWhoListens(t *testing.T) {
	t.Parallel()
	log := func() []*raftpb.Entry { return []*raftpb.Entry{batch(2, 2, "a"), change(t, 3, 2)} }
	answer := func(kind raftpb.MessageType, from, term uint64) *raftpb.Message {
		return &raftpb.Message{Type: kind.Enum(), From: new(from), To: new(uint64(2)), Term: new(term)}
	}
	s, two := alone(t)
	s.check(two.shard.Step(appends(1, 2, log()...)))
	s.turn(two)
	_, err := two.shard.ForgetLeader(1)
	s.check(err)
	s.check(two.shard.Campaign())
	s.turn(two)
	for _, kind := range []raftpb.MessageType{raftpb.MsgPreVoteResp, raftpb.MsgVoteResp} {
		s.check(two.shard.Step(answer(kind, 1, 3)))
		s.check(two.shard.Step(answer(kind, 4, 3)))
		s.turn(two)
		s.check(two.shard.Step(says(3, 4, 3, 2)))
		s.turn(two)
		if two.shard.applied > GenesisIndex || two.shard.term != 3 {
			t.Errorf("after the answers of type %s it applied %d, in term %d\n%s", kind, two.shard.applied, two.shard.term, &s.out)
		}
	}
	if !two.shard.leads {
		t.Errorf("it does not lead\n%s", &s.out)
	}

	s = newStage(t, 1, 3)
	outsider := s.begin(2)
	s.members = map[ReplicaID]*member{2: outsider}
	s.check(outsider.shard.Step(appends(1, 2, log()...)))
	s.turn(outsider)
	s.check(outsider.shard.Step(says(3, 2, 3, 2)))
	s.turn(outsider)
	if outsider.shard.applied != 3 {
		t.Errorf("who does not vote applied %d\n%s", outsider.shard.applied, &s.out)
	}
}
