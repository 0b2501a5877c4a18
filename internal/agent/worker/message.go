package worker

import (
	"bytes"
	"context"
	"io"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
)

// The limits of a termination message ("Determine the Reason for Pod Failure").
const (
	maxMessage     = 4096 // bytes from the file
	maxLogMessage  = 2048 // bytes from the log
	maxLogLines    = 80
	messagePathKey = "io.kubernetes.container.terminationMessagePath"
	policyKey      = "io.kubernetes.container.terminationMessagePolicy"
)

// terminationMessage returns what an ended container left behind to say; it is read once.
func (w *Worker) terminationMessage(s *runtimeapi.ContainerStatus) string {
	w.mu.Lock()
	message, known := w.memory.messages[s.Id]
	w.mu.Unlock()
	if known {
		return message
	}
	message = s.Message
	if text := fromFile(s); text != "" {
		message = text
	} else if v1.TerminationMessagePolicy(s.Annotations[policyKey]) == v1.TerminationMessageFallbackToLogsOnError && s.ExitCode != 0 {
		if text := fromLog(s); text != "" {
			message = text
		}
	}
	w.mu.Lock()
	w.memory.messages[s.Id] = message
	w.mu.Unlock()
	return message
}

func fromFile(s *runtimeapi.ContainerStatus) string {
	path := s.Annotations[messagePathKey]
	if path == "" {
		return ""
	}
	for _, m := range s.Mounts {
		if m.ContainerPath != path {
			continue
		}
		f, err := os.Open(m.HostPath)
		if err != nil {
			return ""
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxMessage))
		if err != nil {
			return ""
		}
		return string(text)
	}
	return ""
}

func fromLog(s *runtimeapi.ContainerStatus) string {
	var out bytes.Buffer
	lines, limit := int64(maxLogLines), int64(1<<20)
	options := &logs.LogOptions{TailLines: &lines, LimitBytes: &limit}
	if err := logs.ReadLogs(context.Background(), s.LogPath, "", options, nil, &out, &out); err != nil {
		return ""
	}
	return string(out.Bytes()[max(0, out.Len()-maxLogMessage):])
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
