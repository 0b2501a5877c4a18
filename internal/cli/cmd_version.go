package cli

import (
	"fmt"
	"os/exec"
	"runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"peapod.dev/peapod/internal/version"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print versions, and the programs that peapod found",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "peapod\t%s\n", version.Version)
			fmt.Fprintf(w, "kubernetes api\t%s\n", version.KubernetesVersion)
			fmt.Fprintf(w, "go\t%s %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
			for _, program := range []string{"crun", "runc", "conmon", "catatonit"} {
				fmt.Fprintf(w, "%s\t%s\n", program, findProgram(program))
			}
			return w.Flush()
		},
	}
}

// findProgram tells where PATH has the program, for people to read. What the engine really uses is the engine's choice.
func findProgram(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return "not found"
	}
	return path
}
