package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/kubelet/envvars"

	"peapod.dev/peapod/internal/agent/containerconfig"
	"peapod.dev/peapod/internal/agent/hosts"
	"peapod.dev/peapod/internal/agent/volume"
	"peapod.dev/peapod/internal/agent/worker"
)

const (
	// clusterDomain is the domain of Pods with a subdomain, upstream's default.
	clusterDomain = "cluster.local"
	// seccompRoot is where localhost profiles are (field localhostProfile), as the kubelet has it.
	seccompRoot = "/var/lib/kubelet/seccomp"
)

// specs makes the CRI messages of this node's Pods: it fetches what package containerconfig, which is pure, needs.
type specs struct{ a *Agent }

// node is the part of the messages that all Pods share.
func (s *specs) node() *containerconfig.Node {
	n := s.limits()
	n.LogRoot, n.SeccompRoot, n.RecursiveReadOnly = s.a.logsDir(), seccompRoot, true
	n.HostIPs, n.ClusterDomain, n.HostDNS = []string{s.a.nodeIP}, clusterDomain, hostDNS()
	return n
}

// limits is the part on which resources depend.
func (s *specs) limits() *containerconfig.Node {
	n := &containerconfig.Node{
		CgroupRoot: s.a.cfg.CgroupRoot, CgroupV2: s.a.machine.cgroupV2,
		SwapAccounting: swapAccounting(cgroupTree, s.a.cfg.CgroupRoot, s.a.machine.cgroupV2),
	}
	if node, err := s.a.getNode(); err == nil {
		n.MemoryCapacity, n.Allocatable = node.Status.Capacity.Memory().Value(), node.Status.Allocatable
	}
	return n
}

func (s *specs) Handler(ctx context.Context, pod *v1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	class, err := s.a.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, *name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("failed to get RuntimeClass %q: %w", *name, err)
	}
	return class.Handler, nil
}

func (s *specs) Sandbox(pod *v1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	config, warnings, err := s.node().Sandbox(pod, attempt)
	for _, w := range warnings {
		if w.Reason != "MissingClusterDNS" { // true of every Pod here: there are no Services to find
			s.a.events.Event(pod, v1.EventTypeWarning, w.Reason, w.Message)
		}
	}
	return config, err
}

func (s *specs) Container(ctx context.Context, pod *v1.Pod, c *v1.Container, a worker.Attempt) (*runtimeapi.ContainerConfig, error) {
	node := s.node()
	in := &containerconfig.Container{
		Pod: pod, Container: c, Attempt: uint32(a.Number), Image: a.Image, PodIPs: a.PodIPs, TargetID: a.TargetID, ServiceEnv: s.serviceEnv(),
		Sources: volume.Sources{Volumes: s.a.volumes.Volumes, Pod: pod, Container: c.Name, Ready: s.a.volumes.of(pod.UID)},
	}
	var err error
	if in.Attempt == 0 { // the engine knows of no earlier one, but may have forgotten: peapod down
		if in.Attempt, err = loggedAttempts(filepath.Join(node.LogDirectory(pod), c.Name)); err != nil {
			return nil, err
		}
	}
	if in.HostsPath, err = s.hostsFile(node, pod, a.PodIPs); err != nil {
		return nil, err
	}
	if c.TerminationMessagePath != "" {
		if in.TerminationLogPath, err = s.a.volumes.TerminationLog(pod.UID, c.Name, in.Attempt); err != nil {
			return nil, err
		}
	}
	config, err := node.Container(ctx, in)
	if err != nil {
		return nil, err
	}
	log := filepath.Join(node.LogDirectory(pod), config.LogPath)
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		return nil, fmt.Errorf("create container log directory for container %s failed: %w", c.Name, err)
	}
	return config, nil
}

// loggedAttempts tells from a container's logs (N.log, and rotated N.log.TIME) how often it was started, as the kubelet
// does where the runtime has lost its containers. So logs are not mixed, and restart counts go on.
func loggedAttempts(dir string) (uint32, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("cannot tell earlier attempts from the logs: %w", err)
	}
	var attempts uint32
	for _, e := range entries {
		name, rest, _ := strings.Cut(e.Name(), ".")
		if n, err := strconv.ParseUint(name, 10, 31); err == nil && strings.HasPrefix(rest, "log") {
			attempts = max(attempts, uint32(n)+1)
		}
	}
	return attempts, nil
}

func (s *specs) Limits(pod *v1.Pod) worker.Limits {
	node := s.limits()
	sandbox, _ := node.SandboxResources(pod)
	out := worker.Limits{Pod: sandbox, Containers: map[string]*runtimeapi.LinuxContainerResources{}}
	for c := range podutil.ContainerIter(&pod.Spec, podutil.InitContainers|podutil.Containers) {
		out.Containers[c.Name] = node.ContainerResources(pod, c)
	}
	return out
}

// serviceEnv are the variables by which a client in a Pod finds the API ("Accessing the API from a Pod").
func (s *specs) serviceEnv() map[string]string {
	host, port, err := net.SplitHostPort(s.a.cfg.APIServer)
	if err != nil {
		return nil // none was given
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, e := range envvars.FromServices([]*v1.Service{{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault},
		Spec:       v1.ServiceSpec{ClusterIP: host, Ports: []v1.ServicePort{{Name: "https", Protocol: v1.ProtocolTCP, Port: int32(number)}}},
	}}) {
		out[e.Name] = e.Value
	}
	return out
}

// hostsFile writes the Pod's hosts file anew: what a container changed in it is restored when one is started.
func (s *specs) hostsFile(node *containerconfig.Node, pod *v1.Pod, podIPs []string) (string, error) {
	if pod.Spec.HostNetwork {
		own, err := os.ReadFile(hosts.ContainerPath)
		if err != nil {
			return "", fmt.Errorf("cannot read the node's hosts file: %w", err)
		}
		return s.a.volumes.WriteHosts(pod.UID, hosts.HostNetwork(own, pod.Spec.HostAliases))
	}
	hostname, domain, err := node.Hostname(pod)
	if err != nil {
		return "", err
	}
	return s.a.volumes.WriteHosts(pod.UID, hosts.Managed(podIPs, hostname, domain, pod.Spec.HostAliases))
}

// hostDNS reads the machine's resolver configuration; a machine without one has none.
func hostDNS() *runtimeapi.DNSConfig {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	config, err := containerconfig.ParseResolvConf(f)
	if err != nil {
		return nil
	}
	return config
}
