// Command sim runs the deterministic simulator of package sim: one seed with its trace, or many seeds on all cores.
//
//	go run ./cmd/sim -seed 42            one seed, with a trace that a person can read
//	go run ./cmd/sim -seconds 60         new seeds for so long
//	go run ./cmd/sim -seeds 1000         so many
//	go run ./cmd/sim -bug forget-vote    with a deliberate bug in it
//	go run ./cmd/sim -nodes 3 -faults pause,partition
//
// Many seeds are run by one process a core, since what a simulation replaces in its process allows one at a time. They
// report to the first one, which tells on standard error how far they are, and at the end prints one table.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/beaver-raft/beaver/internal/sim"
)

type options struct {
	seed, from, seeds uint64
	seconds           int
	step              uint64
	quiet             bool
	run               sim.Options // of each seed
	given             []string    // flags that say so
}

func main() {
	var o options
	bug := flag.String("bug", "", "put a deliberate bug in")
	faults := flag.String("faults", "", "these kinds of faults, with commas, instead of those that the seed says")
	flag.IntVar(&o.run.Nodes, "nodes", 0, "so many nodes, instead of as many as the seed says")
	flag.Uint64Var(&o.seed, "seed", 0, "run this seed and print its trace")
	flag.Uint64Var(&o.from, "from", 0, "the first of many seeds; drawn from the clock by default")
	flag.Uint64Var(&o.seeds, "seeds", 0, "how many seeds; 0 is as many as -seconds allow")
	flag.IntVar(&o.seconds, "seconds", 60, "how long new seeds are run, when -seeds is 0")
	flag.Uint64Var(&o.step, "step", 0, "how far the seeds of one process are apart; set by the process that starts the others")
	flag.BoolVar(&o.quiet, "quiet", false, "no trace of -seed")
	flag.Parse()
	var ok bool
	if o.run.Bug, ok = named(*bug, append(sim.Bugs(), sim.BugNone)); !ok && *bug != "" {
		refuse("no bug is named %q; there are %v", *bug, sim.Bugs())
	}
	for name := range strings.SplitSeq(*faults, ",") {
		fault, ok := named(name, sim.Faults())
		if !ok && name != "" {
			refuse("no fault is named %q; there are %v", name, sim.Faults())
		}
		if ok {
			o.run.Faults = append(o.run.Faults, fault)
		}
	}
	if n := o.run.Nodes; n < 0 || n > nodesMax {
		refuse("-nodes is %d; at most %d are simulated", n, nodesMax)
	}
	flag.Visit(func(f *flag.Flag) {
		if slices.Contains([]string{"bug", "faults", "nodes"}, f.Name) {
			o.given = append(o.given, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	debug.SetGCPercent(800)
	if !o.start() {
		os.Exit(1)
	}
}

// nodesMax is the largest cluster that -nodes takes.
const nodesMax = 9

// named finds what has a name.
func named[T fmt.Stringer](name string, all []T) (found T, ok bool) {
	for _, v := range all {
		if v.String() == name {
			return v, true
		}
	}
	return found, false
}

// refuse ends the program: it was called wrongly.
func refuse(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(2)
}

// start runs what the flags ask for, and reports whether nothing failed.
func (o options) start() bool {
	switch {
	case o.seed != 0:
		return o.one()
	case o.step == 0:
		if o.from == 0 {
			o.from = 1 + uint64(time.Now().UnixNano())%1_000_000_000_000
		}
		return o.processes(uint64(runtime.GOMAXPROCS(0)))
	default:
		return o.many()
	}
}

// one runs a seed and prints what happens.
func (o options) one() bool {
	run := o.run
	run.Seed = o.seed
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

// replay is the command that runs a seed again.
func (o options) replay(seed uint64) string {
	return strings.Join(append([]string{"go run ./cmd/sim -seed", strconv.FormatUint(seed, 10)}, o.given...), " ")
}
