// Package cli is peapod's command line: one file a verb, each a constructor listed in newRoot.
//
// Invariants: a verb's RunE returns errors that read "cannot X: …" and never prints them; Main prints each once, on
// standard error, and turns it into the exit code: 0 done, 1 failed, 2 the command line was wrong, or the code that an
// ExitError carries. What scripts may read goes to standard output, everything else to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// Where peapod keeps its state and its runtime files unless told otherwise.
const (
	defaultDataDir = "/var/lib/peapod"
	defaultRunDir  = "/run/peapod"
)

// Exit codes of the program.
const (
	exitFailure = 1
	exitUsage   = 2
)

// Main runs the command line args (without the program's name) and returns the exit code. SIGINT and SIGTERM cancel the
// context of the verb; a second one ends the program at once.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRoot()
	root.SetArgs(args)
	return exitCode(root.ExecuteContext(ctx), root.ErrOrStderr())
}

// newRoot makes the command tree. The verbs stand in the order in which help shows them.
func newRoot() *cobra.Command {
	cobra.EnableCommandSorting = false
	root := &cobra.Command{
		Use:   "peapod",
		Short: "Run Kubernetes Pods on this machine",
		Long: `peapod makes a Linux machine run Kubernetes Pods: API server, scheduler, node
agent and container engine in one program. kubectl talks to it unmodified.

  peapod up                          serve, and run Pods on this machine
  peapod kubectl apply -f pod.yaml   create a Pod
  peapod down                        end the Pods and remove what peapod made`,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		newUpCommand(),
		newDownCommand(),
		newRunCommand(),
		newImageCommand(),
		newKubectlCommand(),
		newEngineCommand(),
		newStatusCommand(),
		newVersionCommand(),
	)
	markUsageErrors(root)
	return root
}

// usageError is a command line that cannot be understood, as opposed to one that cannot be carried out.
type usageError struct {
	err     error
	command string // the command whose help would help
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// ExitError ends the program with the code of something that it ran, such as a Pod. Nothing is printed for it: the
// verb has said what there is to say.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// markUsageErrors makes wrong flags and arguments of cmd and its subcommands usage errors.
func markUsageErrors(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{err, c.CommandPath()}
	})
	validate := cmd.Args
	if validate == nil {
		validate = cobra.ArbitraryArgs
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := validate(c, args); err != nil {
			return &usageError{err, c.CommandPath()}
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		markUsageErrors(sub)
	}
}

// exitCode prints err, if it is to be printed, and returns the program's exit code for it.
func exitCode(err error, stderr io.Writer) int {
	var exit *ExitError
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "peapod: %v\nRun '%s --help' for usage.\n", usage, usage.command)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "peapod: %v\n", err)
		return exitFailure
	}
}

// addDataDirFlag adds --data-dir, the folder by which a verb knows which peapod of this machine is meant.
func addDataDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data-dir", defaultDataDir, "the data folder of the peapod that is meant")
}

// adminKubeconfig is the path of the kubeconfig that the daemon writes for its administrator.
func adminKubeconfig(dataDir string) string { return filepath.Join(dataDir, "kubeconfig") }
