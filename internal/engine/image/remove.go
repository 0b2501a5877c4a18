package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// Remove takes away a name, and the image with its last name; given an ID, the image with all its names; given a digest, all
// names of that repository. An image that a container uses, of whatever owner, stays: ErrInUse. The error for an image that is
// not there is ErrNotFound, which CRI's RemoveImage counts as success.
func (s *Store) Remove(ref string) error {
	img, named, err := s.find(ref)
	if err != nil {
		return fmt.Errorf("cannot remove image: %w", err)
	}
	if names := namesFor(img.Names, named); named != nil && len(names) < len(img.Names) {
		err = s.store.RemoveNames(img.ID, names)
	} else {
		err = s.delete(img.ID)
	}
	if err != nil {
		return fmt.Errorf("cannot remove image %s: %w", ref, err)
	}
	return nil
}

// namesFor are those of an image's names that named stands for.
func namesFor(names []string, named reference.Named) []string {
	if _, ok := named.(reference.Digested); !ok {
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return named == nil || name != named.String() })
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		other, err := reference.ParseNormalizedNamed(name)
		return err != nil || other.Name() != named.Name()
	})
}

// Prune removes the images without a name that no container uses; with all, those with names too. It returns the IDs of what
// was removed, also with an error.
func (s *Store) Prune(ctx context.Context, all bool) (removed []string, err error) {
	s.loading.Lock() // images get their names at the end of a load
	defer s.loading.Unlock()
	images, err := s.store.Images()
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	var failed []error
	for _, img := range images {
		if ctx.Err() != nil {
			return removed, errors.Join(append(failed, context.Cause(ctx))...)
		}
		if len(img.Names) > 0 && !all {
			continue
		}
		switch err := s.delete(img.ID); {
		case err == nil:
			removed = append(removed, idPrefix+img.ID)
		case !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotFound):
			failed = append(failed, fmt.Errorf("cannot remove image %s: %w", img.ID, err))
		}
	}
	return removed, errors.Join(failed...)
}

// delete removes an image and the layers that no other image needs.
func (s *Store) delete(id string) error {
	err := s.unpin(func(c *storage.Container) bool { return c.ImageID == id }, func() error {
		_, err := s.store.DeleteImage(id, true)
		return err
	})
	switch {
	case errors.Is(err, storage.ErrImageUsedByContainer):
		return &classified{ErrInUse, err}
	case errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrNotAnImage):
		return &classified{ErrNotFound, err}
	}
	return err
}

// FsInfo is the use of the filesystem that images and root filesystems are on.
type FsInfo struct {
	Mountpoint                     string // the storage's folder
	ImageBytes                     uint64 // of all layers, those of root filesystems aside
	CapacityBytes, UsedBytes       uint64 // of the whole filesystem
	AvailableBytes                 uint64 // to us
	Inodes, InodesUsed, InodesFree uint64
}

// FsInfo reads the filesystem's counters; it does not walk files.
func (s *Store) FsInfo() (FsInfo, error) {
	info := FsInfo{Mountpoint: s.store.GraphRoot()}
	var fs unix.Statfs_t
	if err := unix.Statfs(info.Mountpoint, &fs); err != nil {
		return info, fmt.Errorf("cannot stat container storage %s: %w", info.Mountpoint, err)
	}
	block := uint64(fs.Bsize)
	info.CapacityBytes, info.AvailableBytes = fs.Blocks*block, fs.Bavail*block
	info.UsedBytes = (fs.Blocks - fs.Bfree) * block
	info.Inodes, info.InodesFree, info.InodesUsed = fs.Files, fs.Ffree, fs.Files-fs.Ffree
	layers, err := s.store.Layers()
	if err != nil {
		return info, fmt.Errorf("cannot list layers: %w", err)
	}
	for i := range layers {
		info.ImageBytes += uint64(max(layers[i].UncompressedSize, 0))
	}
	return info, nil
}
