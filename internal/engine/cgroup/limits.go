package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPeriod is the kernel's CFS period in microseconds.
const defaultPeriod = 100000

// setting is one write to one file.
type setting struct {
	controller, file, value string
	optional                bool // log instead of failing when the kernel refuses
	again                   bool // once more after the others, when the kernel finds it invalid
}

// Update applies what r sets (zero: leave as it is; -1: no limit) to the group at path. Limits of a controller that the
// machine lacks are logged and left out. r.OomScoreAdj is a process' matter and ignored.
func (h *Hierarchy) Update(path string, r *runtimeapi.LinuxContainerResources) error {
	if r == nil {
		return nil
	}
	settings := settingsV1
	if h.mode == V2 {
		settings = settingsV2
	}
	all := settings(r)
	for i := 0; i < len(all); i++ {
		s := all[i]
		dir, err := h.dir(s.controller, path), fs.ErrNotExist
		if dir != "" {
			err = write(dir, s.file, s.value)
		}
		switch {
		case err == nil:
		case s.again && errors.Is(err, unix.EINVAL):
			s.again = false
			all = append(all, s)
		case s.optional || errors.Is(err, fs.ErrNotExist) && !h.gone(path):
			h.log.Warn("cannot apply a cgroup limit", "cgroup", path, "file", s.file, "value", s.value, "err", err)
		default:
			return fmt.Errorf("cannot set %s of cgroup %s to %q: %w", s.file, path, s.value, err)
		}
	}
	return nil
}

func settingsV1(r *runtimeapi.LinuxContainerResources) []setting {
	var all []setting
	add := func(controller, file string, v int64) {
		if v != 0 {
			all = append(all, setting{controller: controller, file: file, value: strconv.FormatInt(v, 10)})
		}
	}
	add("cpu", "cpu.shares", r.CpuShares)
	add("cpu", "cpu.cfs_period_us", r.CpuPeriod)
	add("cpu", "cpu.cfs_quota_us", r.CpuQuota)
	add("memory", "memory.limit_in_bytes", r.MemoryLimitInBytes)
	if r.MemorySwapLimitInBytes != 0 { // a kernel without swap accounting lacks the file
		if r.MemoryLimitInBytes != 0 {
			all[len(all)-1].again = true // memory is never above memory and swap, so the larger one grows first
		}
		add("memory", "memory.memsw.limit_in_bytes", r.MemorySwapLimitInBytes)
		all[len(all)-1].optional = true
	}
	all = append(all, cpusets(r)...)
	all = append(all, hugepages(r, "limit_in_bytes")...)
	if v := r.Unified["pids.max"]; v != "" { // CRI has no field for it; the file is the same on version 1
		all = append(all, setting{controller: "pids", file: "pids.max", value: v})
	}
	return all
}

func settingsV2(r *runtimeapi.LinuxContainerResources) []setting {
	var all []setting
	add := func(file, value string) { all = append(all, setting{file: file, value: value}) }
	if r.CpuShares > 0 {
		add("cpu.weight", strconv.FormatUint(Weight(uint64(r.CpuShares)), 10))
	}
	if r.CpuQuota != 0 || r.CpuPeriod != 0 {
		period := r.CpuPeriod
		if period == 0 {
			period = defaultPeriod
		}
		quota := "max"
		if r.CpuQuota > 0 {
			quota = strconv.FormatInt(r.CpuQuota, 10)
		}
		add("cpu.max", quota+" "+strconv.FormatInt(period, 10))
	}
	if r.MemoryLimitInBytes != 0 {
		add("memory.max", limit(r.MemoryLimitInBytes))
	}
	if swap := r.MemorySwapLimitInBytes; swap != 0 {
		// CRI has memory and swap together, the file swap alone.
		if swap > 0 && r.MemoryLimitInBytes > 0 {
			swap = max(swap-r.MemoryLimitInBytes, 0)
		}
		all = append(all, setting{file: "memory.swap.max", value: limit(swap), optional: true})
	}
	all = append(all, cpusets(r)...)
	all = append(all, hugepages(r, "max")...)
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		// The keys come from a message: none may lead out of the group.
		if strings.ContainsRune(file, '/') {
			continue
		}
		add(file, r.Unified[file])
	}
	return all
}

func cpusets(r *runtimeapi.LinuxContainerResources) []setting {
	var all []setting
	if r.CpusetCpus != "" {
		all = append(all, setting{controller: "cpuset", file: "cpuset.cpus", value: r.CpusetCpus})
	}
	if r.CpusetMems != "" {
		all = append(all, setting{controller: "cpuset", file: "cpuset.mems", value: r.CpusetMems})
	}
	return all
}

// hugepages are optional: kubelet always sends a limit for each size that it knows, also where the controller is off.
func hugepages(r *runtimeapi.LinuxContainerResources, suffix string) []setting {
	var all []setting
	for _, l := range r.HugepageLimits {
		if strings.ContainsRune(l.PageSize, '/') {
			continue
		}
		all = append(all, setting{
			controller: "hugetlb", file: "hugetlb." + l.PageSize + "." + suffix,
			value: strconv.FormatUint(l.Limit, 10), optional: true,
		})
	}
	return all
}

func limit(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

// Weight converts version 1 CPU shares (2…262144, default 1024) to a version 2 weight (1…10000, default 100) along the
// curve through those three points that OCI runtimes and the kubelet have used since KEP-2254's revision of 2025.
func Weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}
