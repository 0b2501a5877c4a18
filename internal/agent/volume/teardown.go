package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"k8s.io/apimachinery/pkg/types"
)

// Teardown lets go of the Pod's objects and removes everything of it below Root. Nothing but the UID is needed, so it
// serves for Pods that nobody remembers. Files go only once the kernel's list shows no mount among them: a subPath of a
// hostPath is the host's own file. It is idempotent.
func (v *Volumes) Teardown(ctx context.Context, pod types.UID) error {
	v.objects.Unregister(pod)
	if name := string(pod); name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return fmt.Errorf("cannot tear down volumes: %q is no Pod UID", pod)
	}
	dir := v.podDir(pod)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountAll(ctx, dir); err != nil {
		return fmt.Errorf("cannot tear down volumes: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove volumes: %w", err)
	}
	return nil
}

// unmountAll succeeds only if no mount is left at or below dir.
func unmountAll(ctx context.Context, dir string) error {
	const rounds = 3 // one to do it, one to see it done, and one more for a mount that hid another
	for range rounds {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, mount := range slices.Backward(mounts) { // children are listed after their parents
			if err := detach(mount.Mountpoint); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("mounts are left below %s", dir)
}

// Pods returns the UIDs of all Pods that have anything below Root, in no order.
func (v *Volumes) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(v.config.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot list Pods' folders: %w", err)
	}
	var pods []types.UID
	for _, entry := range entries {
		if entry.IsDir() {
			pods = append(pods, types.UID(entry.Name()))
		}
	}
	return pods, nil
}
