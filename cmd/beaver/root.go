package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/beaver-raft/beaver"
)

// The exit statuses, as rootLong documents them.
const (
	exitOK           = 0
	exitFailure      = 1
	exitUsage        = 2
	exitNotFound     = 3
	exitUnavailable  = 4
	exitPrecondition = 5
)

const rootLong = `Beaver is a job queue that never loses a job. Start a server, store jobs, and let workers do them:

  beaver server
  beaver enqueue mail '{"to": "ada@example.org"}'
  beaver work mail -- ./send-mail

Exit status: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 the server cannot be reached, is not ready, or does not
tell in time what came of it; 5 refused, since the state or a limit does not allow it.`

// environmentPrefix begins the names of the environment variables that stand for flags: BEAVER_ADDR for --addr.
const environmentPrefix = "BEAVER_"

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	running        bool // flags and arguments were right
	addr           string
	output         string
}

// Run runs the program with the arguments, without its name, and returns the exit status. When ctx ends it finishes what is
// under way.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
	root := newRootCommand(a)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.running {
		advice := "see " + cmd.CommandPath() + " --help"
		text := plainSuggestion(err.Error())
		if strings.Contains(text, "--help") || strings.HasSuffix(text, "?") {
			advice = ""
		}
		a.complain(errors.New(text), advice)
		return exitUsage
	}
	status, advice := a.judge(err)
	a.complain(err, advice)
	return status
}

// plainSuggestion makes one line of what cobra says of a misspelt command.
func plainSuggestion(text string) string {
	problem, names, ok := strings.Cut(text, "\n\nDid you mean this?\n")
	if !ok {
		return text
	}
	return problem + "; did you mean " + strings.Join(strings.Fields(names), " or ") + "?"
}

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "beaver",
		Short:         "A job queue that never loses a job",
		Long:          rootLong,
		Version:       buildInfo().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.environment(cmd); err != nil {
				return err
			}
			a.running = true
			return nil
		},
	}
	root.AddCommand(
		newServerCommand(a), newEnqueueCommand(a), newWorkCommand(a), newJobsCommand(a), newQueuesCommand(a), newDeadCommand(a),
		newWorkersCommand(a), newStatusCommand(a), newClusterCommand(a), newInspectCommand(a), newVersionCommand(a), newBenchCommand(), newKPICommand(), newDemoCommand(),
	)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(explainFlag)
	explainArgs(root)
	return root
}

// explainArgs makes all commands answer wrong arguments with how they are used.
func explainArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil && cmd.HasParent() && !cmd.HasSubCommands() {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("wrong number of arguments; use it like %s, and see %s --help", cmd.UseLine(), cmd.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainArgs(sub)
	}
}

// group makes a command that only has subcommands.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%q is not a command of %s; see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	var examples []string
	for _, c := range commands {
		if first, _, _ := strings.Cut(c.Example, "\n"); first != "" {
			examples = append(examples, first)
		}
	}
	cmd.Example = strings.Join(examples, "\n")
	return cmd
}

// clientFlags adds the flags of a command that talks to a server.
func (a *app) clientFlags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.addr, "addr", beaver.DefaultAddr, "URL of the server, or of nodes of a cluster, with commas between them (BEAVER_ADDR)")
	a.outputFlag(cmd)
	annotate(cmd.Flags().Lookup("addr"))
	return cmd
}

func (a *app) outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&a.output, "output", "o", outputTable, "table or json (BEAVER_OUTPUT)")
	annotate(cmd.Flags().Lookup("output"))
}

// fromEnvironment marks the flags that an environment variable may stand for.
const fromEnvironment = "beaver_environment"

func annotate(f *pflag.Flag) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[fromEnvironment] = []string{environmentName(f.Name)}
}

func environmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// environment sets the flags that are not given from their environment variables, and checks the output format.
func (a *app) environment(cmd *cobra.Command) error {
	var first error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names := f.Annotations[fromEnvironment]
		if f.Changed || len(names) == 0 || first != nil {
			return
		}
		if value, ok := os.LookupEnv(names[0]); ok && value != "" {
			if err := f.Value.Set(value); err != nil {
				first = wrongValue(f, names[0], value, err)
			}
		}
	})
	if first != nil {
		return first
	}
	if a.output != "" {
		if _, err := parseOutput(a.output); err != nil {
			return err
		}
	}
	return nil
}

// How long a command goes on while the server cannot be reached: people want to know soon. Of several nodes one may stand still, which takes
// the client three seconds to find out: then there must be time for another one.
const (
	retryFor        = 2 * time.Second
	retryForSeveral = 5 * time.Second
)

// client calls f with a client of the server.
func (a *app) client(ctx context.Context, f func(*beaver.Client) error) error {
	if a.addr == "" {
		a.addr = beaver.DefaultAddr // as the client takes it
	}
	config := beaver.Config{Addr: a.addr, RetryFor: retryFor}
	if strings.Contains(a.addr, ",") {
		config.RetryFor = retryForSeveral
	}
	c, err := beaver.NewClient(config)
	if err != nil {
		return inFlags(err, "Config.Addr", "--addr")
	}
	err = f(c)
	return errors.Join(err, c.Close(context.WithoutCancel(ctx)))
}

// usageError is an error that better arguments would mend.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// inFlags is a usage error in which a field of the library's configuration has the name that it has on the command line.
func inFlags(err error, field, flag string) error {
	return usage("%s", strings.Replace(strings.TrimPrefix(err.Error(), "beaver: "), field, flag, 1))
}

// statusError asks for an exit status; its text was printed already if it is empty.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

// judge returns the exit status for an error, and what to do about it if the error does not say.
func (a *app) judge(err error) (status int, advice string) {
	if s, ok := errors.AsType[statusError](err); ok {
		return s.status, ""
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage, ""
	}
	e, ok := errors.AsType[*beaver.Error](err)
	switch {
	case !ok && errors.Is(err, fs.ErrNotExist):
		return exitNotFound, ""
	case !ok:
		return exitFailure, ""
	case errors.Is(e, beaver.ErrOutcomeUnknown):
		return exitUnavailable, "" // it is not refused: it may have been done
	}
	switch e.Code {
	case beaver.CodeInvalidArgument, beaver.CodeOutOfRange:
		return exitUsage, ""
	case beaver.CodeNotFound:
		return exitNotFound, ""
	case beaver.CodeUnavailable:
		if e.Reason == "SILENT" {
			return exitUnavailable, "it stands still, or is cut off from here: name other nodes with --addr"
		}
		if e.Reason != "" {
			return exitUnavailable, "" // a server said so, and what to do
		}
		if strings.HasSuffix(e.Message, "EOF") || strings.HasSuffix(e.Message, "connection reset by peer") { // which of them is chance
			return exitUnavailable, fmt.Sprintf("is a beaver server at %s? give as --addr where it listens to clients (its --listen), not to peers", a.addr)
		}
		return exitUnavailable, fmt.Sprintf("is the server running at %s? start one with beaver server, or give --addr", a.addr)
	case beaver.CodeDeadlineExceeded:
		return exitUnavailable, ""
	case beaver.CodeFailedPrecondition, beaver.CodeResourceExhausted, beaver.CodeAborted, beaver.CodeAlreadyExists:
		return exitPrecondition, ""
	default:
		return exitFailure, ""
	}
}

// complain prints an error as "beaver: what happened; what to do".
func (a *app) complain(err error, advice string) {
	text := strings.TrimPrefix(err.Error(), "beaver: ")
	if advice != "" {
		text += "; " + advice
	}
	if text != "" {
		a.note("beaver: %s\n", text)
	}
}

// note prints to the standard error. There is nothing to be done when that fails.
func (a *app) note(format string, args ...any) { _, _ = fmt.Fprintf(a.stderr, format, args...) }
