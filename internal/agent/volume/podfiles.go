package volume

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"
)

// WriteHosts writes the Pod's hosts file and returns its path. It writes in place: containers that run have the file
// itself mounted. The kubelet does so before each start of a container, which restores what a container changed.
func (v *Volumes) WriteHosts(pod types.UID, content []byte) (string, error) {
	path := filepath.Join(v.podDir(pod), "etc-hosts")
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", fmt.Errorf("cannot write hosts file: %w", err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return "", fmt.Errorf("cannot write hosts file: %w", err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
		return "", fmt.Errorf("cannot write hosts file: %w", err)
	}
	return path, nil
}

// TerminationLog makes the file that the given attempt of a container may write its termination message to, and
// returns its path. Whatever user the container has may write it.
func (v *Volumes) TerminationLog(pod types.UID, container string, attempt uint32) (string, error) {
	path := v.terminationLog(pod, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", fmt.Errorf("cannot make termination log: %w", err)
	}
	if err := makeFile(path, 0o666); err != nil {
		return "", fmt.Errorf("cannot make termination log: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // whatever the umask
		return "", fmt.Errorf("cannot make termination log: %w", err)
	}
	return path, nil
}

func (v *Volumes) terminationLog(pod types.UID, container string, attempt uint32) string {
	return filepath.Join(v.podDir(pod), "containers", container, fmt.Sprintf("%08x", attempt))
}
