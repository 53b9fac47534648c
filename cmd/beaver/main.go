// Command beaver is a job queue in one binary: the server, a worker for any program, and the tools to look after both.
//
// Invariant: flags, environment and exit statuses live here only; all else is in packages server and beaver.
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// sameSignal is how long after the first signal another one is taken for the same.
const sameSignal = 500 * time.Millisecond

func main() {
	if len(os.Args) > 1 && slices.Contains([]string{"server", "bench", "kpi"}, os.Args[1]) {
		napLonger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel() // The first asks to finish what is under way.
		for first := time.Now(); ; {
			// Shells and supervisors may send one signal to the process and again to its group.
			if <-signals; time.Since(first) > sameSignal {
				os.Exit(exitFailure)
			}
		}
	}()
	os.Exit(Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
