package image

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/mount"
)

// rootfsPrefix marks our root filesystems' names in the storage for its other users.
const rootfsPrefix = "peapod-"

// CreateRootfs makes a writable root filesystem for a container from img. It is idempotent. The ID must be unique in the whole
// storage. Writes to it are not meant to outlive a power cut: after one the kubelet makes new containers. That saves all
// syncs, here and in the container.
func (s *Store) CreateRootfs(containerID string, img *Image) error {
	if s.overlays == nil {
		return s.createRootfs(containerID, img, nil)
	}
	err := s.createOverlay(containerID, strings.TrimPrefix(img.ID, idPrefix))
	if errors.Is(err, storage.ErrImageUnknown) {
		err = &classified{ErrNotFound, err}
	}
	if err != nil {
		return fmt.Errorf("cannot create root filesystem of container %s: %w", containerID, err)
	}
	return nil
}

// createRootfs has the storage library make one, for images that are mounted, and for all where it alone can mount.

func (s *Store) createRootfs(id string, img *Image, mountOptions []string) error {
	imageID := strings.TrimPrefix(img.ID, idPrefix)
	options := &storage.ContainerOptions{Volatile: true, MountOpts: mountOptions}
	_, err := s.store.CreateContainer(id, []string{rootfsPrefix + id}, imageID, "", s.owner, options)
	if errors.Is(err, storage.ErrDuplicateID) || errors.Is(err, storage.ErrDuplicateName) {
		if whole, err := s.hasRootfs(id, imageID); whole || err != nil {
			return err
		}
		_, err = s.store.CreateContainer(id, []string{rootfsPrefix + id}, imageID, "", s.owner, options)
	}
	if errors.Is(err, storage.ErrImageUnknown) {
		err = &classified{ErrNotFound, err}
	}
	if err != nil {
		return fmt.Errorf("cannot create root filesystem of container %s: %w", id, err)
	}
	return nil
}

// hasRootfs tells whether a container's root filesystem is there and made from that image. One whose files a power cut took
// is removed.
func (s *Store) hasRootfs(id, imageID string) (bool, error) {
	c, err := s.rootfs(id)
	if err != nil {
		return false, fmt.Errorf("cannot create root filesystem of container %s: %w", id, err)
	}
	if c == nil {
		return false, fmt.Errorf("cannot create root filesystem of container %s: another program has a container of that ID", id)
	}
	if c.ImageID != imageID {
		return false, fmt.Errorf("cannot create root filesystem of container %s: it has one, of image %s", id, c.ImageID)
	}
	if _, err := s.store.Layer(c.LayerID); err == nil {
		return true, nil
	}
	return false, s.DeleteRootfs(id)
}

// rootfs is the storage's record of our root filesystem, nil if there is none.
func (s *Store) rootfs(id string) (*storage.Container, error) {
	c, err := s.store.Container(rootfsPrefix + id)
	if errors.Is(err, storage.ErrContainerUnknown) {
		return nil, nil
	}
	return c, err
}

// MountRootfs mounts a container's root filesystem and returns the path, on the host. It is idempotent.
func (s *Store) MountRootfs(containerID string) (path string, err error) {
	if folder := s.findOverlay(containerID); folder != "" && s.overlays != nil {
		if path, err = s.mountOverlay(folder); err != nil {
			return "", fmt.Errorf("cannot mount root filesystem of container %s: %w", containerID, err)
		}
		return path, nil
	}
	c, err := s.rootfs(containerID)
	if err == nil && c == nil {
		err = storage.ErrContainerUnknown
	}
	if err != nil {
		return "", fmt.Errorf("cannot mount root filesystem of container %s: %w", containerID, err)
	}
	if layer, err := s.store.Layer(c.LayerID); err == nil && layer.MountCount > 0 {
		if mounted, err := mount.Mounted(layer.MountPoint); err == nil && mounted {
			return layer.MountPoint, nil // the storage counts mounts; ours is one
		}
	}
	if path, err = s.store.Mount(c.ID, ""); err != nil {
		return "", fmt.Errorf("cannot mount root filesystem of container %s: %w", containerID, err)
	}
	return path, nil
}

// UnmountRootfs unmounts a container's root filesystem, also one of which a crash took the record. It is idempotent.
func (s *Store) UnmountRootfs(containerID string) error {
	if folder := s.findOverlay(containerID); folder != "" {
		if err := unmountAll(filepath.Join(folder, "merged")); err != nil {
			return fmt.Errorf("cannot unmount root filesystem of container %s: %w", containerID, err)
		}
		return nil
	}
	c, err := s.rootfs(containerID)
	if err == nil && c != nil {
		var counted bool
		if counted, err = s.detach(c); err == nil && counted {
			_, err = s.store.Unmount(c.ID, true)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot unmount root filesystem of container %s: %w", containerID, err)
	}
	return nil
}

// detach unmounts a root filesystem, and tells whether the storage has yet to be told. A crash between mounting and counting
// leaves a mount that the storage does not know of and that would keep it from deleting the folder.
func (s *Store) detach(c *storage.Container) (counted bool, err error) {
	layer, err := s.store.Layer(c.LayerID)
	if errors.Is(err, storage.ErrLayerUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mountpoint := layer.MountPoint
	if mountpoint == "" {
		driver, err := s.store.GraphDriver()
		if err != nil {
			return false, err
		}
		about, err := driver.Metadata(c.LayerID)
		if err != nil {
			return false, err
		}
		if mountpoint = about["MergedDir"]; mountpoint == "" {
			return false, nil // a driver that does not mount
		}
	}
	return layer.MountCount > 0, unmountAll(mountpoint)
}

// DeleteRootfs unmounts and deletes a container's root filesystem. It is idempotent.
func (s *Store) DeleteRootfs(containerID string) error {
	if folder := s.findOverlay(containerID); folder != "" && s.overlays != nil {
		if err := s.deleteOverlay(folder); err != nil {
			return fmt.Errorf("cannot delete root filesystem of container %s: %w", containerID, err)
		}
		return nil
	}
	c, err := s.rootfs(containerID)
	if err == nil && c != nil {
		if _, err = s.detach(c); err == nil {
			err = s.store.DeleteContainer(c.ID)
		}
		if errors.Is(err, storage.ErrNotAContainer) {
			err = nil // deleted meanwhile
		}
	}
	if err != nil {
		return fmt.Errorf("cannot delete root filesystem of container %s: %w", containerID, err)
	}
	return nil
}

// ListRootfs returns the IDs of the root filesystems of this owner, mounted images among them.
func (s *Store) ListRootfs() ([]string, error) {
	containers, err := s.store.Containers()
	if err != nil {
		return nil, fmt.Errorf("cannot list root filesystems: %w", err)
	}
	ids, err := s.listOverlays()
	if err != nil {
		return nil, fmt.Errorf("cannot list root filesystems: %w", err)
	}
	for _, c := range containers {
		for _, name := range c.Names {
			if id, ok := strings.CutPrefix(name, rootfsPrefix); ok && c.Metadata == s.owner && !isPin(name) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// MountImage mounts an image read-only under an ID that the caller chooses, unique in the whole storage, and returns the path.
// The image cannot be removed until UnmountImage. It is idempotent.
func (s *Store) MountImage(id string, img *Image) (path string, err error) {
	if err := s.createRootfs(id, img, []string{"ro"}); err != nil {
		return "", err
	}
	return s.MountRootfs(id)
}

// UnmountImage undoes MountImage. It is idempotent.
func (s *Store) UnmountImage(id string) error { return s.DeleteRootfs(id) }
