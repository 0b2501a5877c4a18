package ocispec

import (
	"maps"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"peapod.dev/peapod/internal/engine/cgroup"
)

// resources carries the container's limits over. The runtime translates shares, quota and memory to version 2 itself.
func resources(spec *specs.Spec, in *Input) error {
	spec.Linux.CgroupsPath = in.CgroupsPath
	r, out := in.Container.GetLinux().GetResources(), spec.Linux.Resources

	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := uint64(max(r.GetCpuShares(), 0)); v != 0 {
		cpu.Shares = &v
	}
	if v := r.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := uint64(max(r.GetCpuPeriod(), 0)); v != 0 {
		cpu.Period = &v
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}

	memory := &specs.LinuxMemory{}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		memory.Limit = &v
	}
	if v := r.GetMemorySwapLimitInBytes(); v != 0 {
		memory.Swap = &v
	}
	if *memory != (specs.LinuxMemory{}) {
		out.Memory = memory
	}

	for _, l := range r.GetHugepageLimits() {
		if !in.Machine.Hugetlb {
			in.Log.Debug("no hugetlb cgroup controller: huge pages are not limited")
			break
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()})
	}

	unified := maps.Clone(r.GetUnified())
	if v, err := strconv.ParseInt(unified["pids.max"], 10, 64); err == nil {
		out.Pids = &specs.LinuxPids{Limit: &v}
		delete(unified, "pids.max")
	}
	if in.CgroupMode != cgroup.V2 {
		return nil
	}
	// Without singleProcessOOMKill the kubelet has the whole container end when one of its processes is killed.
	if _, set := unified["memory.oom.group"]; !set {
		if unified == nil {
			unified = map[string]string{}
		}
		unified["memory.oom.group"] = "1"
	}
	out.Unified = unified
	return nil
}
