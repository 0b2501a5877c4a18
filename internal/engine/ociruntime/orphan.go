package ociruntime

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// EndOrphans kills the commands that an earlier process of the engine had running in the container by Exec with that
// Dir: nobody reads what they print or hears how they end, and who asked for one may ask again.
func EndOrphans(dir, id string) {
	files, _ := filepath.Glob(filepath.Join(dir, "exec-*.pid"))
	for _, file := range files {
		data, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(string(bytes.TrimSpace(data))); err == nil && pid > 1 {
			// The number may be another process' by now: only what is in the container's control group is the command.
			groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if group, gerr := unix.Getpgid(pid); err == nil && gerr == nil && group > 1 && bytes.Contains(groups, []byte(id)) {
				_ = unix.Kill(-group, unix.SIGKILL) // fails only if it has ended meanwhile
			}
		}
		_ = os.Remove(file)
	}
}
