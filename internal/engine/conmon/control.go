package conmon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Resize sets the size of the container's terminal, in characters.
func Resize(bundle string, width, height uint16) error {
	return control(bundle, fmt.Sprintf("1 %d %d\n", min(height, 1000), min(width, 1000)))
}

// ReopenLog makes the monitor close its log file and open the path anew, and returns when it has. It fails
// when the container ends before, which closes ended.
func ReopenLog(ctx context.Context, bundle, path string, ended <-chan struct{}) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cannot watch the log: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return fmt.Errorf("cannot watch the log: %w", err)
	}
	if err := control(bundle, "2 0 0\n"); err != nil {
		return err
	}
	for {
		select {
		case event, ok := <-watcher.Events:
			if !ok || event.Name == path && event.Has(fsnotify.Create) { // made elsewhere and moved there
				return nil
			}
		case err := <-watcher.Errors:
			return fmt.Errorf("cannot watch the log: %w", err)
		case <-ended:
			return errors.New("the container has ended")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func control(bundle, message string) error {
	// Without a reader, which is a monitor that has ended, the open fails instead of waiting.
	f, err := os.OpenFile(filepath.Join(bundle, "ctl"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot reach the monitor: %w", err)
	}
	defer f.Close()
	_, err = f.WriteString(message)
	return err
}

// Streams of a packet on the attach socket; its first byte.
const (
	Stdout = 2
	Stderr = 3
	// MaxPacket is the longest packet that a monitor sends, and more than it reads.
	MaxPacket = 8192 + 1
)

// Attach connects to the container's standard streams. What is written goes to its standard input, in packets of less
// than MaxPacket; each packet that is read begins with the number of its stream.
func Attach(bundle string) (*net.UnixConn, error) {
	// By the open directory, because an address is at most 108 bytes long and a path may be longer.
	dir, err := os.Open(bundle)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := fmt.Sprintf("/proc/self/fd/%d/attach", dir.Fd())
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: name, Net: "unixpacket"})
}
