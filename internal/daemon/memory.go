package daemon

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quiet is how long the garbage collector must have had nothing to do for the daemon to count as at rest.
	quiet = 3 * time.Second
	// swelling is how much larger than after the last release, in bytes, the daemon must be for another one.
	swelling = 16 << 20
)

// keepSmall gives memory back at once, and each time that the daemon comes to rest after work that made it swell,
// until ctx ends. Go's runtime by itself keeps as much free heap as there is live heap.
func keepSmall(ctx context.Context, log *slog.Logger) {
	collected := make(chan struct{}, 1)
	notifyCollections(ctx, collected)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var left int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			timer.Reset(quiet)
			continue
		case <-timer.C:
		}
		if resident() < left+swelling {
			continue
		}
		if err := release(); err != nil {
			log.Warn("cannot give back memory that is not needed", "error", err)
			return
		}
		left = resident()
		select {
		case <-collected: // our own
		default:
		}
	}
}

// notifyCollections sends, without blocking, after each garbage collection until ctx ends.
func notifyCollections(ctx context.Context, collected chan<- struct{}) {
	sentinel := new([16]byte) // not tiny: it is an allocation of its own
	runtime.SetFinalizer(sentinel, func(*[16]byte) {
		if ctx.Err() != nil {
			return
		}
		select {
		case collected <- struct{}{}:
		default:
		}
		notifyCollections(ctx, collected)
	})
}

// resident is the size of this process in memory, in bytes; 0 when it cannot be told.
func resident() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// release gives back garbage, and the pages of the program itself, of which the start touches many once (initialisation
// of packages, OpenAPI definitions). Such pages are clean and in the page cache; those in use come back by a minor fault.
func release() error {
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
