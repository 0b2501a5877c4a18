package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/record"
)

const shmBytes = 64 << 20 // what every other engine gives, and Kubernetes' documentation states

// makeFiles writes what containers see of the sandbox: resolv.conf, hostname, /dev/shm.
func makeFiles(dir, hostname string, config *runtimeapi.PodSandboxConfig, ownIPC bool) error {
	resolv, err := resolvConf(config.GetDnsConfig())
	if err != nil {
		return err
	}
	if err := record.WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644); err != nil {
		return err
	}
	if err := record.WriteFile(filepath.Join(dir, "hostname"), []byte(hostname+"\n"), 0o644); err != nil {
		return err
	}
	if !ownIPC {
		return nil
	}
	shm := filepath.Join(dir, shmDir)
	if err := os.MkdirAll(shm, 0o700); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=1777,size=%d", shmBytes)
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("cannot mount shm: %w", err)
	}
	return nil
}

// resolvConf is the configuration in the form of resolv.conf(5); without one, a copy of the host's.
func resolvConf(c *runtimeapi.DNSConfig) ([]byte, error) {
	if len(c.GetServers())+len(c.GetSearches())+len(c.GetOptions()) == 0 {
		data, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return data, err
	}
	var b strings.Builder
	if len(c.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.GetSearches(), " "))
	}
	for _, s := range c.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(c.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.GetOptions(), " "))
	}
	return []byte(b.String()), nil
}
