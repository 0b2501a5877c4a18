package engine

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/cgroup"
	"peapod.dev/peapod/internal/engine/container"
	"peapod.dev/peapod/internal/engine/sandbox"
)

// ContainerStats measures a running container.
func (e *Engine) ContainerStats(_ context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := e.running(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := e.containerStats(c)
	if err != nil {
		return nil, internal(err)
	}
	return &runtimeapi.ContainerStatsResponse{Stats: stats}, nil
}

// ListContainerStats measures the running containers that match the filter.
func (e *Engine) ListContainerStats(_ context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := req.GetFilter()
	all, err := e.statsOf(func(c *container.Container) bool {
		return strings.HasPrefix(c.ID, f.GetId()) && strings.HasPrefix(c.SandboxID, f.GetPodSandboxId()) &&
			matches(f.GetLabelSelector(), c.Config.GetLabels())
	})
	return &runtimeapi.ListContainerStatsResponse{Stats: all}, internal(err)
}

// statsOf measures the running containers that want chooses. One that ends meanwhile is left out.
func (e *Engine) statsOf(want func(*container.Container) bool) ([]*runtimeapi.ContainerStats, error) {
	var all []*runtimeapi.ContainerStats
	for _, c := range e.registry.allContainers() {
		if c.Status().State != runtimeapi.ContainerState_CONTAINER_RUNNING || !want(c) {
			continue
		}
		stats, err := e.containerStats(c)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, stats)
	}
	return all, nil
}

func (e *Engine) containerStats(c *container.Container) (*runtimeapi.ContainerStats, error) {
	used, err := e.cgroups.Stats(c.Cgroup)
	if err != nil {
		return nil, err
	}
	limit := containerStatus(c).GetResources().GetLinux().GetMemoryLimitInBytes()
	cpu, memory := usage(used, limit)
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.ID, Metadata: c.Config.GetMetadata(), Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
		},
		Cpu: cpu, Memory: memory,
	}, nil
}

// usage translates what a group uses; limit is of its memory, 0 for none.
func usage(s cgroup.Stats, limit int64) (*runtimeapi.CpuUsage, *runtimeapi.MemoryUsage) {
	value := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
	now := time.Now().UnixNano()
	memory := &runtimeapi.MemoryUsage{
		Timestamp: now, WorkingSetBytes: value(s.MemoryWorkingSet), UsageBytes: value(s.MemoryUsage), RssBytes: value(s.MemoryRSS),
		PageFaults: value(s.PageFaults), MajorPageFaults: value(s.MajorPageFaults),
	}
	if limit > 0 && uint64(limit) > s.MemoryWorkingSet {
		memory.AvailableBytes = value(uint64(limit) - s.MemoryWorkingSet)
	}
	return &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: value(s.CPUUsageNanos)}, memory
}

// PodSandboxStats measures a Pod.
func (e *Engine) PodSandboxStats(_ context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	s, err := e.registry.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	stats, err := e.sandboxStats(s)
	if err != nil {
		return nil, internal(err)
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: stats}, nil
}

// ListPodSandboxStats measures the ready Pods that match the filter.
func (e *Engine) ListPodSandboxStats(_ context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	resp := &runtimeapi.ListPodSandboxStatsResponse{}
	f := req.GetFilter()
	for _, s := range e.registry.allSandboxes() {
		if !s.Ready() || !strings.HasPrefix(s.ID, f.GetId()) || !matches(f.GetLabelSelector(), s.Config.GetLabels()) {
			continue
		}
		stats, err := e.sandboxStats(s)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, internal(err)
		}
		resp.Stats = append(resp.Stats, stats)
	}
	return resp, nil
}

func (e *Engine) sandboxStats(s *sandbox.Sandbox) (*runtimeapi.PodSandboxStats, error) {
	used, err := e.cgroups.Stats(s.CgroupParent)
	if err != nil {
		return nil, err
	}
	containers, err := e.statsOf(func(c *container.Container) bool { return c.SandboxID == s.ID })
	if err != nil {
		return nil, err
	}
	cpu, memory := usage(used, s.Config.GetLinux().GetResources().GetMemoryLimitInBytes())
	linux := &runtimeapi.LinuxPodSandboxStats{
		Cpu: cpu, Memory: memory, Containers: containers,
		Process: &runtimeapi.ProcessUsage{Timestamp: cpu.Timestamp, ProcessCount: &runtimeapi.UInt64Value{Value: used.Pids}},
	}
	if path := s.NetNS(); path != "" && s.Ready() {
		if linux.Network, err = networkUsage(path); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id: s.ID, Metadata: s.Config.GetMetadata(), Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(),
		},
		Linux: linux,
	}, nil
}

// networkUsage reads the counters of the links in a network namespace, the loopback aside.
func networkUsage(path string) (*runtimeapi.NetworkUsage, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	links, err := inside.LinkList()
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.NetworkUsage{Timestamp: time.Now().UnixNano()}
	value := func(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
	for _, link := range links {
		a := link.Attrs()
		if a.Name == "lo" || a.Statistics == nil {
			continue
		}
		u := &runtimeapi.NetworkInterfaceUsage{
			Name: a.Name, RxBytes: value(a.Statistics.RxBytes), RxErrors: value(a.Statistics.RxErrors),
			TxBytes: value(a.Statistics.TxBytes), TxErrors: value(a.Statistics.TxErrors),
		}
		if a.Name == "eth0" {
			out.DefaultInterface = u
		} else {
			out.Interfaces = append(out.Interfaces, u)
		}
	}
	return out, nil
}
