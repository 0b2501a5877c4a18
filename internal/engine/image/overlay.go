package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/mount"
	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine/osthread"
)

// A container of the storage library costs a dozen rewrites of lists under locks that all its users share. So a root
// filesystem is an overlay mount of our own on the image's layers, and only the image is told to the library: one
// container in it, the pin, keeps the layers from being removed for as long as root filesystems are made from them.
//
//	STORAGE/peapod/OWNER/IMAGE/CONTAINER/{diff,work,merged}
//
// Where the folder of an image is empty nobody needs its pin, which goes a while later, when the storage is closed, or when
// somebody wants to remove the image.

const (
	pinPrefix = rootfsPrefix + "image-"
	// pinLinger is how long a pin stays when nobody needs it: the next container is often of the same image.
	pinLinger = time.Minute
)

// overlays knows how root filesystems are mounted.
type overlays struct {
	home    string // the storage library's folder of layers
	flags   int
	options string

	mu    sync.Mutex
	bases map[string]base        // by the pin's layer
	idle  map[string]*time.Timer // by image
}

// base is what root filesystems of one image are mounted on.
type base struct {
	lower    string // of the mount, relative to home
	mode     os.FileMode
	uid, gid int
}

// newOverlays returns nil where the storage is set up in a way that only its library can mount.
func newOverlays(store storage.Store) *overlays {
	o := &overlays{home: filepath.Join(store.GraphRoot(), "overlay"), bases: map[string]base{}, idle: map[string]*time.Timer{}}
	if store.GraphDriverName() != "overlay" || strings.ContainsAny(o.home, ":,\\") {
		return nil
	}
	mountOptions := []string{"volatile"}
	for _, option := range store.GraphOptions() {
		key, value, _ := strings.Cut(option, "=")
		if key != "overlay.mountopt" && key != ".mountopt" && key != "mountopt" {
			return nil
		}
		if value != "" {
			mountOptions = append(mountOptions, value)
		}
	}
	o.flags, o.options = mount.ParseOptions(strings.Join(mountOptions, ","))
	return o
}

func (s *Store) overlayRoot() string { return filepath.Join(s.store.GraphRoot(), "peapod") }

func (s *Store) overlayFolder(owner, imageID string) string {
	hash := sha256.Sum256([]byte(owner))
	return filepath.Join(s.overlayRoot(), hex.EncodeToString(hash[:8]), imageID)
}

func (s *Store) pinName(imageID string) string {
	return pinPrefix + filepath.Base(filepath.Dir(s.overlayFolder(s.owner, imageID))) + "-" + imageID
}

// lockPins keeps pins as they are; exclusively, for who removes one.
func (s *Store) lockPins(how int) (*os.File, error) {
	if err := os.MkdirAll(s.overlayRoot(), 0o711); err != nil {
		return nil, err
	}
	return lockFolder(s.overlayRoot(), how)
}

// createOverlay makes the folders of a root filesystem, and the image's pin if it is the first.
func (s *Store) createOverlay(id, imageID string) error {
	lock, err := s.lockPins(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer lock.Close()
	if other := s.findOverlay(id); other != "" && filepath.Base(filepath.Dir(other)) != imageID {
		return fmt.Errorf("it has one, of image %s", filepath.Base(filepath.Dir(other)))
	}
	folder := filepath.Join(s.overlayFolder(s.owner, imageID), id)
	diff := filepath.Join(folder, "diff")
	if _, err := os.Stat(filepath.Join(folder, "merged")); err == nil {
		return nil // made last
	}
	if err := os.MkdirAll(folder, 0o711); err != nil {
		return err
	}
	base, err := s.base(imageID)
	for _, sub := range []string{"diff", "work"} {
		if err == nil {
			if err = os.Mkdir(filepath.Join(folder, sub), 0o700); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
	}
	if err == nil && base.uid+base.gid > 0 {
		err = os.Lchown(diff, base.uid, base.gid)
	}
	if err == nil {
		err = os.Chmod(diff, base.mode) // as the image has it: it becomes the mode of /
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(folder, "merged"), 0o700)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(folder))
		s.removeFolders(imageID, s.owner)
	}
	return err
}

// removeFolders removes the image's folder, unless it has root filesystems, and tells whether it is gone.
func (s *Store) removeFolders(imageID, owner string) bool {
	folder := s.overlayFolder(owner, imageID)
	if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_ = os.Remove(filepath.Dir(folder)) // fails while another image of the owner has a folder
	return true
}

// base finds what root filesystems of the image are mounted on. It pins the image.
func (s *Store) base(imageID string) (base, error) {
	pin, err := s.store.Container(s.pinName(imageID))
	if errors.Is(err, storage.ErrContainerUnknown) {
		// Not volatile: podman 4 does not read the list of those, and would remove the layers under our containers.
		pin, err = s.store.CreateContainer("", []string{s.pinName(imageID)}, imageID, "", s.owner, nil)
		if errors.Is(err, storage.ErrDuplicateName) { // somebody else was first
			pin, err = s.store.Container(s.pinName(imageID))
		}
	}
	if err != nil {
		return base{}, err
	}
	s.overlays.mu.Lock()
	defer s.overlays.mu.Unlock()
	if b, known := s.overlays.bases[pin.LayerID]; known {
		return b, nil
	}
	b, err := s.overlays.describe(s.store, pin.LayerID)
	if err == nil {
		s.overlays.bases[pin.LayerID] = b
	}
	return b, err
}

// describe reads the layers below the pin's own. It names them by the library's short links, as the kernel takes no more
// than a page of options.
func (o *overlays) describe(store storage.Store, layerID string) (b base, err error) {
	driver, err := store.GraphDriver()
	if err != nil {
		return b, err
	}
	about, err := driver.Metadata(layerID)
	if err != nil {
		return b, err
	}
	lowers := strings.Split(about["LowerDir"], ":")
	info, err := os.Stat(lowers[0])
	if err != nil {
		return b, err
	}
	b.mode = info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		b.uid, b.gid = int(st.Uid), int(st.Gid)
	}
	for i, dir := range lowers {
		link, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "link"))
		if err != nil {
			continue
		}
		short := filepath.Join("l", string(link))
		if _, err := os.Stat(filepath.Join(o.home, short)); err == nil {
			lowers[i] = short
		}
	}
	b.lower = strings.Join(lowers, ":")
	return b, nil
}

// findOverlay is the folder of a root filesystem of ours, empty if there is none.
func (s *Store) findOverlay(id string) string {
	owned := filepath.Dir(s.overlayFolder(s.owner, "-"))
	images, _ := os.ReadDir(owned) // none: nothing was made yet
	for _, image := range images {
		folder := filepath.Join(owned, image.Name(), id)
		if _, err := os.Lstat(folder); err == nil {
			return folder
		}
	}
	return ""
}

// mountOverlay mounts the root filesystem in folder, if it is not mounted, and returns where.
func (s *Store) mountOverlay(folder string) (string, error) {
	merged := filepath.Join(folder, "merged")
	if mounted, err := mountedOn(merged); mounted || err != nil {
		return merged, err
	}
	base, err := s.base(filepath.Base(filepath.Dir(folder)))
	if err != nil {
		return "", err
	}
	// What the kernel leaves to tell that a volatile mount was not ended well; the container is started anew, or not at all.
	if err := os.RemoveAll(filepath.Join(folder, "work", "work", "incompat")); err != nil {
		return "", err
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", base.lower, filepath.Join(folder, "diff"), filepath.Join(folder, "work"))
	return merged, osthread.Do(func() error {
		// The thread has a working folder of its own, which ends with it.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Chdir(s.overlays.home); err != nil {
			return err
		}
		err := unix.Mount("overlay", merged, "overlay", uintptr(s.overlays.flags), options+","+s.overlays.options)
		if errors.Is(err, unix.EINVAL) { // before Linux 5.10 there is no volatile
			err = unix.Mount("overlay", merged, "overlay", uintptr(s.overlays.flags), options+strings.TrimPrefix(","+s.overlays.options, ",volatile"))
		}
		return err
	})
}

// mountedOn tells whether something is mounted on the folder.
func mountedOn(folder string) (bool, error) {
	var here, above unix.Stat_t
	if err := errors.Join(unix.Lstat(folder, &here), unix.Lstat(filepath.Dir(folder), &above)); err != nil {
		return false, err
	}
	return here.Dev != above.Dev, nil
}

func unmountAll(folder string) error {
	for {
		err := unix.Unmount(folder, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a mount (any more)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// deleteOverlay removes the root filesystem in folder; its image is let go later.
func (s *Store) deleteOverlay(folder string) error {
	if err := unmountAll(filepath.Join(folder, "merged")); err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if !isEmpty(filepath.Dir(folder)) {
		return nil
	}
	imageID := filepath.Base(filepath.Dir(folder))
	s.overlays.mu.Lock()
	defer s.overlays.mu.Unlock()
	if timer := s.overlays.idle[imageID]; timer != nil {
		timer.Reset(pinLinger)
		return nil
	}
	s.overlays.idle[imageID] = time.AfterFunc(pinLinger, func() {
		if err := s.unpin(func(c *storage.Container) bool { return c.ImageID == imageID && c.Metadata == s.owner }, nil); err != nil {
			s.log.Warn("cannot let go of an image that no container uses", "image", imageID, "error", err)
		}
	})
	return nil
}

func isEmpty(folder string) bool {
	f, err := os.Open(folder)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// unpin removes those pins that no root filesystem needs, then does what must be done before they can come back.
func (s *Store) unpin(which func(*storage.Container) bool, then func() error) error {
	lock, err := s.lockPins(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	containers, err := s.store.Containers()
	if err != nil {
		return err
	}
	for i := range containers {
		c := &containers[i]
		if !slices.ContainsFunc(c.Names, isPin) || !which(c) {
			continue
		}
		if !s.removeFolders(c.ImageID, c.Metadata) {
			continue // in use
		}
		if err := s.store.DeleteContainer(c.ID); err != nil && !errors.Is(err, storage.ErrNotAContainer) {
			return err
		}
	}
	if then == nil {
		return nil
	}
	return then()
}

func isPin(name string) bool { return strings.HasPrefix(name, pinPrefix) }

// closeOverlays lets go of all images that no root filesystem of ours needs.
func (s *Store) closeOverlays() error {
	s.overlays.mu.Lock()
	for _, timer := range s.overlays.idle {
		timer.Stop()
	}
	s.overlays.mu.Unlock()
	if _, err := os.Stat(s.overlayRoot()); err != nil {
		return nil // nothing was ever made
	}
	err := s.unpin(func(c *storage.Container) bool { return c.Metadata == s.owner }, nil)
	_ = os.Remove(s.overlayRoot()) // fails while others have theirs
	return err
}

// listOverlays returns the IDs of the root filesystems that are here.
func (s *Store) listOverlays() ([]string, error) {
	folders, err := filepath.Glob(filepath.Join(s.overlayFolder(s.owner, "*"), "*"))
	for i := range folders {
		folders[i] = filepath.Base(folders[i])
	}
	return folders, err
}
