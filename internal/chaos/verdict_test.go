//go:build unix

package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/history"
)

// undecidedPerThousandMax bounds how many jobs' histories may be too dear to judge.
const undecidedPerThousandMax = 5

// endStates are those in which a job may be at the end of a run.
var endStates = []beaver.JobState{beaver.StateCompleted, beaver.StateCancelled, beaver.StateDiscarded}

// drain waits until every job has ended. The dead are given another chance.
func (s *storm) drain(c *beaver.Client) {
	ctx, cancel := context.WithTimeout(s.ctx, drainTimeout)
	defer cancel()
	for !s.fallen() {
		queues, err := c.Queues(ctx)
		left := uint64(0)
		for _, q := range queues {
			left += q.Scheduled + q.Ready + q.Running + q.Backoff + q.Dead
			if q.Dead > 0 {
				s.endDead(ctx, c, q.Name)
			}
		}
		if err == nil && left == 0 && len(queues) == len(stormQueues()) {
			return
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			s.record.violate("%d jobs did not end within %v after the faults: %v", left, drainTimeout, err)
			return
		}
	}
}

// endDead retries the dead one by one, so that the history knows of each. Those with unique keys, which they may not get again, are discarded.
func (s *storm) endDead(ctx context.Context, c *beaver.Client, name string) {
	call := s.record.now()
	page, err := c.ListJobs(ctx, beaver.JobFilter{Queue: name, State: beaver.StateDead, PageSize: 1000}, "")
	if err != nil || len(page.Jobs) == 0 {
		return
	}
	s.record.listed(call, s.record.now(), page.Jobs)
	var ids []beaver.JobID
	for _, j := range page.Jobs {
		ids = append(ids, j.ID)
	}
	what, how := history.Retry, c.RetryDead
	if isUnique(name) {
		what, how = history.Discard, c.DiscardDead
	}
	call = s.record.now()
	errs, err := how(ctx, ids...)
	for i, id := range ids {
		if l, ok := s.record.labelOf(id); ok {
			one := err
			if err == nil && errs[i] != nil {
				one = errs[i]
			}
			s.record.wished(what, l, call, "", one)
		}
	}
}

// labelOf is the label of a job that somebody is known to have stored.
func (r *recorder) labelOf(id beaver.JobID) (history.Label, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.labels[id]
	return l, ok
}

// tells is what the cluster says of all jobs when all have ended: how many there are in each state.
func (s *storm) tells(c *beaver.Client) map[beaver.JobState]int {
	count := make(map[beaver.JobState]int)
	for _, name := range stormQueues() {
		listed := make(map[beaver.JobState]int)
		for _, state := range endStates {
			call := s.record.now()
			for j, err := range c.Jobs(s.ctx, beaver.JobFilter{Queue: name, State: state}) {
				if err != nil {
					s.record.violate("list the %s jobs of %s: %v", state, name, err)
					break
				}
				listed[state]++
				l, ok := s.record.labelOf(j.ID)
				if !ok {
					s.record.violate("%s has ended as %s, and nobody is known to have stored or run it", j.ID, state)
					continue
				}
				s.record.saw(l, call, s.record.now(), j)
				s.record.isOver(l)
			}
		}
		q, err := c.Queue(s.ctx, name)
		if err != nil {
			s.record.violate("queue %s: %v", name, err)
			continue
		}
		if known := s.record.reading(name).existed; q.UniqueKeys > 0 || q.DeduplicatedTotal < known {
			s.record.violate("queue %s, all of whose jobs have ended, holds %d unique keys; it says that %d jobs existed, and of %d that was told", name, q.UniqueKeys, q.DeduplicatedTotal, known)
		}
		all := 0
		for state, n := range listed {
			count[state] += n
			all += n
		}
		if q.EnqueuedTotal != uint64(all) || q.CompletedTotal != uint64(listed[beaver.StateCompleted]) {
			s.record.violate("the books of %s disagree: %v are listed; counters say enqueued %d, completed %d", name, listed, q.EnqueuedTotal, q.CompletedTotal)
		}
	}
	return count
}

// verdict holds what clients were told against each other and against what the cluster says at the end, and prints the table.
func (s *storm) verdict(clients []*beaver.Client, notes string) {
	ran, err := s.record.readNotes(notes)
	if err != nil {
		s.record.violate("%v", err)
	}
	count := s.tells(clients[0])
	lost := s.record.lost()
	keyed, late := s.record.inOrder()
	s.record.alone()
	s.agree()
	began := time.Now()
	undecided := s.record.judge()
	judged := time.Since(began)
	for _, c := range clients {
		if err := c.Close(s.ctx); err != nil {
			s.record.violate("close a client: %v", err)
		}
	}
	for _, id := range s.ids() {
		if s.members[id].p.cmd != nil {
			s.signal(s.members[id], syscall.SIGTERM)
		}
	}
	s.table(count, ran, undecided, judged, lost, keyed, late)
	for i, v := range s.record.violations {
		if i == 20 {
			s.t.Errorf("… and %d more", len(s.record.violations)-i)
			break
		}
		s.t.Error(v)
	}
	if len(s.happened) == 0 {
		s.t.Error("no fault happened")
	}
	if jobs := uint64(s.record.log.Jobs()); undecided*1000 > undecidedPerThousandMax*max(jobs, 1000) {
		s.t.Errorf("the history of %d jobs of %d is undecided", undecided, jobs)
	}
}

// agree checks that all nodes come to have the same state of each shard.
func (s *storm) agree() {
	type state struct {
		applied     uint64
		fingerprint string
	}
	s.until("all nodes have the same state", func(*beaver.ClusterInfo) bool {
		all := make(map[int]map[state]bool)
		for _, id := range s.ids() {
			if err := s.operator("http://"+s.members[id].at.public, time.Second, func(ctx context.Context, c *beaver.Client) error {
				status, err := c.Status(ctx)
				if err != nil {
					return err
				}
				for _, sh := range status.Shards {
					if all[sh.ID] == nil {
						all[sh.ID] = make(map[state]bool)
					}
					all[sh.ID][state{sh.AppliedIndex, sh.Fingerprint}] = true
				}
				return nil
			}); err != nil {
				return false
			}
		}
		for _, states := range all {
			if len(states) != 1 {
				return false
			}
		}
		return len(all) > 0
	})
}

// table prints what the run was, and what came of it.
func (s *storm) table(count map[beaver.JobState]int, ran int, undecided uint64, judged time.Duration, lost, keyed, late int) {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "\n  %-36s %s", name, fmt.Sprintf(format, args...))
	}
	r := s.record
	var all tally
	for _, t := range r.calls {
		all = tally{all.answered + t.answered, all.refused + t.refused, all.unknown + t.unknown, all.failed + t.failed}
	}
	row("seed", "%d", s.seed)
	row("faults for, then healed and drained", "%.0f s, %.1f s", s.took.chaos.Seconds(), s.took.heal.Seconds())
	row("calls of clients, default settings", "%v", all)
	for _, name := range slices.Sorted(maps.Keys(r.calls)) {
		row("  "+name, "%v", *r.calls[name])
	}
	faults := 0
	for _, n := range s.happened {
		faults += n
	}
	row("faults that happened", "%d", faults)
	for _, f := range s.faults() {
		row("  "+f.name, "%d%s", s.happened[f.name], missed(s.missed[f.name]))
	}
	stored := 0
	for _, k := range r.books {
		stored += int(k.stored)
	}
	row("jobs acknowledged", "%d (%d more stored without an answer)", stored, len(r.ids)-stored)
	row("  completed, cancelled, discarded", "%d + %d + %d = %d", count[beaver.StateCompleted], count[beaver.StateCancelled], count[beaver.StateDiscarded],
		count[beaver.StateCompleted]+count[beaver.StateCancelled]+count[beaver.StateDiscarded])
	row("  lost", "%d", lost)
	row("programs run by beaver work", "%d", ran)
	row("outcomes refused as stale", "%d", r.stale)
	row("jobs that existed, by unique key", "%d", len(r.existing))
	row("changes refused, as the queue moved", "%d", s.refused)
	row("jobs with an ordering key, leased", "%d, of which %d seem to be overtaken, each for a lease that nobody was told of", keyed, late)
	verdict := "an order explains it"
	if len(r.violations) > 0 {
		verdict = fmt.Sprintf("%d VIOLATIONS", len(r.violations))
	}
	row("history", "%d jobs judged in %.1f s, %d undecided: %s", r.log.Jobs(), judged.Seconds(), undecided, verdict)
	for _, c := range r.complaints {
		fmt.Fprintf(&b, "\n  failed at %s", c)
	}
	s.t.Log(b.String())
}

func (t tally) String() string {
	calls := t.answered + t.refused + t.unknown + t.failed
	text := fmt.Sprintf("%d, answered %.3f %%", calls, 100*float64(t.answered)/float64(max(calls, 1)))
	for _, n := range []struct {
		count int
		what  string
	}{{t.refused, "refused for want of disk"}, {t.unknown, "outcome unknown"}, {t.failed, "failed"}} {
		if n.count > 0 {
			text += fmt.Sprintf(", %d %s", n.count, n.what)
		}
	}
	return text
}

func missed(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d more met nothing)", n)
}
