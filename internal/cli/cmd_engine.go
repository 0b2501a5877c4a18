package cli

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"peapod.dev/peapod/internal/daemon"
)

func newEngineCommand() *cobra.Command {
	var cfg daemon.Config
	var listen, cidr string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "engine",
		Short: "Serve the container engine alone, as a CRI v1 runtime",
		Long: `Serve CRI v1 on a unix socket, for crictl or a kubelet. Ending the engine leaves
its containers running; the next one takes them over. 'peapod down' with the same
data folder ends them and removes what the engine made.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.PodCIDR, err = netip.ParsePrefix(cidr); err != nil {
				return &usageError{fmt.Errorf("invalid --pod-cidr: %w", err), cmd.CommandPath()}
			}
			cfg.Log, cfg.MaxRestartPeriod = newLogger(verbose), daemon.LongestRestartPeriod // checked, though no agent uses it
			return daemon.ServeEngine(cmd.Context(), cfg, listen)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "unix:///run/peapod/cri.sock", "socket to serve CRI on")
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/peapod-engine", "folder for everything that must be kept")
	f.StringVar(&cfg.RunDir, "run-dir", "/run/peapod-engine", "folder for what ends with the machine")
	f.StringVar(&cidr, "pod-cidr", "10.89.0.0/24", "range of the Pods' addresses")
	f.StringVar(&cfg.Runtime, "runtime", "", "OCI runtime, by name or path (default: crun or runc, whichever works)")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}
