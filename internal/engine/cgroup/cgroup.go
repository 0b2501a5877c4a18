// Package cgroup makes, limits, measures and removes the control groups of Pods, over cgroupfs of
// version 1, version 2 or the hybrid of both.
//
// A path names one group in every hierarchy that the machine has ("/peapod-1a2b/podUID"). On version 1
// and on hybrid machines the same path exists once for each controller; callers never see that.
// All methods are safe for concurrent use on different paths.
package cgroup

import (
	"context"
	"log/slog"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Mode is the layout of the machine's cgroup hierarchies.
type Mode int

// V1 has one hierarchy for each controller; Hybrid has those and a version 2 tree beside them at
// /sys/fs/cgroup/unified; V2 has the one unified tree.
const (
	V1 Mode = iota + 1
	Hybrid
	V2
)

// Config says which tree a Hierarchy works on. The zero value is this machine's.
type Config struct {
	Root string // mount point; default /sys/fs/cgroup
	Mode Mode   // default: Detect()
	Log  *slog.Logger
}

// Hierarchy is the machine's cgroup tree.
type Hierarchy struct {
	root string
	mode Mode
	log  *slog.Logger
}

// Stats is what a group and all groups below it use.
type Stats struct {
	CPUUsageNanos uint64
	MemoryUsage   uint64 // bytes charged, page cache included
	// MemoryWorkingSet is usage less inactive file pages, in bytes: what cAdvisor and so the kubelet report.
	MemoryWorkingSet uint64
	MemoryRSS        uint64 // anonymous bytes
	PageFaults       uint64
	MajorPageFaults  uint64
	Pids             uint64
}

// Detect tells the mode of this machine.
func Detect() Mode { return V1 }

// New returns the machine's tree.
func New(c Config) *Hierarchy { return &Hierarchy{root: c.Root, mode: c.Mode, log: c.Log} }

// Mode tells the layout.
func (h *Hierarchy) Mode() Mode { return h.mode }

// Create makes the group at path with its parents and applies the limits (nil: none). Idempotent.
func (h *Hierarchy) Create(path string, r *runtimeapi.LinuxContainerResources) error { return nil }

// Update applies what r sets (zero: leave as it is; -1: no limit) to the group at path.
func (h *Hierarchy) Update(path string, r *runtimeapi.LinuxContainerResources) error { return nil }

// Procs lists the processes in the group at path and below it. A group that is not there has none.
func (h *Hierarchy) Procs(path string) ([]int, error) { return nil, nil }

// Kill sends SIGKILL to every process in the group at path and below it, and does not wait for their end.
func (h *Hierarchy) Kill(path string) error { return nil }

// Remove kills what runs in the group at path, waits for its end and removes the group and all below it.
// A group that is not there is success.
func (h *Hierarchy) Remove(ctx context.Context, path string) error { return nil }

// Stats measures the group at path; errors.Is(err, fs.ErrNotExist) when it is gone.
func (h *Hierarchy) Stats(path string) (Stats, error) { return Stats{}, nil }

// OOMKilled tells whether the kernel has killed a process of the group at path, or below it, for want of memory.
// false when the group is gone.
func (h *Hierarchy) OOMKilled(path string) (bool, error) { return false, nil }
