package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	imgspecv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/types"
	"golang.org/x/sys/unix"
)

const (
	containerdName = "io.containerd.image.name" // annotation in which containerd and newer docker keep an image's full name
	maxIndex       = 4 << 20                    // bytes of an OCI index, as in registries
)

// archivedImage is one image of an archive and the full names, with tags, that it has there.
type archivedImage struct {
	ref   types.ImageReference
	names []string
}

func (i archivedImage) String() string {
	if len(i.names) == 0 {
		return "without a name"
	}
	return strings.Join(i.names, ", ")
}

// imageArchive is an archive that is open for reading. Its images are valid until close.
type imageArchive struct {
	images []archivedImage
	close  func() error
}

// openArchive finds out what the file is and lists its images. A compressed archive, or one from a pipe, is copied to
// scratch first, as archives are read more than once.
func openArchive(ctx context.Context, file string, scratch *scratch) (*imageArchive, error) {
	plain, err := plainArchive(ctx, file, scratch)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(plain)
	if err != nil {
		return nil, err
	}
	kind, err := sniff(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, err
	}
	if kind == ociArchive {
		return openOCI(ctx, plain, scratch)
	}
	return openDocker(plain, scratch)
}

// plainArchive is the path of file, or of an uncompressed copy of it.
func plainArchive(ctx context.Context, file string, scratch *scratch) (_ string, err error) {
	in := os.Stdin
	if file != "-" {
		if in, err = os.Open(file); err != nil {
			return "", err
		}
		defer in.Close()
		if info, err := in.Stat(); err == nil && info.IsDir() {
			return "", fmt.Errorf("%w: it is a folder", ErrBadArchive)
		}
	}
	decompress, start, err := compression.DetectCompression(contextReader{ctx, in})
	if err != nil {
		return "", err
	}
	if decompress == nil && file != "-" {
		return file, nil
	}
	if decompress == nil {
		decompress = func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }
	}
	data, err := decompress(start)
	if err != nil {
		return "", damaged(err)
	}
	defer data.Close()
	out, err := os.OpenFile(filepath.Join(scratch.path, "archive.tar"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, data)
	if err = errors.Join(err, out.Close()); err != nil {
		return "", damaged(err)
	}
	return out.Name(), nil
}

type archiveKind int

const (
	dockerArchive archiveKind = iota + 1
	ociArchive
)

// sniff reads the archive's headers to its end, which shows one that is cut short, and tells the kind. An archive that is
// both, as newer docker writes, is read as docker's: only there are the names beyond doubt.
func sniff(r io.Reader) (archiveKind, error) {
	entries := tar.NewReader(r)
	var docker, oci bool
	for {
		header, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, damaged(err)
		}
		switch path.Clean(header.Name) {
		case "manifest.json":
			docker = true
		case imgspecv1.ImageIndexFile:
			oci = true
		}
	}
	switch {
	case docker:
		return dockerArchive, nil
	case oci:
		return ociArchive, nil
	}
	return 0, fmt.Errorf("%w: it has neither a manifest.json nor an %s", ErrBadArchive, imgspecv1.ImageIndexFile)
}

func openDocker(file string, scratch *scratch) (*imageArchive, error) {
	reader, err := archive.NewReader(scratch.system(), file)
	if err != nil {
		return nil, damaged(err)
	}
	groups, err := reader.List()
	if err != nil {
		return nil, errors.Join(damaged(err), reader.Close())
	}
	a := &imageArchive{close: reader.Close}
	for _, refs := range groups {
		img := archivedImage{ref: refs[0]}
		for _, ref := range refs {
			if named := ref.DockerReference(); named != nil {
				img.names = append(img.names, named.String())
			}
		}
		a.images = append(a.images, img)
	}
	return a, nil
}

// openOCI unpacks the archive into scratch: the image library reads OCI layouts from folders.
func openOCI(ctx context.Context, file string, scratch *scratch) (*imageArchive, error) {
	folder := filepath.Join(scratch.path, "oci")
	if err := unpackLayout(ctx, file, folder); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(folder, imgspecv1.ImageIndexFile))
	if err != nil {
		return nil, damaged(err)
	}
	var index imgspecv1.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, damaged(err)
	}
	a := &imageArchive{close: func() error { return nil }}
	for i, descriptor := range index.Manifests {
		ref, err := layout.NewIndexReference(folder, i)
		if err != nil {
			return nil, damaged(err)
		}
		img := archivedImage{ref: ref}
		if name := annotatedName(descriptor.Annotations); name != "" {
			img.names = []string{name}
		}
		a.images = append(a.images, img)
	}
	return a, nil
}

// annotatedName is the full name of an image in an OCI layout, empty if it has none. The specification's annotation may
// hold as little as a tag; podman takes such a word for a name on localhost, and so do we.
func annotatedName(annotations map[string]string) string {
	for _, key := range []string{containerdName, imgspecv1.AnnotationRefName} {
		named, short, err := parse(annotations[key])
		if err != nil {
			continue
		}
		if _, ok := named.(reference.Tagged); !ok {
			continue // a digest is no name to give
		}
		if short {
			return localHost + "/" + reference.FamiliarString(named)
		}
		return named.String()
	}
	return ""
}

// unpackLayout unpacks the files of an OCI layout. Whatever else the archive holds, links above all, is left out.
func unpackLayout(ctx context.Context, file, folder string) error {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	entries := tar.NewReader(in)
	for {
		header, err := entries.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		name := path.Clean(header.Name)
		if header.Typeflag != tar.TypeReg || name != imgspecv1.ImageIndexFile && name != imgspecv1.ImageLayoutFile && path.Dir(path.Dir(name)) != "blobs" {
			continue
		}
		if name == imgspecv1.ImageIndexFile && header.Size > maxIndex {
			return damaged(fmt.Errorf("its %s is larger than %d bytes", name, maxIndex))
		}
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return damaged(err)
		}
		out, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return damaged(err)
		}
		_, err = io.Copy(out, contextReader{ctx, entries})
		if err = errors.Join(err, out.Close()); err != nil {
			return damaged(err)
		}
	}
}

// damaged says of an error that it is the archive's fault, unless it plainly is this machine's or the caller's.
func damaged(err error) error {
	for _, other := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, other) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrBadArchive, err)
}
