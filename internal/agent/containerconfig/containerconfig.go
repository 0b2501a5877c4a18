// Package containerconfig turns a Pod into the CRI messages that make its sandbox and its containers.
//
// The package is pure but for what Sources does: the same Pod, node and sources give the same message, lists in a
// stable order. Labels, annotations, paths, limits, defaults and error texts are the kubelet's
// (pkg/kubelet/kuberuntime, pkg/kubelet/kubelet_pods.go), so that crictl and a kubelet read them as their own.
package containerconfig

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// Node is what is the same for all Pods of a node. It is read only.
type Node struct {
	LogRoot        string // DATA/log/pods
	SeccompRoot    string // where Localhost seccomp profiles lie
	CgroupRoot     string // cgroupfs path that all Pods' cgroups lie below, e.g. /peapod-1a2b
	CgroupV2       bool
	SwapAccounting bool // the kernel can limit swap; containers then get none
	SELinux        bool // relabel peapod's own files
	// RecursiveReadOnly tells whether the runtime can mount read-only with everything below.
	RecursiveReadOnly bool
	MemoryCapacity    int64 // bytes
	Allocatable       v1.ResourceList
	HostIPs           []string
	ClusterDomain     string
	ClusterDNS        []string // addresses; empty if there is no cluster DNS
	// HostDNS is the node's own resolv.conf (see ParseResolvConf). Nil means that it has none.
	HostDNS *runtimeapi.DNSConfig
}

// Sources is where the contents of a container's configuration come from. Errors are returned unchanged.
type Sources interface {
	GetConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	GetSecret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// EnvFile returns a variable's value from a file in a volume, "" if it is not there.
	EnvFile(ctx context.Context, ref *v1.FileKeySelector) (string, error)
	// Mount returns HostPath (subPath resolved) or Image and ImageSubPath, Readonly if the volume is read-only itself,
	// and SelinuxRelabel if it may be relabelled. The rest of the message is not looked at.
	Mount(ctx context.Context, index int, mount *v1.VolumeMount, subPath string) (*runtimeapi.Mount, error)
}

// Container is what one container's configuration depends on besides the node.
type Container struct {
	Pod       *v1.Pod
	Container *v1.Container // of an ephemeral container: its EphemeralContainerCommon converted
	Attempt   uint32        // how often it was restarted
	Image     *runtimeapi.Image
	PodIPs    []string // for a Pod on the host's network: the node's
	// ServiceEnv are the variables that tell of Services; the container's own take precedence.
	ServiceEnv map[string]string
	// HostsPath is the managed hosts file on the host; empty if there is none to mount.
	HostsPath string
	// TerminationLogPath is this attempt's file on the host for the termination message.
	TerminationLogPath string
	// TargetID is the container whose processes an ephemeral container is to see; empty for its own.
	TargetID string
	Sources  Sources
}

// Container returns the message that creates a container. An error is a CreateContainerConfigError, its text for the
// user to see. The folder of the log, filepath.Join(sandbox.LogDirectory, filepath.Dir(LogPath)), is the caller's to
// make.
func (n *Node) Container(ctx context.Context, in *Container) (*runtimeapi.ContainerConfig, error) {
	pod, container := in.Pod, in.Container
	env, err := n.environment(ctx, in)
	if err != nil {
		return nil, err
	}
	mounts, err := n.mounts(ctx, in, env)
	if err != nil {
		return nil, err
	}
	if err := verifyNonRoot(pod, container, in.Image); err != nil {
		return nil, err
	}
	security, err := n.securityContext(pod, container, in.Image)
	if err != nil {
		return nil, err
	}
	if in.TargetID != "" && security.NamespaceOptions.Pid == runtimeapi.NamespaceMode_CONTAINER {
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = in.TargetID
	}
	command, args := kubecontainer.ExpandContainerCommandAndArgs(container, env)
	config := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: container.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.Image.GetId(), UserSpecifiedImage: container.Image},
		Command:     command,
		Args:        args,
		WorkingDir:  container.WorkingDir,
		Labels:      containerLabels(pod, container),
		Annotations: containerAnnotations(pod, container, in.Attempt),
		Mounts:      mounts,
		LogPath:     filepath.Join(container.Name, fmt.Sprintf("%d.log", in.Attempt)),
		Stdin:       container.Stdin,
		StdinOnce:   container.StdinOnce,
		Tty:         container.TTY,
		StopSignal:  stopSignal(container),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       n.ContainerResources(pod, container),
			SecurityContext: security,
		},
	}
	for _, variable := range env {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: variable.Name, Value: []byte(variable.Value)})
	}
	return config, nil
}

// LogDirectory is where the logs of a Pod's containers lie.
func (n *Node) LogDirectory(pod *v1.Pod) string {
	return filepath.Join(n.LogRoot, strings.Join([]string{pod.Namespace, pod.Name, string(pod.UID)}, "_"))
}

// stopSignal translates the API's name to CRI's: SIGRTMIN+1 is SIGNAL_SIGRTMINPLUS1.
func stopSignal(container *v1.Container) runtimeapi.Signal {
	if container.Lifecycle == nil || container.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(*container.Lifecycle.StopSignal))
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}

// sortedEnv lists variables by name: the order of the message must not depend on a map's.
func sortedEnv(values map[string]string) []kubecontainer.EnvVar {
	env := make([]kubecontainer.EnvVar, 0, len(values))
	for name, value := range values {
		env = append(env, kubecontainer.EnvVar{Name: name, Value: value})
	}
	slices.SortFunc(env, func(a, b kubecontainer.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	return env
}
