package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	v1 "k8s.io/api/core/v1"
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
