package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/sim"
)

const (
	// reportEvery lies between two reports of a process that runs seeds.
	reportEvery = time.Second
	// progressEvery lies between two lines that tell how far all are.
	progressEvery = 15 * time.Second
)

// report is what a process says of its seeds so far, as a line of JSON on its standard output.
type report struct {
	Seeds     uint64
	Simulated time.Duration
	Faults    [sim.FaultCount]uint64
	Counts    sim.Counts
	Failure   *failure
}

// failure is the seed that ended a process's run.
type failure struct {
	Seed uint64
	Err  string
}

// add counts one seed.
func (r *report) add(s *sim.Result) {
	r.Seeds++
	r.Simulated += s.Simulated
	for f, n := range s.Faults {
		r.Faults[f] += n
	}
	r.Counts.Add(&s.Counts)
	if s.Err != nil {
		r.Failure = &failure{s.Seed, s.Err.Error()}
	}
}

// merge counts the seeds of another process.
func (r *report) merge(o *report) {
	r.Seeds += o.Seeds
	r.Simulated += o.Simulated
	for f, n := range o.Faults {
		r.Faults[f] += n
	}
	r.Counts.Add(&o.Counts)
}

// many runs seeds until the time is over or one fails, and reports.
func (o options) many() bool {
	var (
		begun = time.Now()
		told  = begun
		sum   report
		out   = json.NewEncoder(os.Stdout)
	)
	for seed := o.from; sum.Failure == nil; seed += o.step {
		if o.seeds > 0 && sum.Seeds == o.seeds || o.seeds == 0 && time.Since(begun) > time.Duration(o.seconds)*time.Second {
			break
		}
		run := o.run
		run.Seed = seed
		r := sim.Run(run)
		sum.add(&r)
		if sum.Failure == nil && time.Since(told) > reportEvery {
			told = time.Now()
			if out.Encode(&sum) != nil {
				return false // nobody listens any more
			}
		}
	}
	return out.Encode(&sum) == nil && sum.Failure == nil
}

// fleet is the processes that run seeds, as far as they have reported.
type fleet struct {
	begun time.Time

	mu      sync.Mutex
	reports []report
	broken  []error
}

// processes runs the seeds with n processes, and prints what they found.
func (o options) processes(n uint64) bool {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return false
	}
	f := &fleet{begun: time.Now(), reports: make([]report, n), broken: make([]error, n)}
	var group sync.WaitGroup
	for i := range n {
		share := o.seeds / n
		if i < o.seeds%n {
			share++
		}
		if o.seeds > 0 && share == 0 {
			continue
		}
		group.Go(func() {
			command := exec.Command(self, os.Args[1:]...)
			command.Args = append(command.Args, fmt.Sprint("-from=", o.from+i), fmt.Sprint("-step=", n), fmt.Sprint("-seeds=", share))
			command.Stderr = os.Stderr
			f.broken[i] = f.follow(command, i, o)
		})
	}
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	f.progress(done)
	return f.summary(o)
}

// follow runs one process and takes its reports.
func (f *fleet) follow(command *exec.Cmd, i uint64, o options) error {
	pipe, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			fmt.Fprintln(os.Stderr, lines.Text())
			continue
		}
		f.mu.Lock()
		f.reports[i] = r
		f.mu.Unlock()
		if r.Failure != nil {
			fmt.Printf("FAILED: seed %d: %s\nreplay: %s\n", r.Failure.Seed, r.Failure.Err, o.replay(r.Failure.Seed))
		}
	}
	err = command.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reports[i].Failure != nil {
		return nil // It has been told.
	}
	return err
}

func (f *fleet) total() (sum report, failed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.reports {
		sum.merge(&f.reports[i])
		if f.reports[i].Failure != nil {
			failed++
		}
	}
	return sum, failed
}

// progress tells how far all are until they are done.
func (f *fleet) progress(done <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			sum, failed := f.total()
			fmt.Fprintf(os.Stderr, "%s: %d seeds, %.1f hours simulated, %.0f s a second, %d failed\n",
				time.Since(f.begun).Round(time.Second), sum.Seeds, sum.Simulated.Hours(),
				sum.Simulated.Seconds()/time.Since(f.begun).Seconds(), failed)
		}
	}
}

// summary prints the table of all processes and reports whether no seed failed.
func (f *fleet) summary(o options) bool {
	took := time.Since(f.begun)
	sum, failed := f.total()
	ok := failed == 0 && sum.Counts.Judged()
	if !sum.Counts.Judged() {
		fmt.Printf("FAILED: %d of %d histories were too dear to judge\n", sum.Counts.Undecided, sum.Counts.Histories)
	}
	for _, err := range f.broken {
		if err != nil {
			fmt.Fprintf(os.Stderr, "a process that ran seeds ended: %v\n", err)
			ok = false
		}
	}
	row := func(name string, value any) { fmt.Printf("%-28s %12v\n", name, value) }
	row("seeds", sum.Seeds)
	row("failed", failed)
	row("first seed", o.from)
	row("hours simulated", fmt.Sprintf("%.1f", sum.Simulated.Hours()))
	row("seconds simulated a second", fmt.Sprintf("%.0f", sum.Simulated.Seconds()/took.Seconds()))
	for _, c := range sum.Counts.Rows() {
		row(c.Name, c.Value)
	}
	for fault, n := range sum.Faults {
		row("fault: "+sim.Fault(fault).String(), n)
	}
	return ok
}
