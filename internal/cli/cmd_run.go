package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"

	"peapod.dev/peapod/internal/daemon"
	"peapod.dev/peapod/internal/foreground"
)

func newRunCommand() *cobra.Command {
	var dataDir, cidr string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run FILE|- …",
		Short: "Run Pods in the foreground, without a cluster",
		Long: `Create what the manifests say, show how the Pods come up, print their logs, and
delete everything when the Pods have ended. Ctrl-C ends the Pods gracefully. The
exit code is the Pods'. The peapod that uses the data folder runs them; if there
is none, one is brought up for as long as this command runs.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix, err := netip.ParsePrefix(cidr)
			if err != nil {
				return &usageError{fmt.Errorf("invalid --pod-cidr: %w", err), cmd.CommandPath()}
			}
			code := 0
			use := func(ctx context.Context, kubeconfig string) (err error) {
				code, err = runManifests(ctx, cmd, kubeconfig, args)
				return err
			}
			if kubeconfig := adminKubeconfig(dataDir); answers(cmd.Context(), kubeconfig) {
				err = use(cmd.Context(), kubeconfig)
			} else {
				log := quietLogger()
				if verbose {
					log = newLogger(true)
				}
				err = daemon.Temporary(cmd.Context(), daemon.Config{
					Listen: "127.0.0.1:0", KubeletListen: "0.0.0.0:0", PodCIDR: prefix, MaxRestartPeriod: daemon.LongestRestartPeriod, Log: log,
				}, func(ctx context.Context, up daemon.Up) error { return use(ctx, up.Kubeconfig) })
				if errors.Is(err, context.Canceled) {
					err = nil
				}
			}
			if err != nil {
				return err
			}
			if code != 0 {
				return &ExitError{Code: code}
			}
			return nil
		},
	}
	addDataDirFlag(cmd, &dataDir)
	cmd.Flags().StringVar(&cidr, "pod-cidr", "10.88.0.0/16", "range of the Pods' addresses, when a peapod has to be brought up")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log what the peapod brought up does")
	return cmd
}

func clientGetter(kubeconfig string) *genericclioptions.ConfigFlags {
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig = &kubeconfig
	return flags
}

// answers tells whether a peapod serves behind the kubeconfig.
func answers(ctx context.Context, kubeconfig string) bool {
	if _, err := os.Stat(kubeconfig); err != nil {
		return false
	}
	config, err := clientGetter(kubeconfig).ToRESTConfig()
	if err != nil {
		return false
	}
	config.Timeout = 2 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return false
	}
	_, err = client.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err == nil
}

func runManifests(ctx context.Context, cmd *cobra.Command, kubeconfig string, files []string) (int, error) {
	getter := clientGetter(kubeconfig)
	config, err := getter.ToRESTConfig()
	if err != nil {
		return 1, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return 1, err
	}
	return foreground.Run(ctx, foreground.Options{
		Config: getter, Client: client, Files: files, Stdin: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Progress: cmd.ErrOrStderr(),
	})
}
