package containerconfig

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	kubetypes "k8s.io/kubelet/pkg/types"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
)

// The kubelet's annotations of a container (pkg/kubelet/kuberuntime/labels.go). A daemon that adopts containers reads
// them back.
const (
	HashAnnotation                     = "io.kubernetes.container.hash"
	RestartCountAnnotation             = "io.kubernetes.container.restartCount"
	TerminationMessagePathAnnotation   = "io.kubernetes.container.terminationMessagePath"
	TerminationMessagePolicyAnnotation = "io.kubernetes.container.terminationMessagePolicy"
	PreStopHandlerAnnotation           = "io.kubernetes.container.preStopHandler"
	PortsAnnotation                    = "io.kubernetes.container.ports"
	DeletionGracePeriodAnnotation      = "io.kubernetes.pod.deletionGracePeriod"
	TerminationGracePeriodAnnotation   = "io.kubernetes.pod.terminationGracePeriod"
)

func podLabels(pod *v1.Pod) map[string]string {
	labels := maps.Clone(pod.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[kubetypes.KubernetesPodNameLabel] = pod.Name
	labels[kubetypes.KubernetesPodNamespaceLabel] = pod.Namespace
	labels[kubetypes.KubernetesPodUIDLabel] = string(pod.UID)
	return labels
}

func containerLabels(pod *v1.Pod, container *v1.Container) map[string]string {
	return map[string]string{
		kubetypes.KubernetesPodNameLabel:       pod.Name,
		kubetypes.KubernetesPodNamespaceLabel:  pod.Namespace,
		kubetypes.KubernetesPodUIDLabel:        string(pod.UID),
		kubetypes.KubernetesContainerNameLabel: container.Name,
	}
}

// Hash identifies the part of a container's specification whose change makes the container start anew.
func Hash(container *v1.Container) string {
	return strconv.FormatUint(kubecontainer.HashContainer(container), 16)
}

func containerAnnotations(pod *v1.Pod, container *v1.Container, attempt uint32) map[string]string {
	annotations := map[string]string{
		HashAnnotation:                     Hash(container),
		RestartCountAnnotation:             strconv.FormatUint(uint64(attempt), 10),
		TerminationMessagePathAnnotation:   container.TerminationMessagePath,
		TerminationMessagePolicyAnnotation: string(container.TerminationMessagePolicy),
	}
	setSeconds(annotations, DeletionGracePeriodAnnotation, pod.DeletionGracePeriodSeconds)
	setSeconds(annotations, TerminationGracePeriodAnnotation, pod.Spec.TerminationGracePeriodSeconds)
	if container.Lifecycle != nil && container.Lifecycle.PreStop != nil {
		setJSON(annotations, PreStopHandlerAnnotation, container.Lifecycle.PreStop)
	}
	if len(container.Ports) > 0 {
		setJSON(annotations, PortsAnnotation, container.Ports)
	}
	return annotations
}

func setSeconds(annotations map[string]string, key string, seconds *int64) {
	if seconds != nil {
		annotations[key] = strconv.FormatInt(*seconds, 10)
	}
}

// setJSON is for API types, which can always be encoded.
func setJSON(annotations map[string]string, key string, value any) {
	if encoded, err := json.Marshal(value); err == nil {
		annotations[key] = string(encoded)
	}
}

// Restore adds to pod what a container's annotations say of it: how it is to be ended. It is for a Pod whose object is
// gone; of several attempts of a container the first that is restored counts. What cannot be read is left out.
func Restore(pod *v1.Pod, name string, annotations map[string]string) {
	if slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return c.Name == name }) {
		return
	}
	c := v1.Container{Name: name}
	var preStop v1.LifecycleHandler
	if json.Unmarshal([]byte(annotations[PreStopHandlerAnnotation]), &preStop) == nil {
		c.Lifecycle = &v1.Lifecycle{PreStop: &preStop}
	}
	_ = json.Unmarshal([]byte(annotations[PortsAnnotation]), &c.Ports)
	pod.Spec.Containers = append(pod.Spec.Containers, c)
	for _, key := range []string{TerminationGracePeriodAnnotation, DeletionGracePeriodAnnotation} {
		if seconds, err := strconv.ParseInt(annotations[key], 10, 64); err == nil {
			pod.Spec.TerminationGracePeriodSeconds = &seconds
		}
	}
}
