package daemon

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseBoot gives back the memory that only coming up has needed: garbage, and the pages of the program
// itself that were touched once (initialisation of packages, OpenAPI definitions). Such pages are clean and
// in the page cache; those still in use come back by a minor fault.
func releaseBoot() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return fmt.Errorf("cannot read a line of /proc/self/maps: %w", err)
		}
		// Never a writable mapping: its private pages are the only copy of what was written.
		if !strings.HasSuffix(lines.Text(), exe) || strings.Contains(mode, "w") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("cannot release pages of the program: %w", errno)
		}
	}
	return lines.Err()
}
