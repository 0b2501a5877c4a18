package cgroup

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

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

// Stats measures the group at path; errors.Is(err, fs.ErrNotExist) when it is gone. A controller that the machine lacks
// leaves its figures zero.
func (h *Hierarchy) Stats(path string) (Stats, error) {
	if h.gone(path) {
		return Stats{}, fmt.Errorf("cannot measure cgroup %s: %w", path, fs.ErrNotExist)
	}
	s := Stats{Pids: h.number("pids", path, "pids.current")}
	var inactive uint64
	if h.mode == V2 {
		s.CPUUsageNanos = h.table("cpu", path, "cpu.stat")["usage_usec"] * 1000
		s.MemoryUsage = h.number("memory", path, "memory.current")
		m := h.table("memory", path, "memory.stat")
		inactive, s.MemoryRSS = m["inactive_file"], m["anon"]
		s.PageFaults, s.MajorPageFaults = m["pgfault"], m["pgmajfault"]
	} else {
		s.CPUUsageNanos = h.number("cpuacct", path, "cpuacct.usage")
		s.MemoryUsage = h.number("memory", path, "memory.usage_in_bytes")
		m := h.table("memory", path, "memory.stat")
		inactive, s.MemoryRSS = m["total_inactive_file"], m["total_rss"]
		s.PageFaults, s.MajorPageFaults = m["total_pgfault"], m["total_pgmajfault"]
	}
	s.MemoryWorkingSet = s.MemoryUsage - min(inactive, s.MemoryUsage)
	return s, nil
}

// OOMKilled tells whether the kernel has killed a process of the group at path, or below it, for want of memory.
// false when the group is gone.
func (h *Hierarchy) OOMKilled(path string) (bool, error) {
	if h.mode == V2 { // memory.events counts the whole subtree
		return h.table("memory", path, "memory.events")["oom_kill"] > 0, nil
	}
	dir := h.dir("memory", path)
	if dir == "" {
		return false, nil
	}
	groups, err := subtree(dir)
	if err != nil {
		return false, fmt.Errorf("cannot tell whether cgroup %s ran out of memory: %w", path, err)
	}
	for _, group := range groups {
		if parseTable(readOrEmpty(group, "memory.oom_control"))["oom_kill"] > 0 {
			return true, nil
		}
	}
	return false, nil
}

// number reads a file that holds one number; zero when there is none.
func (h *Hierarchy) number(controller, path, file string) uint64 {
	if dir := h.dir(controller, path); dir != "" {
		n, _ := strconv.ParseUint(readOrEmpty(dir, file), 10, 64)
		return n
	}
	return 0
}

// table reads a file of lines "key number"; empty when there is none.
func (h *Hierarchy) table(controller, path, file string) map[string]uint64 {
	if dir := h.dir(controller, path); dir != "" {
		return parseTable(readOrEmpty(dir, file))
	}
	return nil
}

func readOrEmpty(dir, file string) string {
	text, err := read(dir, file)
	if err != nil {
		return ""
	}
	return text
}

func parseTable(text string) map[string]uint64 {
	t := map[string]uint64{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				t[f[0]] = n
			}
		}
	}
	return t
}
