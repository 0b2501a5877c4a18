package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"peapod.dev/peapod/internal/version"
)

// statusTimeout bounds the whole of `peapod status`: a server that does not answer in this time is not up.
const statusTimeout = 5 * time.Second

func newStatusCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell whether peapod is up, and what it runs",
		Long:  "Tell whether peapod is up, its nodes, and its Pods by phase. The exit code is 1 when it is not up.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), statusTimeout)
			defer cancel()
			client, server, err := adminClient(dataDir)
			if err != nil {
				return err
			}
			seen, err := observe(ctx, client)
			if err != nil {
				return fmt.Errorf("cannot reach peapod at %s: %w", server, err)
			}
			return seen.print(cmd.OutOrStdout(), server, dataDir)
		},
	}
	addDataDirFlag(cmd, &dataDir)
	return cmd
}

// adminClient connects with the data folder's kubeconfig. It sends nothing.
func adminClient(dataDir string) (client kubernetes.Interface, server string, err error) {
	path := adminKubeconfig(dataDir)
	config, err := clientcmd.BuildConfigFromFlags("", path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", fmt.Errorf("peapod is not up: %s is not there", path)
	case errors.Is(err, os.ErrPermission):
		return nil, "", fmt.Errorf("cannot read %s: only its owner may, who is usually root", path)
	case err != nil:
		return nil, "", fmt.Errorf("cannot use %s: %w", path, err)
	}
	config.UserAgent = "peapod-status/" + version.Version
	client, err = kubernetes.NewForConfig(config)
	if err != nil {
		return nil, "", fmt.Errorf("cannot use %s: %w", path, err)
	}
	return client, config.Host, nil
}

// clusterStatus is what `peapod status` shows.
type clusterStatus struct {
	serverVersion string
	nodes         []corev1.Node
	phases        map[corev1.PodPhase]int
}

// observe asks the server whether it is ready, and for its nodes and Pods.
func observe(ctx context.Context, client kubernetes.Interface) (*clusterStatus, error) {
	if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return nil, err
	}
	server, err := client.Discovery().ServerVersion()
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	seen := &clusterStatus{serverVersion: server.GitVersion, nodes: nodes.Items, phases: map[corev1.PodPhase]int{}}
	for i := range pods.Items {
		seen.phases[pods.Items[i].Status.Phase]++
	}
	return seen, nil
}

func (s *clusterStatus) print(out io.Writer, server, dataDir string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "server\t%s, ready, Kubernetes API %s\n", server, s.serverVersion)
	for i := range s.nodes {
		node := &s.nodes[i]
		fmt.Fprintf(w, "node\t%s, %s, %s, kernel %s, %s\n", node.Name, readiness(node),
			node.Status.NodeInfo.KubeletVersion, node.Status.NodeInfo.KernelVersion, node.Status.NodeInfo.ContainerRuntimeVersion)
	}
	fmt.Fprintf(w, "pods\t%s\n", s.podCounts())
	fmt.Fprintf(w, "data folder\t%s\n", dataDir)
	fmt.Fprintf(w, "kubeconfig\t%s\n", adminKubeconfig(dataDir))
	return w.Flush()
}

// podCounts reads like "3 Running, 1 Pending".
func (s *clusterStatus) podCounts() string {
	var counts []string
	for _, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown} {
		if n := s.phases[phase]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, phase))
		}
	}
	if len(counts) == 0 {
		return "none"
	}
	return strings.Join(counts, ", ")
}

// readiness is the node's state as `kubectl get nodes` words it.
func readiness(node *corev1.Node) string {
	word := "Unknown"
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			switch c.Status {
			case corev1.ConditionTrue:
				word = "Ready"
			default:
				word = "NotReady"
			}
		}
	}
	if node.Spec.Unschedulable {
		word += ",SchedulingDisabled"
	}
	return word
}
