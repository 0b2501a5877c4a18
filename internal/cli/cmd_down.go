package cli

import (
	"github.com/spf13/cobra"

	"peapod.dev/peapod/internal/daemon"
)

func newDownCommand() *cobra.Command {
	var dataDir string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "End the Pods and remove what peapod made on this machine",
		Long: `End the peapod that uses the data folder, end its Pods (each process gets its
grace period), and remove every mount, namespace, control group, link and rule
that was made for them. Images and the API's data are kept.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return daemon.Down(cmd.Context(), dataDir, newLogger(verbose))
		},
	}
	addDataDirFlag(cmd, &dataDir)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
