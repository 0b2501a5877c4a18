package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
)

// measureChanges measures how soon a watch shows what has changed in a Pod that runs.
func measureChanges(ctx context.Context, s *stage, rounds int) ([]figure, error) {
	exit := figure{Name: "container exit to its status on a watch", Unit: "ms", Goal: "≤ 15"}
	restart := figure{Name: "container exit to its first restart, Running on a watch", Unit: "ms", Goal: "≤ 60"}
	ended := func(c *corev1.ContainerStatus) bool { return c.State.Terminated != nil }
	again := func(c *corev1.ContainerStatus) bool { return c.RestartCount == 1 && c.State.Running != nil }
	for n := range rounds {
		for _, m := range []struct {
			figure *figure
			policy corev1.RestartPolicy
			seen   func(*corev1.ContainerStatus) bool
		}{{&exit, corev1.RestartPolicyNever, ended}, {&restart, corev1.RestartPolicyAlways, again}} {
			pod := task(fmt.Sprintf("exit-%d-%s", n, strings.ToLower(string(m.policy))), false)
			pod.Spec.RestartPolicy = m.policy
			took, err := s.exitSeen(ctx, pod, m.seen)
			if err != nil {
				return nil, err
			}
			m.figure.Samples = append(m.figure.Samples, milliseconds(took))
		}
	}
	flip, err := measureReadiness(ctx, s, rounds)
	return []figure{exit, restart, flip}, err
}

// exitSeen runs the Pod, kills the process of its container and returns the time from that process' end, to which its
// pidfd is the witness, until the container's status is as wanted. FinishedAt, in whole seconds, would be too coarse.
func (s *stage) exitSeen(ctx context.Context, pod *corev1.Pod, wanted func(*corev1.ContainerStatus) bool) (time.Duration, error) {
	if _, err := s.createReady(ctx, pod); err != nil {
		return 0, err
	}
	live, err := s.client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	if err != nil {
		return 0, fmt.Errorf("cannot get Pod: %w", err)
	}
	all, err := processes()
	if err != nil {
		return 0, err
	}
	pid, err := processOf(live.Status.ContainerStatuses[0].ContainerID, all)
	if err != nil {
		return 0, err
	}
	end, err := kill(pid)
	if err != nil {
		return 0, fmt.Errorf("cannot kill process %d: %w", pid, err)
	}
	err = s.wait(ctx, func(_ watch.Event, seen *corev1.Pod) bool {
		return seen.Name == pod.Name && len(seen.Status.ContainerStatuses) == 1 && wanted(&seen.Status.ContainerStatuses[0])
	})
	took := time.Since(end)
	if err != nil {
		return 0, err
	}
	_, err = s.deleteGone(ctx, pod.Name)
	return took, err
}

// processes finds the first process of every container on the machine, by the container's ID: the process is 1 in its PID
// namespace, and its control group is named after the container.
func processes() (map[string]int, error) {
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	found := map[string]int{}
	for _, group := range groups {
		status, err := os.ReadFile(filepath.Join(filepath.Dir(group), "status"))
		if err != nil {
			continue // it has ended
		}
		_, line, _ := strings.Cut(string(status), "\nNSpid:")
		line, _, _ = strings.Cut(line, "\n")
		ids := strings.Fields(line)
		if len(ids) != 2 || ids[1] != "1" {
			continue
		}
		pid, err := strconv.Atoi(ids[0])
		if err != nil {
			continue
		}
		content, err := os.ReadFile(group)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			found[path.Base(strings.TrimSpace(line))] = pid
		}
	}
	return found, nil
}

// processOf is the first process of the container.
func processOf(containerID string, all map[string]int) (int, error) {
	_, id, _ := strings.Cut(containerID, "://")
	pid, ok := all[id]
	if !ok {
		return 0, fmt.Errorf("cannot find the process of container %q", containerID)
	}
	return pid, nil
}

// kill ends the process and returns the instant at which it had ended.
func kill(pid int) (time.Time, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return time.Time{}, err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return time.Now(), err
		}
	}
}

// health answers probes as it is told, and tells when an answer was another than the one before.
type health struct {
	mu      sync.Mutex
	healthy bool
	changed bool
	flipped chan time.Time
}

func (h *health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if h.changed {
		h.changed = false
		h.flipped <- time.Now()
	}
}

func (h *health) flip() (healthy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.healthy, h.changed = !h.healthy, true
	return h.healthy
}

// measureReadiness has a probe ask this process, which so knows when it has answered.
func measureReadiness(ctx context.Context, s *stage, rounds int) (figure, error) {
	f := figure{Name: "readiness probe answered otherwise to the condition on a watch", Unit: "ms", Goal: "≤ 15"}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return f, fmt.Errorf("cannot listen: %w", err)
	}
	h := &health{healthy: true, flipped: make(chan time.Time, 1)}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	pod := task("flip", false)
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Host: "127.0.0.1", Port: intstr.FromInt(listener.Addr().(*net.TCPAddr).Port),
		}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	if _, err := s.createReady(ctx, pod); err != nil {
		return f, err
	}
	for range rounds {
		healthy := h.flip()
		var answered time.Time
		select {
		case answered = <-h.flipped:
		case <-time.After(time.Minute):
			return f, errors.New("no probe has come")
		}
		err := s.wait(ctx, func(e watch.Event, seen *corev1.Pod) bool { return seen.Name == pod.Name && ready(e, seen) == healthy })
		if err != nil {
			return f, err
		}
		f.Samples = append(f.Samples, milliseconds(time.Since(answered)))
	}
	_, err = s.deleteGone(ctx, pod.Name)
	return f, err
}
