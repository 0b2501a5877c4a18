package datastore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path that fits into sockaddr_un with its terminating zero (unix(7)).
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// socketPath returns where the embedded etcd listens, in a folder that only this user can enter. When runDir is too long
// for a unix socket, the folder is in the temporary one, with a name that is derived from the data folder.
func socketPath(runDir, dataDir string) (string, error) {
	runDir, err := filepath.Abs(runDir)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(runDir, "etcd")
	if len(dir)+len("/sock") > maxSocketPath {
		sum := sha256.Sum256([]byte(dataDir))
		dir = filepath.Join(os.TempDir(), "peapod-"+hex.EncodeToString(sum[:8]))
	}
	path := filepath.Join(dir, "sock")
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("path of unix socket %s is longer than %d bytes: choose a shorter run folder", path, maxSocketPath)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	// A folder that was there may be anybody's, in /tmp above all.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return "", fmt.Errorf("cannot stat %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%s is not a folder of uid %d", dir, os.Geteuid())
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return "", err
	}
	return path, nil
}
