package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/util/tail"
	"k8s.io/utils/buffer"
)

// Where the spec of a container's termination message stands, as the kubelet annotates it.
const (
	messagePathKey = "io.kubernetes.container.terminationMessagePath"
	policyKey      = "io.kubernetes.container.terminationMessagePolicy"
)

// terminationMessage returns why an ended container ended: what the engine says, and what the container left behind to
// say ("Determine the Reason for Pod Failure"). It is read once.
func (w *Worker) terminationMessage(s *runtimeapi.ContainerStatus) string {
	w.mu.Lock()
	message, known := w.memory.messages[s.Id]
	w.mu.Unlock()
	if known {
		return message
	}
	message = s.Message
	if text := lastWords(s); text != "" {
		if message != "" {
			message += ": "
		}
		// What is no text reads from the API otherwise than it was written, and would be written again and again.
		message += strings.ToValidUTF8(text, "\ufffd")
	}
	w.mu.Lock()
	w.memory.messages[s.Id] = message
	w.mu.Unlock()
	return message
}

// lastWords are the last 4 KiB of the container's message file or, when that is empty and the policy says so, of a
// failed container's log the last 80 lines, of them the last 2 KiB.
func lastWords(s *runtimeapi.ContainerStatus) string {
	for _, m := range s.Mounts {
		if m.ContainerPath != s.Annotations[messagePathKey] {
			continue
		}
		text, _, err := tail.ReadAtMost(m.HostPath, kubecontainer.MaxContainerTerminationMessageLength)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Sprintf("Error on reading termination log %s: %v", m.HostPath, err)
		}
		if len(text) > 0 {
			return string(text)
		}
		break
	}
	policy := v1.TerminationMessagePolicy(s.Annotations[policyKey])
	if policy != v1.TerminationMessageFallbackToLogsOnError || s.ExitCode == 0 || s.Reason == "ContainerCannotRun" {
		return ""
	}
	return logEnd(s)
}

// logEnd is the end of a container's log: the last 80 lines, of them the last 2 KiB.
func logEnd(s *runtimeapi.ContainerStatus) string {
	out, _ := buffer.NewTypedRingFixed[byte](kubecontainer.MaxContainerTerminationMessageLogLength) // fails for negative sizes only
	lines := int64(kubecontainer.MaxContainerTerminationMessageLogLines)
	if err := logs.ReadLogs(context.Background(), s.LogPath, "", &logs.LogOptions{TailLines: &lines}, nil, out, out); err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	return string(out.Slice())
}

// enforced reads the kernel's limits back into the terms of the spec, for status.resources.
func enforced(spec *v1.Container, l *runtimeapi.LinuxContainerResources) *v1.ResourceRequirements {
	if spec == nil || l == nil {
		return nil
	}
	out := &v1.ResourceRequirements{Limits: v1.ResourceList{}, Requests: v1.ResourceList{}}
	if l.CpuQuota > 0 && l.CpuPeriod > 0 {
		// Below 10 millicores the kernel enforces 10: the spec's own value is told then.
		if m := (l.CpuQuota*1000 + l.CpuPeriod - 1) / l.CpuPeriod; m > 10 || spec.Resources.Limits.Cpu().MilliValue() > 10 {
			out.Limits[v1.ResourceCPU] = *resource.NewMilliQuantity(m, resource.DecimalSI)
		}
	}
	if l.MemoryLimitInBytes > 0 {
		out.Limits[v1.ResourceMemory] = *resource.NewQuantity(l.MemoryLimitInBytes, resource.BinarySI)
	}
	if l.CpuShares > 2 {
		out.Requests[v1.ResourceCPU] = *resource.NewMilliQuantity((l.CpuShares*1000+1023)/1024, resource.DecimalSI)
	}
	return out
}
