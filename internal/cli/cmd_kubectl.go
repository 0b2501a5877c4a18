package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	componentcli "k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
)

// newKubectlCommand is upstream's kubectl, linked in. Its command tree is made only when the verb runs, so that the
// daemon does not pay for it.
func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--data-dir DIR] COMMAND …",
		Short: "Run the built-in kubectl against this machine's peapod",
		Long: `Run the built-in kubectl. Its connection is, in this order: --kubeconfig, the
environment's KUBECONFIG, the kubeconfig in peapod's data folder (--data-dir,
which must come first; ` + defaultDataDir + ` unless given).`,
		DisableFlagParsing: true, // every flag but a leading --data-dir is kubectl's
		RunE: func(cmd *cobra.Command, args []string) error {
			dataDir, args, err := cutDataDir(args)
			if err != nil {
				return &usageError{err, cmd.CommandPath()}
			}
			if err := useAdminKubeconfig(cmd, dataDir); err != nil {
				return err
			}
			return runKubectl(cmd, args)
		},
	}
}

// cutDataDir takes a leading --data-dir off args.
func cutDataDir(args []string) (dataDir string, rest []string, err error) {
	if len(args) == 0 {
		return "", args, nil
	}
	if dir, ok := strings.CutPrefix(args[0], "--data-dir="); ok {
		return dir, args[1:], nil
	}
	if args[0] != "--data-dir" {
		return "", args, nil
	}
	if len(args) < 2 {
		return "", nil, errors.New("flag needs an argument: --data-dir")
	}
	return args[1], args[2:], nil
}

// useAdminKubeconfig points this process's kubectl at the data folder's kubeconfig, unless the user has named another
// and no data folder. A --kubeconfig among kubectl's own flags wins over the environment by kubectl's own rule.
func useAdminKubeconfig(cmd *cobra.Command, dataDir string) error {
	if dataDir == "" {
		if os.Getenv("KUBECONFIG") != "" {
			return nil
		}
		dataDir = defaultDataDir
	}
	path := adminKubeconfig(dataDir)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(cmd.ErrOrStderr(), "peapod: %s is not there: no \"peapod up\" has run with this data folder\n", path)
	}
	if err := os.Setenv("KUBECONFIG", path); err != nil {
		return fmt.Errorf("cannot choose kubeconfig %q: %w", path, err)
	}
	return nil
}

// runKubectl runs kubectl with args. Like upstream's own main it ends the process when a command fails, with kubectl's
// message and exit code.
func runKubectl(cmd *cobra.Command, args []string) error {
	streams := genericiooptions.IOStreams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), ErrOut: cmd.ErrOrStderr()}
	command := kubectl.NewKubectlCommand(kubectl.KubectlOptions{
		Arguments:   append([]string{"kubectl"}, args...),
		ConfigFlags: genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50).WithWarningPrinter(streams),
		IOStreams:   streams,
	})
	command.SetArgs(args)
	if err := componentcli.RunNoErrOutput(command); err != nil {
		kubectlutil.CheckErr(err)
	}
	return nil
}
