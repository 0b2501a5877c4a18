// Package image keeps container images and the root filesystems made from them, in the machine's own container storage
// (containers/storage), which podman, buildah and every other peapod on the machine share.
//
// Invariants:
//   - Nothing is kept in memory that the storage holds: another program may change it at any moment.
//   - Only root filesystems that this package made are ever changed; their names in the storage begin with "peapod-".
//   - An image has a name only once all of it is stored: a failed or cancelled load or pull leaves no half image.
//   - Working files live in one locked folder an operation below the storage; the locks of the dead are seen by the next
//     Open, which removes what they left.
//
// Layers are unpacked by this same executable, run again by the storage library: main must call reexec.Init first.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/storage"
)

// Config says which storage to open. The zero value is the machine's own.
type Config struct {
	Root    string // where images are kept; empty: as in storage.conf, by default /var/lib/containers/storage
	RunRoot string // state that a reboot ends; empty: as in storage.conf, by default /run/containers/storage
	Owner   string // whose the root filesystems are, for ListRootfs; several peapods may share a storage
	Log     *slog.Logger
}

// Store is an open image storage. All methods may be called concurrently.
type Store struct {
	store    storage.Store
	overlays *overlays // nil: the storage library mounts all root filesystems
	owner    string
	log      *slog.Logger
	pulls    flights
	loading  sync.Mutex // one Load at a time, so that a failed one knows which layers are its own; and no Prune meanwhile
}

// Image is what the storage knows of one image.
type Image struct {
	ID          string   // "sha256:" and the digest of the config in hex
	RepoTags    []string // full names with a tag, sorted; empty for a dangling image
	RepoDigests []string // full names with a digest, sorted
	Size        int64    // bytes, unpacked
	Config      imgspecv1.ImageConfig
	Pinned      bool // never to be removed for want of space
}

// Open opens the storage, and clears away what a crashed user of it left behind. Close it after use.
func Open(config Config) (*Store, error) {
	options, err := storage.DefaultStoreOptions()
	if err != nil {
		return nil, fmt.Errorf("cannot read storage.conf: %w", err)
	}
	if config.Root != "" {
		options.GraphRoot = config.Root
	}
	if config.RunRoot != "" {
		options.RunRoot = config.RunRoot
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	store, err := storage.GetStore(options)
	if err != nil {
		return nil, fmt.Errorf("cannot open container storage %s: %w", options.GraphRoot, err)
	}
	if driver := store.GraphDriverName(); driver != "overlay" {
		config.Log.Warn("container storage does not use overlay: root filesystems will be slow to make and large", "driver", driver)
	}
	s := &Store{store: store, overlays: newOverlays(store), owner: config.Owner, log: config.Log}
	if err := s.sweepScratch(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends pulls that still run and waits for them. Mounted root filesystems stay mounted: containers use them.
func (s *Store) Close() error {
	s.pulls.close()
	var err error
	if s.overlays != nil {
		err = s.closeOverlays()
	}
	_, shutdown := s.store.Shutdown(false)
	s.store.Free()
	if !errors.Is(shutdown, storage.ErrLayerUsedByContainer) { // that is, mounted
		err = errors.Join(err, shutdown)
	}
	if err != nil {
		return fmt.Errorf("cannot close container storage: %w", err)
	}
	return nil
}

// Get finds an image by ID (with or without "sha256:"), by the beginning of one, by name or by name and digest. A name is
// completed as registries.conf says, by default busybox to docker.io/library/busybox:latest. The error is ErrNotFound or
// ErrInvalidReference.
func (s *Store) Get(ref string) (*Image, error) {
	img, _, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	return s.describe(img)
}

// find also returns the name under which the image was found, nil if that was an ID.
func (s *Store) find(ref string) (*storage.Image, reference.Named, error) {
	id, only := asID(ref)
	if only {
		img, err := s.lookup(id)
		if img == nil && err == nil {
			err = fmt.Errorf("%w: %s", ErrNotFound, ref)
		}
		return img, nil, err
	}
	candidates, err := localCandidates(nil, ref)
	if err != nil {
		return nil, nil, err
	}
	for _, named := range candidates {
		if img, err := s.lookupNamed(named); img != nil || err != nil {
			return img, named, err
		}
	}
	if id != "" {
		if img, err := s.lookup(id); img != nil || err != nil {
			return img, nil, err
		}
	}
	return nil, nil, fmt.Errorf("%w: %s", ErrNotFound, ref)
}

// lookup is the image with that name, ID or unique beginning of an ID; nil if there is none.
func (s *Store) lookup(key string) (*storage.Image, error) {
	img, err := s.store.Image(key)
	if errors.Is(err, storage.ErrImageUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", key, err)
	}
	return img, nil
}

// lookupNamed is the image of that full name. A digest is looked up too among images of the same repository that were
// pulled by tag.
func (s *Store) lookupNamed(named reference.Named) (*storage.Image, error) {
	img, err := s.lookup(named.String())
	digested, ok := named.(reference.Digested)
	if img != nil || err != nil || !ok {
		return img, err
	}
	images, err := s.store.ImagesByDigest(digested.Digest())
	if err != nil && !errors.Is(err, storage.ErrImageUnknown) {
		return nil, fmt.Errorf("cannot look up image %s: %w", named, err)
	}
	for _, img := range images {
		for _, name := range img.Names {
			if other, err := reference.ParseNormalizedNamed(name); err == nil && other.Name() == named.Name() {
				return img, nil
			}
		}
	}
	return nil, nil
}

// List returns all images, in no order. One that is removed meanwhile, or that is damaged, is left out.
func (s *Store) List() ([]*Image, error) {
	stored, err := s.store.Images()
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	images := make([]*Image, 0, len(stored))
	for i := range stored {
		img, err := s.describe(&stored[i])
		if err != nil {
			if !errors.Is(err, ErrNotFound) {
				s.log.Warn("skipping a damaged image", "image", stored[i].ID, "error", err)
			}
			continue
		}
		images = append(images, img)
	}
	return images, nil
}

// describe reads what Image tells from the storage.
func (s *Store) describe(img *storage.Image) (*Image, error) {
	described := &Image{ID: idPrefix + img.ID}
	described.RepoTags, described.RepoDigests = repoTagsAndDigests(img.Names, img.Digests)
	size, err := s.store.ImageSize(img.ID)
	if err == nil {
		described.Size = size
		described.Config, err = s.config(img.ID)
	}
	if errors.Is(err, storage.ErrImageUnknown) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, img.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", img.ID, err)
	}
	return described, nil
}

// config reads the image's configuration, the part that containers are made from.
func (s *Store) config(id string) (imgspecv1.ImageConfig, error) {
	var config imgspecv1.Image
	blob, err := s.store.ImageBigData(id, storage.ImageDigestBigDataKey)
	if err != nil {
		return config.Config, err
	}
	m, err := manifest.FromBlob(blob, manifest.GuessMIMEType(blob))
	if err != nil {
		return config.Config, err
	}
	if blob, err = s.store.ImageBigData(id, m.ConfigInfo().Digest.String()); err != nil {
		return config.Config, err
	}
	err = json.Unmarshal(blob, &config)
	return config.Config, err
}

// sorted is list in order, each entry once.
func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// canceled tells an error that only says that ctx ended from one that came before.
func canceled(ctx context.Context, err error) error {
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	return err
}
