package kubeletapi

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// serveSummary answers with the use of cpu and memory by the node, its Pods and their containers.
func (s *Server) serveSummary(w http.ResponseWriter, r *http.Request) {
	summary, err := s.summary(r.Context())
	if err != nil {
		writeError(w, http.StatusInternalServerError, err)
		return
	}
	writeJSON(w, summary)
}

func (s *Server) summary(ctx context.Context) (*stats.Summary, error) {
	sandboxes, err := s.cfg.Engine.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, err
	}
	started := s.startTimes()
	summary := &stats.Summary{Node: nodeStats(s.cfg.NodeName), Pods: []stats.PodStats{}}
	for _, sandbox := range sandboxes.Stats {
		meta, used := sandbox.GetAttributes().GetMetadata(), sandbox.GetLinux()
		pod := stats.PodStats{
			PodRef:    stats.PodReference{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid()},
			StartTime: started[meta.GetUid()], Containers: []stats.ContainerStats{},
			CPU: cpu(used.GetCpu()), Memory: memory(used.GetMemory()), Network: network(used.GetNetwork()),
		}
		if p := used.GetProcess(); p != nil {
			pod.ProcessStats = &stats.ProcessStats{ProcessCount: value(p.ProcessCount)}
		}
		for _, c := range used.GetContainers() {
			name := c.GetAttributes().GetMetadata().GetName()
			pod.Containers = append(pod.Containers, stats.ContainerStats{
				Name: name, StartTime: started[meta.GetUid()+"/"+name], CPU: cpu(c.Cpu), Memory: memory(c.Memory), Swap: swap(c.Swap),
			})
		}
		summary.Pods = append(summary.Pods, pod)
	}
	return summary, nil
}

// startTimes tells when Pods (by UID) and their running containers (by UID/name) were started.
func (s *Server) startTimes() map[string]metav1.Time {
	times := map[string]metav1.Time{}
	for _, pod := range s.cfg.Pods() {
		if pod.Status.StartTime != nil {
			times[string(pod.UID)] = *pod.Status.StartTime
		}
		for _, c := range append(pod.Status.InitContainerStatuses[:len(pod.Status.InitContainerStatuses):len(pod.Status.InitContainerStatuses)], pod.Status.ContainerStatuses...) {
			if c.State.Running != nil {
				times[string(pod.UID)+"/"+c.Name] = c.State.Running.StartedAt
			}
		}
	}
	return times
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func at(nanoseconds int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanoseconds)) }

func cpu(u *runtimeapi.CpuUsage) *stats.CPUStats {
	if u == nil {
		return nil
	}
	return &stats.CPUStats{Time: at(u.Timestamp), UsageNanoCores: value(u.UsageNanoCores), UsageCoreNanoSeconds: value(u.UsageCoreNanoSeconds)}
}

func memory(u *runtimeapi.MemoryUsage) *stats.MemoryStats {
	if u == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: at(u.Timestamp), AvailableBytes: value(u.AvailableBytes), UsageBytes: value(u.UsageBytes), WorkingSetBytes: value(u.WorkingSetBytes),
		RSSBytes: value(u.RssBytes), PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults),
	}
}

func swap(u *runtimeapi.SwapUsage) *stats.SwapStats {
	if u == nil {
		return nil
	}
	return &stats.SwapStats{Time: at(u.Timestamp), SwapAvailableBytes: value(u.SwapAvailableBytes), SwapUsageBytes: value(u.SwapUsageBytes)}
}

func network(u *runtimeapi.NetworkUsage) *stats.NetworkStats {
	if u == nil {
		return nil
	}
	n := &stats.NetworkStats{Time: at(u.Timestamp)}
	if u.DefaultInterface != nil {
		n.InterfaceStats = networkInterface(u.DefaultInterface)
		n.Interfaces = append(n.Interfaces, n.InterfaceStats)
	}
	for _, i := range u.Interfaces {
		n.Interfaces = append(n.Interfaces, networkInterface(i))
	}
	return n
}

func networkInterface(u *runtimeapi.NetworkInterfaceUsage) stats.InterfaceStats {
	return stats.InterfaceStats{Name: u.Name, RxBytes: value(u.RxBytes), RxErrors: value(u.RxErrors), TxBytes: value(u.TxBytes), TxErrors: value(u.TxErrors)}
}

// nodeStats reads the machine's own counters; what cannot be read stays out.
func nodeStats(name string) stats.NodeStats {
	now := metav1.Now()
	node := stats.NodeStats{NodeName: name}
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		node.StartTime, node.CPU = parseStat(string(b), now)
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		node.Memory = parseMeminfo(string(b), now)
	}
	return node
}

// parseStat reads the time of boot and the processor time used since, idle and waiting excluded. The
// kernel counts in hundredths of a second for user space, whatever its own tick is.
func parseStat(text string, now metav1.Time) (boot metav1.Time, used *stats.CPUStats) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 9 && fields[0] == "cpu":
			total := uint64(0)
			for _, i := range []int{1, 2, 3, 6, 7, 8} { // user nice system irq softirq steal; guests are in user
				ticks, _ := strconv.ParseUint(fields[i], 10, 64)
				total += ticks * uint64(10*time.Millisecond)
			}
			used = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &total}
		case len(fields) == 2 && fields[0] == "btime":
			seconds, _ := strconv.ParseInt(fields[1], 10, 64)
			boot = metav1.Unix(seconds, 0)
		}
	}
	return boot, used
}

func parseMeminfo(text string, now metav1.Time) *stats.MemoryStats {
	bytes := map[string]uint64{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			kb, _ := strconv.ParseUint(fields[1], 10, 64)
			bytes[strings.TrimSuffix(fields[0], ":")] = kb << 10
		}
	}
	total, available := bytes["MemTotal"], bytes["MemAvailable"]
	return &stats.MemoryStats{
		Time: now, AvailableBytes: &available, UsageBytes: new(total - bytes["MemFree"]),
		WorkingSetBytes: new(total - available), RSSBytes: new(bytes["AnonPages"]),
	}
}
