package cli

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"peapod.dev/peapod/internal/daemon"
)

func newUpCommand() *cobra.Command {
	var cfg daemon.Config
	var cidr, logSize string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Serve the Kubernetes API and run Pods on this machine",
		Long: `Bring up the API server, the scheduler, the controllers and this machine's node
agent, in the foreground. One line is printed when the node is Ready. SIGTERM or
Ctrl-C ends peapod and leaves the Pods running; the next up takes them over.
'peapod down' ends the Pods too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.PodCIDR, err = netip.ParsePrefix(cidr); err != nil {
				return &usageError{fmt.Errorf("invalid --pod-cidr: %w", err), cmd.CommandPath()}
			}
			if cfg.LogMaxSize, err = parseLogSize(logSize); err != nil {
				return &usageError{err, cmd.CommandPath()}
			}
			if cfg.LogMaxFiles < 2 {
				return &usageError{fmt.Errorf("invalid --container-log-max-files: %d, must be > 1", cfg.LogMaxFiles), cmd.CommandPath()}
			}
			cfg.Log = newLogger(verbose)
			begin := time.Now()
			return daemon.Run(cmd.Context(), cfg, func(up daemon.Up) {
				what := "API server"
				if up.NodeName != "" {
					what = "node " + up.NodeName
				}
				fmt.Fprintf(cmd.OutOrStdout(), "peapod: %s is Ready after %.2f s: export KUBECONFIG=%s\n", what, time.Since(begin).Seconds(), up.Kubeconfig)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", defaultDataDir, "folder for everything that must be kept")
	f.StringVar(&cfg.RunDir, "run-dir", defaultRunDir, "folder for what ends with the machine: sockets, mounts")
	f.StringVar(&cfg.Listen, "listen", "0.0.0.0:6443", "address of the API server")
	f.StringVar(&cfg.KubeletListen, "kubelet-listen", "0.0.0.0:10250", "address of the kubelet API; another port is taken if this one is in use")
	f.StringVar(&cfg.NodeName, "node-name", "", "name of this node (default: the host name)")
	f.StringToStringVar(&cfg.NodeLabels, "node-labels", nil, "labels of this node: k=v,…")
	f.StringVar(&cidr, "pod-cidr", "10.88.0.0/16", "range of the Pods' addresses")
	f.StringSliceVar(&cfg.EtcdServers, "etcd-servers", nil, "URLs of an etcd cluster to use instead of the embedded one")
	f.StringVar(&cfg.EtcdCA, "etcd-cafile", "", "CA of that cluster")
	f.StringVar(&cfg.EtcdCert, "etcd-certfile", "", "client certificate for that cluster")
	f.StringVar(&cfg.EtcdKey, "etcd-keyfile", "", "key of that certificate")
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "a further path to write the admin's kubeconfig to")
	f.StringVar(&cfg.Runtime, "runtime", "", "OCI runtime, by name or path (default: crun or runc, whichever works)")
	f.BoolVar(&cfg.NoAgent, "no-agent", false, "run no Pods on this machine")
	f.DurationVar(&cfg.LeaseDuration, "node-lease-duration", 40*time.Second, "how long the node's lease holds")
	f.DurationVar(&cfg.NodeMonitorGracePeriod, "node-monitor-grace-period", 50*time.Second, "how long a node may be silent before it is lost")
	f.DurationVar(&cfg.MaxRestartPeriod, "max-container-restart-period", daemon.LongestRestartPeriod, "longest back-off before a container is restarted: 1s to 300s")
	f.Int64Var(&cfg.MaxPods, "max-pods", 110, "how many Pods this node takes")
	f.StringVar(&logSize, "container-log-max-size", "10Mi", "size from which a container's log file is rotated; -1: never")
	f.IntVar(&cfg.LogMaxFiles, "container-log-max-files", 5, "log files kept of a container, the current one included")
	f.BoolVarP(&verbose, "verbose", "v", false, "log more")
	return cmd
}

// parseLogSize reads a quantity such as 10Mi, in bytes. The zero of the kubelet, which would rotate all the time, is refused.
func parseLogSize(s string) (int64, error) {
	q, err := resource.ParseQuantity(s)
	if err != nil {
		return 0, fmt.Errorf("invalid --container-log-max-size %q: %w", s, err)
	}
	size, ok := q.AsInt64()
	if !ok || size == 0 {
		return 0, fmt.Errorf("invalid --container-log-max-size %q: not a number of bytes", s)
	}
	return size, nil
}
