package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What a refused start has mounted goes with it; what is in use stays.
func TestRunFolderIsTakenBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := filepath.Join(t.TempDir(), "run")
	undo, err := openRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeRunDir(dir) })
	again, err := openRunDir(dir) // a second daemon's, on a folder that is open already
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Fatalf("the run folder of the first is gone: %v, type %x", err, fs.Type)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the run folder is left: %v", err)
	}
}
