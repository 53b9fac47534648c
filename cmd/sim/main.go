// Command sim runs the deterministic simulator of package sim: one seed with its trace, or many seeds on all cores.
//
//	go run ./cmd/sim -seed 42            one seed, with a trace that a person can read
//	go run ./cmd/sim -seconds 60         new seeds for so long
//	go run ./cmd/sim -seeds 1000         so many
//	go run ./cmd/sim -bug forget-vote    with a deliberate bug in it
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/sim"
)

type options struct {
	seed, from, seeds uint64
	seconds           int
	step              uint64
	quiet             bool
	bug               sim.Bug
}

func main() {
	var o options
	bug := flag.String("bug", "", "put a deliberate bug in")
	flag.Uint64Var(&o.seed, "seed", 0, "run this seed and print its trace")
	flag.Uint64Var(&o.from, "from", 0, "the first of many seeds; drawn from the clock by default")
	flag.Uint64Var(&o.seeds, "seeds", 0, "how many seeds; 0 is as many as -seconds allow")
	flag.IntVar(&o.seconds, "seconds", 60, "how long new seeds are run, when -seeds is 0")
	flag.Uint64Var(&o.step, "step", 0, "how far the seeds of one process are apart; set by the process that starts the others")
	flag.BoolVar(&o.quiet, "quiet", false, "no trace of -seed")
	flag.Parse()
	for _, b := range sim.Bugs() {
		if b.String() == *bug {
			o.bug = b
		}
	}
	if *bug != "" && o.bug == sim.BugNone {
		fmt.Fprintf(os.Stderr, "no bug is named %q; there are %v\n", *bug, sim.Bugs())
		os.Exit(2)
	}
	debug.SetGCPercent(800)
	if !o.run() {
		os.Exit(1)
	}
}

func (o options) run() bool {
	switch {
	case o.seed != 0:
		return o.one()
	case o.step == 0:
		return o.processes(uint64(runtime.GOMAXPROCS(0)))
	default:
		return o.many()
	}
}

// one runs a seed and prints what happens.
func (o options) one() bool {
	run := sim.Options{Seed: o.seed, Bug: o.bug}
	out := bufio.NewWriterSize(os.Stdout, 1<<20)
	if !o.quiet {
		run.Trace = out
	}
	r := sim.Run(run)
	_ = out.Flush() // a reader that went away has seen enough
	fmt.Printf("seed %d: %s\n%v simulated, trace %016x\n%+v\n", r.Seed, r.Plan, r.Simulated, r.Hash, r.Counts)
	if r.Err != nil {
		fmt.Printf("FAILED: %v\n", r.Err)
	}
	return r.Err == nil
}

// processes runs one process a core: what a simulation replaces in its process allows one at a time.
func (o options) processes(n uint64) bool {
	if o.from == 0 {
		o.from = uint64(time.Now().UnixNano()) % 1_000_000_000_000
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return false
	}
	var (
		group sync.WaitGroup
		oks   = make([]bool, n)
	)
	for i := range n {
		group.Go(func() {
			command := exec.Command(self, os.Args[1:]...)
			share := o.seeds / n
			if i < o.seeds%n {
				share++
			}
			command.Args = append(command.Args, fmt.Sprint("-from=", o.from+i), fmt.Sprint("-step=", n), fmt.Sprint("-seeds=", share))
			command.Stdout, command.Stderr = os.Stdout, os.Stderr
			oks[i] = o.seeds > 0 && share == 0 || command.Run() == nil
		})
	}
	group.Wait()
	for _, ok := range oks {
		if !ok {
			return false
		}
	}
	return true
}

// many runs seeds until the time is over or one fails.
func (o options) many() bool {
	var (
		begun     = time.Now()
		simulated time.Duration
		faults    [sim.FaultCount]uint64
		total     sim.Counts
		count     uint64
	)
	for seed := o.from; ; seed += o.step {
		if o.seeds > 0 && count == o.seeds || o.seeds == 0 && time.Since(begun) > time.Duration(o.seconds)*time.Second {
			break
		}
		r := sim.Run(sim.Options{Seed: seed, Bug: o.bug})
		count++
		simulated += r.Simulated
		for f, n := range r.Faults {
			faults[f] += n
		}
		total.Jobs += r.Counts.Jobs
		total.Entries += r.Counts.Entries
		total.Transfers += r.Counts.Transfers
		if r.Err != nil {
			fmt.Printf("FAILED: seed %d after %d good ones: %v\nreplay: go run ./cmd/sim -seed %d\n", seed, count-1, r.Err, seed)
			return false
		}
	}
	fmt.Printf("%d seeds, %.1f hours simulated, %.0f s a second, %d jobs, %d entries, %d snapshots sent;",
		count, simulated.Hours(), simulated.Seconds()/time.Since(begun).Seconds(), total.Jobs, total.Entries, total.Transfers)
	for f, n := range faults {
		fmt.Printf(" %d %v", n, sim.Fault(f))
	}
	fmt.Println()
	return true
}
