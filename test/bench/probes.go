package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	windows = 4               // of the measurement of probes
	window  = 5 * time.Second // the kernel counts processor time in hundredths of a second
)

// measureProbes reads the processor time that the daemon itself uses, without its children, while n Pods are probed three
// times a second each, and how many of the commands among these probes were run.
func measureProbes(ctx context.Context, s *stage, daemon, n int) ([]figure, error) {
	cpu := figure{Name: fmt.Sprintf("processor time of the daemon, %d Pods with three 1 s probes each", n), Unit: "% of a core", Goal: "≤ 35"}
	rate := figure{Name: "of their exec probes, run each second", Unit: "", Goal: fmt.Sprint(n)}
	if n == 0 {
		return nil, nil
	}
	if _, err := s.createReadyAll(ctx, n, probed); err != nil {
		return nil, err
	}
	counters, err := s.counters(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.idle(ctx, settle); err != nil {
		return nil, err
	}
	used, ran, at := processorTime(daemon), count(counters), time.Now()
	for range windows {
		if err := s.idle(ctx, window); err != nil {
			return nil, err
		}
		used1, ran1, at1 := processorTime(daemon), count(counters), time.Now()
		cpu.Samples = append(cpu.Samples, 100*(used1-used).Seconds()/at1.Sub(at).Seconds())
		rate.Samples = append(rate.Samples, float64(ran1-ran)/at1.Sub(at).Seconds())
		used, ran, at = used1, ran1, at1
	}
	return []figure{cpu, rate}, s.deleteGoneAll(ctx, n)
}

// probed is a Pod with an exec, an HTTP and a TCP probe. Each run of the command adds a byte to a file.
func probed(name string) *corev1.Pod {
	pod := task(name, false)
	every := func(handler corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, TimeoutSeconds: 10}
	}
	shell := &pod.Spec.Containers[0]
	shell.LivenessProbe = every(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo >> /count"}}})
	web := *shell.DeepCopy()
	web.Name = "web"
	web.Command = []string{"sh", "-c", "mkdir /www; echo ok > /www/index.html; exec httpd -f -p 8080 -h /www"}
	web.LivenessProbe = every(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(8080)}})
	web.ReadinessProbe = every(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(8080)}})
	pod.Spec.Containers = append(pod.Spec.Containers, web)
	grace := int64(0) // httpd does not end on TERM
	pod.Spec.TerminationGracePeriodSeconds = &grace
	return pod
}

// counters are the files that the commands write to, in the containers' root folders.
func (s *stage) counters(ctx context.Context) ([]string, error) {
	pods, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot list Pods: %w", err)
	}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var files []string
	for i := range pods.Items {
		for _, c := range pods.Items[i].Status.ContainerStatuses {
			if c.Name != "shell" {
				continue
			}
			pid, err := processOf(c.ContainerID, all)
			if err != nil {
				return nil, err
			}
			files = append(files, filepath.Join("/proc", strconv.Itoa(pid), "root", "count"))
		}
	}
	return files, nil
}

func count(files []string) (n int64) {
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			n += info.Size()
		}
	}
	return n
}

// processorTime is what the process has used in user and kernel mode since its start; its children do not count.
func processorTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // the name before may hold anything
	var ticks int64
	for _, field := range fields[11:13] { // utime, stime
		n, _ := strconv.ParseInt(string(field), 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every architecture that peapod runs on
}
