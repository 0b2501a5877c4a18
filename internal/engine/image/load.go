package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/image"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
)

// Load stores every image of a docker-archive or oci-archive, which may be compressed (gzip, zstd, xz, bzip2); path "-" is
// standard input. It returns the names that the images now have, in the archive's order, or the ID of one without a name;
// a name that another image had moves. It is all or nothing: on any error, ErrBadArchive among them, the storage is as it
// was. Once Load returns, the images are durable. progress, which may be nil, gets a line for people at each step.
func (s *Store) Load(ctx context.Context, path string, progress func(string)) (refs []string, err error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	if progress == nil {
		progress = func(string) {}
	}
	scratch, err := s.newScratch()
	if err != nil {
		return nil, err
	}
	defer scratch.remove()
	source, err := openArchive(ctx, path, scratch)
	if err != nil {
		return nil, fmt.Errorf("cannot load images from %s: %w", path, canceled(ctx, err))
	}
	defer func() { err = errors.Join(err, source.close()) }()

	load := loading{s: s, system: scratch.system()}
	if err := load.remember(); err != nil {
		return nil, fmt.Errorf("cannot load images from %s: %w", path, err)
	}
	for i, img := range source.images {
		progress(fmt.Sprintf("loading %s (%d of %d)", img, i+1, len(source.images)))
		if err := load.copy(ctx, img); err != nil {
			load.rollBack()
			return nil, fmt.Errorf("cannot load image %s from %s: %w", img, path, canceled(ctx, err))
		}
	}
	refs, err = load.name(source.images)
	if err == nil {
		err = s.syncStorage()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load images from %s: %w", path, err)
	}
	return refs, nil
}

// loading is what one Load has added so far, so that it can be taken back.
type loading struct {
	s       *Store
	system  *types.SystemContext
	layers  map[string]bool // that were there before
	ids     []string        // of the archive's images, by place
	created []string        // images that were not there before
	diffIDs []digest.Digest // of all layers of images begun
}

func (l *loading) remember() error {
	layers, err := l.s.store.Layers()
	l.layers = make(map[string]bool, len(layers))
	for i := range layers {
		l.layers[layers[i].ID] = true
	}
	return err
}

// copy stores one image, without a name.
func (l *loading) copy(ctx context.Context, img archivedImage) error {
	source, err := img.ref.NewImageSource(ctx, l.system)
	if err != nil {
		return damaged(err)
	}
	parsed, err := image.FromSource(ctx, l.system, source) // closes source, also on failure
	if err != nil {
		return damaged(err)
	}
	defer parsed.Close()
	config, err := parsed.OCIConfig(ctx)
	if err != nil {
		return damaged(err)
	}
	id := parsed.ConfigInfo().Digest.Encoded()
	l.ids = append(l.ids, id)
	l.diffIDs = append(l.diffIDs, config.RootFS.DiffIDs...)
	had, err := l.s.lookup(id)
	if err != nil {
		return err
	}
	if had != nil {
		return nil
	}
	l.created = append(l.created, id)
	target, err := imagestorage.Transport.NewStoreReference(l.s.store, nil, id)
	if err != nil {
		return damaged(err)
	}
	if err := copyImage(ctx, target, img.ref, l.system, nil); err != nil {
		return damaged(err)
	}
	return nil
}

// name gives the images their names, once all of them are stored.
func (l *loading) name(images []archivedImage) (refs []string, err error) {
	for i, img := range images {
		if len(img.names) == 0 {
			refs = append(refs, idPrefix+l.ids[i])
			continue
		}
		if err := l.s.store.AddNames(l.ids[i], img.names); err != nil {
			return nil, err
		}
		refs = append(refs, img.names...)
	}
	return refs, nil
}

// rollBack removes the images and layers that were added. It is best effort: an image that another program has begun to use
// meanwhile stays, and so do its layers.
func (l *loading) rollBack() {
	for _, id := range l.created {
		if img, err := l.s.lookup(id); err != nil || img == nil || len(img.Names) > 0 {
			continue
		}
		if _, err := l.s.store.DeleteImage(id, true); err != nil {
			l.s.log.Warn("cannot remove an image that was loaded in part", "image", id, "error", err)
		}
	}
	for _, diffID := range slices.Backward(l.diffIDs) { // children before parents
		layers, err := l.s.store.LayersByUncompressedDigest(diffID)
		if err != nil {
			continue
		}
		for _, layer := range layers {
			if !l.layers[layer.ID] {
				_ = l.s.store.DeleteLayer(layer.ID) // refused for one that has come into use
			}
		}
	}
}
