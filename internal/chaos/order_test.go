package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// tenure is where a queue's new jobs are stored, from the first moment at which that may be so to the last.
type tenure struct {
	shards      []int
	first, last time.Duration
}

// settled records which shards a queue is on from the beginning.
func (r *recorder) settled(name string, shards []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tenures[name] = []tenure{{shards: shards, last: history.Forever}}
}

// moved records that a queue came to be on other shards, between two moments.
func (r *recorder) moved(name string, shards []int, began, ended time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.tenures[name]
	all[len(all)-1].last = ended
	r.tenures[name] = append(all, tenure{shards: shards, first: began, last: history.Forever})
}

// homes are the shards that a queue is on now.
func (r *recorder) homes(name string) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.tenures[name]
	return all[len(all)-1].shards
}

// placed is a job that is known to have been stored.
type placed struct {
	jobOf
	label     history.Label
	shard     int
	pos       queue.Pos
	call, ret time.Duration // of its enqueue
	token     queue.Token   // of the first lease that anybody was told of; 0: of none
}

// told is a lease that a client was told of.
type told struct {
	label history.Label
	ret   time.Duration
}

// order holds jobs against what a queue promises of their places and of their turns. All of it is true whatever fails, since it needs no
// more than the answers:
//
//   - A job is on one of the shards that its queue was on when it was stored, and those of an ordering key are all on one, as long as the queue
//     does not move.
//   - A job whose enqueue was answered before that of another was sent is before it in their shard's log.
//   - In its home, a job of a key is leased before those of the key behind it are. A client need not be told of that: answers get lost, and
//     of two nodes that have jobs for one fetch, one takes its lease back. But each lease of a shard has the next token. So a
//     job that others seem to have overtaken was leased under one of their shard's tokens that nobody ever saw, given after it was sent and
//     before the first of the others was; a token for each such job.
type order struct {
	tenures map[string][]tenure
	jobs    []placed
	leases  map[int]map[queue.Token]told // of each shard

	wrong []string
	// keyed counts the jobs that have a key and were leased, and overtaken those of them that seem to have been.
	keyed, overtaken int
}

// orderLocked collects what is known of the jobs' order.
//
// REQUIRES: r.mu.
func (r *recorder) orderLocked() *order {
	o := &order{tenures: r.tenures, leases: make(map[int]map[queue.Token]told)}
	for l, id := range r.ids {
		parsed, err := queue.ParseJobID(string(id))
		if err != nil {
			continue // it was reported
		}
		p := placed{jobOf: r.jobs[l], label: l, shard: int(parsed.Shard), pos: parsed.Pos}
		for _, op := range r.log.Of(l) {
			switch op.Kind {
			case history.Enqueue:
				p.call, p.ret = op.Call, op.Return
			case history.Lease, history.Get:
				if op.Token != 0 {
					o.told(&p, op.Token, op.Return)
				}
			default: // the lease was seen before
			}
		}
		o.jobs = append(o.jobs, p)
	}
	return o
}

// told takes note of a lease.
func (o *order) told(p *placed, token queue.Token, ret time.Duration) {
	all := o.leases[p.shard]
	if all == nil {
		all = make(map[queue.Token]told)
		o.leases[p.shard] = all
	}
	if p.token == 0 || token < p.token {
		p.token = token
	}
	was, known := all[token]
	if known && was.label != p.label {
		o.refuse("jobs %d and %d of shard %d were leased under the same token %d", was.label, p.label, p.shard, token)
	}
	if !known || ret < was.ret {
		all[token] = told{p.label, ret}
	}
}

func (o *order) refuse(format string, args ...any) {
	o.wrong = append(o.wrong, fmt.Sprintf(format, args...))
}

func (p *placed) String() string {
	return fmt.Sprintf("job %d (%s, key %q, %v, stored in %.3f … %.3f s)", p.label, p.queue, cmp.Or(p.key, p.unique),
		queue.JobID{Shard: uint16(p.shard), Pos: p.pos}, p.call.Seconds(), p.ret.Seconds())
}

// judge looks for what must not be.
func (o *order) judge() {
	slices.SortFunc(o.jobs, func(a, b placed) int { return cmp.Compare(a.label, b.label) })
	o.judgePlaces()
	type group struct {
		queue, key    string
		tenure, shard int
	}
	homes := make(map[group][]*placed)
	at := make(map[group]*placed) // the first job of a key in a tenure, without the shard
	for i := range o.jobs {
		p := &o.jobs[i]
		tenure, certain := o.tenureOf(p)
		key := cmp.Or(p.key, p.unique) // both begin differently
		if key == "" || !certain {
			continue
		}
		if first := at[group{p.queue, key, tenure, 0}]; first == nil {
			at[group{p.queue, key, tenure, 0}] = p
		} else if first.shard != p.shard {
			o.refuse("the jobs of a key are on two shards, and the queue did not move: %v, %v", first, p)
		}
		if p.key != "" {
			g := group{p.queue, p.key, tenure, p.shard}
			homes[g] = append(homes[g], p)
		}
	}
	late := make(map[int][]overtaken)
	for g, jobs := range homes {
		late[g.shard] = append(late[g.shard], o.lateOf(jobs)...)
	}
	for shard, jobs := range late {
		o.overtaken += len(jobs)
		o.begin(shard, jobs)
		o.explain(shard, jobs)
	}
}

// tenureOf says where its queue was when a job was stored, as far as the times and its shard tell, and whether that is certain.
func (o *order) tenureOf(p *placed) (at int, certain bool) {
	at = -1
	for i, t := range o.tenures[p.queue] {
		if p.ret < t.first || p.call > t.last || !slices.Contains(t.shards, p.shard) {
			continue
		}
		if at >= 0 {
			return at, false
		}
		at = i
	}
	if at < 0 {
		o.refuse("a job is on a shard that its queue was not on then: %v; it was on %v", p, o.tenures[p.queue])
	}
	return at, at >= 0
}

// judgePlaces holds the places of jobs in their shards' logs against the times at which they were stored.
func (o *order) judgePlaces() {
	byCall, byReturn := make([]*placed, len(o.jobs)), make([]*placed, len(o.jobs))
	for i := range o.jobs {
		byCall[i], byReturn[i] = &o.jobs[i], &o.jobs[i]
	}
	slices.SortStableFunc(byCall, func(a, b *placed) int { return cmp.Compare(a.call, b.call) })
	slices.SortStableFunc(byReturn, func(a, b *placed) int { return cmp.Compare(a.ret, b.ret) })
	last := make(map[int]*placed) // the greatest place of each shard among the jobs that had been answered
	for _, p := range byCall {
		for len(byReturn) > 0 && byReturn[0].ret < p.call {
			if was := last[byReturn[0].shard]; was == nil || was.pos < byReturn[0].pos {
				last[byReturn[0].shard] = byReturn[0]
			}
			byReturn = byReturn[1:]
		}
		if before := last[p.shard]; before != nil && before.pos > p.pos {
			o.refuse("%v was sent when %v had been answered, and is before it", p, before)
		}
	}
}

// overtaken is a job that others of its key seem to have overtaken: if they did not, it had a lease between two tokens.
type overtaken struct {
	p, by       *placed
	after, upTo queue.Token // none of both
}

// lateOf returns which jobs of a key in one home seem to have been overtaken.
func (o *order) lateOf(jobs []*placed) (late []overtaken) {
	slices.SortFunc(jobs, func(a, b *placed) int { return cmp.Compare(a.pos, b.pos) })
	var by *placed // which of those behind was leased first
	for _, p := range slices.Backward(jobs) {
		if p.token == 0 {
			continue // it was cancelled before, or nobody was ever told of it
		}
		o.keyed++
		if by == nil || p.token < by.token {
			by = p
			continue
		}
		late = append(late, overtaken{p: p, by: by, upTo: by.token})
	}
	return late
}

// begin finds for each overtaken job of a shard the last token that somebody had been told of when the job was sent.
func (o *order) begin(shard int, late []overtaken) {
	tokens := slices.Collect(maps.Keys(o.leases[shard]))
	slices.SortFunc(tokens, func(a, b queue.Token) int { return cmp.Compare(o.leases[shard][a].ret, o.leases[shard][b].ret) })
	slices.SortFunc(late, func(a, b overtaken) int { return cmp.Compare(a.p.call, b.p.call) })
	last := queue.Token(0)
	for i := range late {
		for len(tokens) > 0 && o.leases[shard][tokens[0]].ret < late[i].p.call {
			last, tokens = max(last, tokens[0]), tokens[1:]
		}
		late[i].after = last
	}
}

// explain finds for each overtaken job of a shard a token that nobody saw, each for one job.
func (o *order) explain(shard int, late []overtaken) {
	slices.SortFunc(late, func(a, b overtaken) int {
		return cmp.Or(cmp.Compare(a.after, b.after), cmp.Compare(a.p.label, b.p.label))
	})
	var open []overtaken // for which a token may be taken, the most urgent first
	for token := queue.Token(1); len(late)+len(open) > 0; token++ {
		if len(open) == 0 {
			token = max(token, late[0].after+1)
		}
		for len(late) > 0 && late[0].after < token {
			at := sort.Search(len(open), func(i int) bool { return open[i].upTo > late[0].upTo })
			open, late = slices.Insert(open, at, late[0]), late[1:]
		}
		for len(open) > 0 && open[0].upTo <= token {
			o.refuse("of an ordering key, %v was leased first under token %d, and %v behind it under token %d: each token of shard %d from %d on is of a lease "+
				"that somebody was told of, or that another overtaken job had", open[0].p, open[0].p.token, open[0].by, open[0].by.token, shard, open[0].after)
			open = open[1:]
		}
		if _, seen := o.leases[shard][token]; !seen && len(open) > 0 {
			open = open[1:]
		}
	}
}

// inOrder judges the order of all jobs, and returns how many of those with a key were leased, and how many of these seem to have been overtaken.
func (r *recorder) inOrder() (keyed, overtaken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.orderLocked()
	o.judge()
	for _, wrong := range o.wrong {
		r.violateLocked("%s", wrong)
	}
	return o.keyed, o.overtaken
}

// TestOrder: what must not be is found, and what may be is let pass.
func TestOrder(t *testing.T) {
	const s = time.Second
	tests := map[string]struct {
		jobs   []placed
		others []queue.Token // that were given for other jobs of shard 1
		wrong  int
	}{
		"in order":                        {jobs: []placed{{pos: 1, call: 1 * s, ret: 2 * s, token: 1}, {pos: 2, call: 3 * s, ret: 4 * s, token: 2}}},
		"beside each other":               {jobs: []placed{{pos: 2, call: 1 * s, ret: 4 * s, token: 2}, {pos: 1, call: 3 * s, ret: 5 * s, token: 1}}},
		"the later one is before":         {jobs: []placed{{pos: 2, call: 1 * s, ret: 2 * s, token: 2}, {pos: 1, call: 3 * s, ret: 4 * s, token: 1}}, wrong: 1},
		"of which no answer came":         {jobs: []placed{{pos: 2, call: 1 * s, ret: history.Forever, token: 2}, {pos: 1, call: 3 * s, ret: 4 * s, token: 1}}},
		"overtaken":                       {jobs: []placed{{pos: 1, token: 2}, {pos: 2, token: 1}}, wrong: 1},
		"by several":                      {jobs: []placed{{pos: 1, token: 3}, {pos: 2, token: 2}, {pos: 3, token: 1}}, wrong: 2},
		"after a lease that nobody saw":   {jobs: []placed{{pos: 1, token: 3}, {pos: 2, token: 2}}},
		"before it was sent":              {jobs: []placed{{pos: 1, call: 6 * s, ret: 7 * s, token: 5}, {pos: 2, call: 6 * s, ret: 7 * s, token: 4}}, others: []queue.Token{3}, wrong: 1},
		"after it was sent":               {jobs: []placed{{pos: 1, call: 6 * s, ret: 7 * s, token: 5}, {pos: 2, call: 6 * s, ret: 7 * s, token: 4}}, others: []queue.Token{2}},
		"two, and one lease that nobody":  {jobs: []placed{{pos: 1, token: 4}, {pos: 2, token: 3}, {pos: 3, token: 2}}, wrong: 1},
		"two, and two":                    {jobs: []placed{{pos: 1, token: 5}, {pos: 2, token: 4}, {pos: 3, token: 3}}},
		"never leased":                    {jobs: []placed{{pos: 1}, {pos: 2, token: 1}}},
		"under one token":                 {jobs: []placed{{pos: 1, token: 1}, {pos: 2, token: 1}}, wrong: 2},
		"on two shards":                   {jobs: []placed{{pos: 1, token: 1}, {shard: 2, pos: 2, token: 1}}, wrong: 1},
		"on a shard that is not the home": {jobs: []placed{{shard: 3, pos: 1, token: 1}}, wrong: 1},
		"before and after a move":         {jobs: []placed{{pos: 1, ret: 9 * s, token: 2}, {shard: 3, pos: 2, call: 13 * s, ret: 14 * s, token: 1}}},
		"in the old home after a move":    {jobs: []placed{{shard: 2, pos: 1, call: 13 * s, ret: 14 * s}}, wrong: 1},
		"in the new home before a move":   {jobs: []placed{{shard: 3, pos: 1, call: 8 * s, ret: 9 * s}}, wrong: 1},
		"overtaken, of two homes": {jobs: []placed{
			{pos: 1, call: 8 * s, ret: 9 * s, token: 2}, {pos: 2, call: 13 * s, ret: 14 * s, token: 1},
		}},
		"overtaken, perhaps of two homes": {jobs: []placed{
			{pos: 1, call: 8 * s, ret: 9 * s, token: 2}, {pos: 2, call: 10 * s, ret: 11 * s, token: 1},
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := &order{
				tenures: map[string][]tenure{"q": {{shards: []int{1, 2}, last: 12 * s}, {shards: []int{1, 3}, first: 10 * s, last: history.Forever}}},
				leases:  map[int]map[queue.Token]told{},
			}
			for _, token := range tc.others {
				o.told(&placed{shard: 1, label: 99}, token, 5*s)
			}
			for i, p := range tc.jobs {
				p.jobOf, p.label, p.shard = jobOf{queue: "q", key: "k"}, history.Label(i), max(p.shard, 1)
				if token := p.token; token != 0 {
					p.token = 0
					o.told(&p, token, 20*s)
				}
				o.jobs = append(o.jobs, p)
			}
			if o.judge(); len(o.wrong) != tc.wrong {
				t.Errorf("found %d, want %d: %q", len(o.wrong), tc.wrong, o.wrong)
			}
		})
	}
}
