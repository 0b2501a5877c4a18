package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memory is what a set of processes uses, in MB (10^6 bytes). RSS counts pages that several processes share once for each,
// PSS counts them once, Anonymous is what the processes have allocated.
type memory struct{ RSS, PSS, Anonymous float64 }

// measureMemory adds up the daemon, everything below it, and every process of its own that has left it, such as the
// monitors of containers: those name the instance's folder in their arguments. The Pods' own processes do not count.
func measureMemory(daemon int, dir string) (memory, error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return memory{}, fmt.Errorf("cannot list processes: %w", err)
	}
	var sum memory
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || pid == os.Getpid() {
			continue
		}
		arguments, err := os.ReadFile(process + "/cmdline")
		if err != nil {
			continue // it has ended
		}
		if pid != daemon && parent(process) != daemon && !bytes.Contains(arguments, []byte(dir)) {
			continue
		}
		if err := sum.add(process + "/smaps_rollup"); err != nil && pid == daemon {
			return memory{}, err
		}
	}
	return sum, nil
}

func parent(process string) int {
	stat, err := os.ReadFile(process + "/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the name before may hold anything
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

func (m *memory) add(rollup string) error {
	content, err := os.ReadFile(rollup)
	if err != nil {
		return fmt.Errorf("cannot read memory use: %w", err)
	}
	for line := range strings.Lines(string(content)) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		kb, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
		if err != nil {
			continue
		}
		mb := kb * 1024 / 1e6
		switch name {
		case "Rss":
			m.RSS += mb
		case "Pss":
			m.PSS += mb
		case "Anonymous":
			m.Anonymous += mb
		}
	}
	return nil
}
