package replica

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func TestSpare(t *testing.T) {
	t.Parallel()
	message := func(kind raftpb.MessageType, to, term, index, commit uint64) *raftpb.Message {
		return &raftpb.Message{Type: kind.Enum(), To: new(to), Term: new(term), Index: new(index), Commit: new(commit)}
	}
	with := func(m *raftpb.Message, entries int) *raftpb.Message {
		m.Entries = make([]*raftpb.Entry, entries)
		return m
	}
	refusal := func(to, term, index uint64) *raftpb.Message {
		m := message(raftpb.MsgAppResp, to, term, index, 0)
		m.Reject = new(true)
		return m
	}
	const app, resp, beat = raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgHeartbeat
	for name, c := range map[string]struct {
		messages []*raftpb.Message
		kept     []int
	}{
		"nothing":                  {nil, nil},
		"news before entries":      {[]*raftpb.Message{message(app, 2, 5, 9, 8), message(app, 3, 5, 9, 8), with(message(app, 2, 5, 9, 8), 1)}, []int{1, 2}},
		"news before news":         {[]*raftpb.Message{message(app, 2, 5, 9, 8), message(app, 2, 5, 9, 9)}, []int{1}},
		"entries before entries":   {[]*raftpb.Message{with(message(app, 2, 5, 9, 8), 1), with(message(app, 2, 5, 10, 8), 1)}, []int{0, 1}},
		"less is committed later":  {[]*raftpb.Message{message(app, 2, 5, 9, 9), with(message(app, 2, 5, 9, 8), 1)}, []int{0, 1}},
		"the later one goes back":  {[]*raftpb.Message{message(app, 2, 5, 9, 8), with(message(app, 2, 5, 7, 8), 1)}, []int{0, 1}},
		"another term":             {[]*raftpb.Message{message(app, 2, 5, 9, 8), with(message(app, 2, 6, 9, 8), 1)}, []int{0, 1}},
		"an answer before another": {[]*raftpb.Message{message(resp, 1, 5, 8, 0), message(resp, 1, 5, 9, 0)}, []int{1}},
		"an answer, and less":      {[]*raftpb.Message{message(resp, 1, 5, 9, 0), message(resp, 1, 5, 8, 0)}, []int{0, 1}},
		"an answer to another":     {[]*raftpb.Message{message(resp, 1, 5, 8, 0), message(resp, 2, 5, 9, 0)}, []int{0, 1}},
		"a refusal is kept":        {[]*raftpb.Message{refusal(1, 5, 8), message(resp, 1, 5, 9, 0)}, []int{0, 1}},
		"a refusal says less":      {[]*raftpb.Message{message(resp, 1, 5, 8, 0), refusal(1, 5, 9)}, []int{0, 1}},
		"heartbeats":               {[]*raftpb.Message{message(beat, 2, 5, 0, 8), message(beat, 2, 5, 0, 8)}, []int{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want []*raftpb.Message
			for _, i := range c.kept {
				want = append(want, c.messages[i])
			}
			if got := spare(slices.Clone(c.messages)); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
