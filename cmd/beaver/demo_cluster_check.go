package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/beaver-raft/beaver"
)

// check compares every result with a computation of our own, holds the repeats against the reasons for them, and prints the table.
func (d *clusterDemo) check(ctx context.Context) error {
	d.say("check every result against a computation of our own")
	verdict, err := checkResults(ctx, d.client, d.root, d.files, d.workers.queues)
	if err != nil {
		return err
	}
	sum, err := d.totals(ctx)
	if err != nil {
		return err
	}
	completedTwice := int(sum.CompletedTotal) - len(d.files) - verdict.duplicates + verdict.lost
	facts := []demoFact{
		{"jobs", len(d.files)},
		{"bytes", verdict.bytes},
		{"time", d.elapsed.Round(time.Millisecond)},
		{"jobs/s", int(float64(len(d.files)) / d.elapsed.Seconds())},
	}
	for _, what := range []string{"leader killed", "leader cut off", "leader and its disk lost", "node restarted"} {
		facts = append(facts, demoFact{what + " → all its queues store jobs again", d.took[what].Round(time.Millisecond)})
	}
	facts = append(facts, d.times...)
	began, err := d.workers.attempts()
	if err != nil {
		return err
	}
	lost, returned, unrun := d.judgeReruns(verdict.reruns, began)
	facts = append(facts, []demoFact{
		{"lost", verdict.lost},
		{"wrong", verdict.wrong},
		{"stored twice", verdict.duplicates},
		{"completed twice", completedTwice},
		{"run again after the worker was lost", len(lost)},
	}...)
	facts = append(facts, lost...)
	facts = append(facts, demoFact{"run again after the lease was given back", len(returned)})
	facts = append(facts, returned...)
	facts = append(facts, demoFact{"leases given back before the job began", unrun}, demoFact{"stale acks refused", d.workers.staleRefused()})
	if err := d.table(facts); err != nil {
		return err
	}
	if verdict.lost+verdict.wrong+verdict.duplicates > 0 || completedTwice != 0 {
		return errors.New("the demo failed: jobs were lost, wrong or repeated; see the table")
	}
	return nil
}

// judgeReruns looks at the jobs that had more than one lease: those that ran again since their worker was lost, those that ran again
// since their lease went back though the worker lives, and how many leases went back before the job began. The outcome of the attempt
// before is fenced in any case: it is refused as stale.
func (d *clusterDemo) judgeReruns(jobs []*beaver.JobInfo, began map[beaver.JobID][]demoAttempt) (lost, returned []demoFact, unrun int) {
	for _, job := range jobs {
		attempts := began[job.ID]
		if len(attempts) < 2 {
			unrun++
			continue
		}
		var args digestArgs
		name := "  " + string(job.ID)
		if json.Unmarshal(job.Payload, &args) == nil {
			name = "  " + args.Path
		}
		why, known := d.fenced[job.ID]
		switch {
		case job.Crashes == 0:
			returned = append(returned, demoFact{name, d.story(attempts)})
		case known:
			lost = append(lost, demoFact{name, why})
		default:
			lost = append(lost, demoFact{name, d.story(attempts) + "; it was not heard of for its TTL"})
		}
	}
	return lost, returned, unrun
}

// story tells who began a job when it was begun again, and what had been done to the cluster before.
func (d *clusterDemo) story(attempts []demoAttempt) string {
	first, again := attempts[0], attempts[1]
	text := fmt.Sprintf("begun by %s, and by %s %v later", first.worker, again.worker, again.at.Sub(first.at).Round(time.Millisecond))
	for _, e := range slices.Backward(d.events) {
		if e.at.Before(again.at) {
			return fmt.Sprintf("%s, %v after %s", text, again.at.Sub(e.at).Round(time.Millisecond), e.name)
		}
	}
	return text
}
