package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

const (
	kpiKillsMax   = 1000
	kpiBacklogMin = 10_000
	kpiBacklogMax = 10_000_000
)

type kpiOptions struct {
	dir      string
	only     []string
	kills    int
	backlog  int
	seconds  int
	json     bool
	out      io.Writer
	progress io.Writer
}

// kpiPart measures some figures on a cluster of its own.
type kpiPart struct {
	name, what string
	run        func(context.Context, *kpiRun) ([]kpiFact, error)
}

func kpiParts() []kpiPart {
	return []kpiPart{
		{"failover", "a leader is killed, or cut off from its peers: until its queues serve again", kpiFailover},
		{"loss", "what a failing node costs of the throughput, in the ten seconds behind it", kpiLoss},
		{"calls", "calls of clients with default settings that succeed while nodes fail, are cut off and restarted", kpiCalls},
		{"rebalance", "a worker dies: until all its jobs run elsewhere", kpiRebalance},
		{"lag", "how much later than the leader the others have what was acknowledged, under load", kpiLag},
		{"snapshot", "a partial snapshot against a full one, on one node and for a follower that was away", kpiSnapshot},
		{"rate", "three nodes, each answer synced on a quorum: jobs a second, and the latency of a lone one", kpiRate},
	}
}

// kpiFact is one measured figure, with its target if there is one.
type kpiFact struct {
	Part     string  `json:"part"`
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Above    float64 `json:"target_above,omitempty"` // the target: the value is to be above, or below
	Below    float64 `json:"target_below,omitempty"`
	Met      *bool   `json:"met,omitempty"` // nil: there is no target
	SyncRate float64 `json:"fdatasync_per_second,omitempty"`
	Note     string  `json:"note,omitempty"`
}

// below and above set the target.
func (f kpiFact) below(target float64) kpiFact {
	f.Below, f.Met = target, new(f.Value < target)
	return f
}

func (f kpiFact) above(target float64) kpiFact {
	f.Above, f.Met = target, new(f.Value > target)
	return f
}

// kpiRun is one part under way.
type kpiRun struct {
	kpiOptions
	part string
	log  *os.File // of the processes
}

func (r *kpiRun) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, "  %s\n", fmt.Sprintf(format, args...)) // progress is a courtesy
}

func newKPICommand() *cobra.Command {
	var output string
	opts := kpiOptions{}
	var names strings.Builder
	for _, p := range kpiParts() {
		fmt.Fprintf(&names, "  %-10s %s\n", p.name, p.what)
	}
	cmd := &cobra.Command{
		Use:   "kpi",
		Short: "Measure a cluster of three on this machine against its targets",
		Long: `Each part runs three servers of its own, in processes of their own, on fresh data directories, makes trouble, and measures what
users would notice. Every figure is measured in this run, and stands beside its target. The exit status is 0 also when a target is missed.

A disk that stands still stops nodes that are sound, and those of a virtual machine do so at times. The parts failover and lag tell
for how long it did; the target of the lag is for what the nodes add to that. A rate with a target is the median of three turns.

Parts:
` + names.String(),
		Example: `  beaver kpi
  beaver kpi --only failover --kills 10
  beaver kpi --only snapshot --backlog 10000000 --dir /var/tmp
  beaver kpi --output json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opts.json, err = parseOutput(output); err != nil {
				return err
			}
			opts.out, opts.progress = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return runKPI(cmd.Context(), opts)
		},
	}
	cmd.AddCommand(newKPIHolderCommand())
	f := cmd.Flags()
	f.StringVar(&opts.dir, "dir", "", "directory on the disk to measure (default: the current one)")
	f.StringSliceVar(&opts.only, "only", nil, "run only these parts")
	f.IntVar(&opts.kills, "kills", 50, "how many leaders are killed in the part failover")
	f.IntVar(&opts.backlog, "backlog", 1_000_000, "the most jobs that wait in the part snapshot")
	f.IntVar(&opts.seconds, "seconds", 5, "how long each rate is measured")
	f.StringVar(&output, "output", outputTable, "table or json")
	takes(f, "kills", fmt.Sprintf("1 to %d", kpiKillsMax))
	takes(f, "backlog", fmt.Sprintf("%d to %d", kpiBacklogMin, kpiBacklogMax))
	return cmd
}

func (o *kpiOptions) validate() error {
	switch {
	case o.kills < 1 || o.kills > kpiKillsMax:
		return fmt.Errorf("--kills is %d; use 1 to %d", o.kills, kpiKillsMax)
	case o.backlog < kpiBacklogMin || o.backlog > kpiBacklogMax:
		return fmt.Errorf("--backlog is %d; use %d to %d", o.backlog, kpiBacklogMin, kpiBacklogMax)
	case o.seconds < 1 || o.seconds > 600:
		return fmt.Errorf("--seconds is %d; use 1 to 600", o.seconds)
	}
	for _, name := range o.only {
		if !slices.ContainsFunc(kpiParts(), func(p kpiPart) bool { return p.name == name }) {
			return fmt.Errorf("there is no part %q; see beaver kpi --help", name)
		}
	}
	return nil
}

func runKPI(ctx context.Context, opts kpiOptions) error {
	if err := opts.validate(); err != nil {
		return usageError{err}
	}
	var facts []kpiFact
	for _, p := range kpiParts() {
		if len(opts.only) > 0 && !slices.Contains(opts.only, p.name) {
			continue
		}
		_, _ = fmt.Fprintf(opts.progress, "%s: %s\n", p.name, p.what) // progress is a courtesy
		got, err := runKPIPart(ctx, opts, p)
		if err != nil {
			return fmt.Errorf("part %s: %w", p.name, err)
		}
		facts = append(facts, got...)
	}
	if opts.json {
		encoder := json.NewEncoder(opts.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(facts)
	}
	return printKPI(opts.out, facts)
}

func runKPIPart(ctx context.Context, opts kpiOptions, p kpiPart) (facts []kpiFact, err error) {
	if opts.dir == "" {
		opts.dir = "."
	}
	if opts.dir, err = filepath.Abs(opts.dir); err != nil {
		return nil, err
	}
	if opts.dir, err = os.MkdirTemp(opts.dir, "beaver-kpi-"); err != nil {
		return nil, err
	}
	r := &kpiRun{kpiOptions: opts, part: p.name}
	if r.log, err = os.Create(filepath.Join(opts.dir, "processes.log")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(opts.dir))
	}
	facts, err = p.run(ctx, r)
	for i := range facts {
		facts[i].Part = p.name
	}
	err = errors.Join(err, r.log.Close())
	if err != nil {
		return facts, fmt.Errorf("%w; the data and logs are in %s", err, opts.dir)
	}
	return facts, os.RemoveAll(opts.dir)
}

func printKPI(out io.Writer, facts []kpiFact) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "PART\tFIGURE\tMEASURED\tTARGET\t\tFDATASYNC/S\tNOTE") // Flush tells of errors
	for _, f := range facts {
		target, verdict, syncs := "", "", ""
		switch {
		case f.Below != 0:
			target = "< " + quantity(f.Below, f.Unit)
		case f.Above != 0:
			target = "> " + quantity(f.Above, f.Unit)
		}
		if f.Met != nil {
			verdict = "NOT met"
			if *f.Met {
				verdict = "met"
			}
		}
		if f.SyncRate != 0 {
			syncs = quantity(f.SyncRate, "")
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Part, f.Name, quantity(f.Value, f.Unit), target, verdict, syncs, f.Note) // likewise
	}
	return table.Flush()
}

// quantity is a number with its unit for people.
func quantity(v float64, unit string) string {
	var text string
	switch {
	case unit == "B":
		return byteSize(int64(v))
	case math.Abs(v) >= 1000:
		text = fmt.Sprintf("%.0f", v)
		for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
	case math.Abs(v) >= 100 || v == float64(int(v)):
		text = fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		text = fmt.Sprintf("%.1f", v)
	default:
		text = fmt.Sprintf("%.3g", v)
	}
	return strings.TrimSpace(text + " " + unit)
}
