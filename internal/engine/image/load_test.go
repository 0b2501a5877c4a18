package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func TestLoadAndGet(t *testing.T) {
	s := openStore(t)
	img := makeImage(t, "app", "more")
	refs, err := s.Load(t.Context(), writeDockerArchive(t, map[string]v1.Image{"docker.io/library/app:latest": img}), func(line string) { t.Log(line) })
	if err != nil || !slices.Equal(refs, []string{"docker.io/library/app:latest"}) {
		t.Fatalf("Load = %q, %v", refs, err)
	}
	id := idOf(t, img)
	hex := strings.TrimPrefix(id, "sha256:")
	loaded, err := s.Get("app")
	if err != nil {
		t.Fatal(err)
	}
	if loaded.ID != id || !slices.Equal(loaded.RepoTags, refs) || loaded.Config.StopSignal != "SIGQUIT" || loaded.Config.Cmd[0] != "/bin/app" {
		t.Errorf("loaded = %+v", loaded)
	}
	if len(loaded.RepoDigests) != 1 || !strings.HasPrefix(loaded.RepoDigests[0], "docker.io/library/app@sha256:") {
		t.Errorf("RepoDigests = %q", loaded.RepoDigests)
	}
	if loaded.Size < int64(len("app")+len("more")) {
		t.Errorf("Size = %d", loaded.Size)
	}
	_, digest, _ := strings.Cut(loaded.RepoDigests[0], "@")
	for _, ref := range []string{
		"app:latest", "library/app", "docker.io/app", "docker.io/library/app:latest", "index.docker.io/library/app",
		id, hex, hex[:12], id[:15], "app@" + digest, "docker.io/library/app:latest@" + digest, "app:other@" + digest,
	} {
		if got, err := s.Get(ref); err != nil || got.ID != id {
			t.Errorf("Get(%q) = %v, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"app:other", "other", "localhost/app", "other@" + digest, "sha256:" + strings.Repeat("0", 64), "0123456789ab"} {
		if _, err := s.Get(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get(%q) = %v, want ErrNotFound", ref, err)
		}
	}
	for _, ref := range []string{"", "App", "a:b:c", "a/../b", "a@sha256:12", strings.Repeat("a", maxReference+1), " app", "app:"} {
		if _, err := s.Get(ref); !errors.Is(err, ErrInvalidReference) {
			t.Errorf("Get(%q) = %v, want ErrInvalidReference", ref, err)
		}
	}
}

func TestLoadSeveral(t *testing.T) {
	s := openStore(t)
	one, two := makeImage(t, "shared", "one"), makeImage(t, "shared", "two")
	path := writeDockerArchive(t, map[string]v1.Image{"example.com/one:1": one, "example.com/uno:1": one, "example.com/two:2": two})
	refs, err := s.Load(t.Context(), path, nil)
	if err != nil || len(refs) != 3 {
		t.Fatalf("Load = %q, %v", refs, err)
	}
	if again, err := s.Load(t.Context(), path, nil); err != nil || !slices.Equal(again, refs) {
		t.Fatalf("Load again = %q, %v", again, err)
	}
	images, err := s.List()
	if err != nil || len(images) != 2 {
		t.Fatalf("List = %v, %v", images, err)
	}
	got, err := s.Get("example.com/uno:1")
	if err != nil || got.ID != idOf(t, one) || !slices.Equal(got.RepoTags, []string{"example.com/one:1", "example.com/uno:1"}) {
		t.Errorf("Get = %+v, %v", got, err)
	}
}

func TestLoadMovesTag(t *testing.T) {
	s := openStore(t)
	old := mustLoad(t, s, "app", makeImage(t, "old"))
	fresh := mustLoad(t, s, "app", makeImage(t, "new"))
	if old.ID == fresh.ID {
		t.Fatal("the same image")
	}
	dangling, err := s.Get(old.ID)
	if err != nil || len(dangling.RepoTags) != 0 || len(dangling.RepoDigests) != 0 {
		t.Errorf("old image = %+v, %v", dangling, err)
	}
}

func TestLoadCompressed(t *testing.T) {
	plain, err := os.ReadFile(writeDockerArchive(t, map[string]v1.Image{"app": makeImage(t, "app")}))
	if err != nil {
		t.Fatal(err)
	}
	for name, compress := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			var packed bytes.Buffer
			w, err := compress(&packed)
			if err == nil {
				_, err = w.Write(plain)
			}
			if err = errors.Join(err, w.Close()); err != nil {
				t.Fatal(err)
			}
			if refs, err := s.Load(t.Context(), writeFile(t, "app.tar", packed.String()), nil); err != nil || len(refs) != 1 {
				t.Errorf("Load = %q, %v", refs, err)
			}
			cut := writeFile(t, "cut.tar", packed.String()[:packed.Len()/2])
			if _, err := s.Load(t.Context(), cut, nil); !errors.Is(err, ErrBadArchive) {
				t.Errorf("Load of half = %v, want ErrBadArchive", err)
			}
		})
	}
}

func TestLoadOCI(t *testing.T) {
	s := openStore(t)
	folder := t.TempDir()
	index, err := layout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	images := []v1.Image{makeImage(t, "one"), makeImage(t, "two"), makeImage(t, "three")}
	for i, annotations := range []map[string]string{
		{"org.opencontainers.image.ref.name": "example.com/one:1"},
		{"org.opencontainers.image.ref.name": "2", "io.containerd.image.name": "example.com/two:2"},
		nil,
	} {
		if err := index.AppendImage(images[i], layout.WithAnnotations(annotations)); err != nil {
			t.Fatal(err)
		}
	}
	refs, err := s.Load(t.Context(), writeFile(t, "oci.tar", pack(t, folder)), nil)
	if want := []string{"example.com/one:1", "example.com/two:2", idOf(t, images[2])}; err != nil || !slices.Equal(refs, want) {
		t.Fatalf("Load = %q, %v, want %q", refs, err, want)
	}
	for i, ref := range refs {
		if got, err := s.Get(ref); err != nil || got.ID != idOf(t, images[i]) {
			t.Errorf("Get(%q) = %v, %v", ref, got, err)
		}
	}
}

// A bad archive leaves the store as it was: no images, layers or working files.
func TestLoadDamaged(t *testing.T) {
	good, err := os.ReadFile(writeDockerArchive(t, map[string]v1.Image{"app": makeImage(t, "first", "second")}))
	if err != nil {
		t.Fatal(err)
	}
	for name, archive := range map[string]string{
		"empty":          "",
		"text":           "this is no archive\n",
		"nothing in it":  pack(t, t.TempDir()),
		"truncated":      string(good[:len(good)*2/3]),
		"second layer":   strings.ReplaceAll(string(good), "\x00second\x00", "\x00sEcond\x00"), // a name in the layer's own tar
		"bad manifest":   strings.Replace(string(good), `[{"Config"`, `[{"ConfiG`+"\x01", 1),
		"gzip of a text": "\x1f\x8b\x08\x00junk",
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			mustLoad(t, s, "kept", makeImage(t, "first", "kept"))
			before := tree(t, s)
			if archive == string(good) {
				t.Fatal("the archive is not damaged")
			}
			_, err := s.Load(t.Context(), writeFile(t, "bad.tar", archive), nil)
			if !errors.Is(err, ErrBadArchive) {
				t.Errorf("Load = %v, want ErrBadArchive", err)
			}
			t.Log(err)
			if after := tree(t, s); !slices.Equal(before, after) {
				t.Errorf("the store changed:\n%q\n%q", before, after)
			}
		})
	}
}

func TestLoadSecondImageDamaged(t *testing.T) {
	s := openStore(t)
	before := tree(t, s)
	archive, err := os.ReadFile(writeDockerArchive(t, map[string]v1.Image{"one": makeImage(t, "first"), "two": makeImage(t, "bottom", "second")}))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"first", "second"} { // whichever of the two comes last
		bad := strings.Replace(string(archive), word+"\x00", strings.ToUpper(word)+"\x00", 1)
		if _, err := s.Load(t.Context(), writeFile(t, "bad.tar", bad), nil); !errors.Is(err, ErrBadArchive) {
			t.Errorf("Load = %v, want ErrBadArchive", err)
		}
		if after := tree(t, s); !slices.Equal(before, after) {
			t.Errorf("the store changed:\n%q\n%q", before, after)
		}
	}
}

func TestLoadCancelled(t *testing.T) {
	s := openStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := tree(t, s)
	_, err := s.Load(ctx, writeDockerArchive(t, map[string]v1.Image{"app": makeImage(t, "app")}), nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Load = %v, want context.Canceled", err)
	}
	if after := tree(t, s); !slices.Equal(before, after) {
		t.Errorf("the store changed:\n%q\n%q", before, after)
	}
	if _, err := s.Load(t.Context(), "/nonexistent.tar", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load = %v, want ErrNotExist", err)
	}
}

// A working folder that a killed process left is removed by the next Open, one in use is not.
func TestStaleScratch(t *testing.T) {
	s := openStore(t)
	live, err := s.newScratch()
	if err != nil {
		t.Fatal(err)
	}
	defer live.remove()
	stale := filepath.Join(s.scratchRoot(), scratchPrefix+"stale")
	foreign := filepath.Join(s.scratchRoot(), "foreign")
	for _, folder := range []string{stale, foreign} {
		if err := os.MkdirAll(filepath.Join(folder, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sweepScratch(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stale folder: %v", err)
	}
	for _, folder := range []string{live.path, foreign} {
		if _, err := os.Stat(folder); err != nil {
			t.Error(err)
		}
	}
}

// tree lists what matters in the storage: images, layers and working files.
func tree(t *testing.T, s *Store) (list []string) {
	t.Helper()
	images, err := s.store.Images()
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		list = append(list, "image "+img.ID+strings.Join(img.Names, " "))
	}
	layers, err := s.store.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		list = append(list, "layer "+layer.ID)
	}
	for _, pattern := range []string{"tmp/*", "overlay/*", "overlay/l/*", "overlay-images/*", "overlay-layers/*.gz"} {
		files, err := filepath.Glob(filepath.Join(s.store.GraphRoot(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			// Lists and locks come into being with the first use and stay. Of a list that was being written at a kill the
			// library leaves its copy.
			name := filepath.Base(file)
			if name != "tempdirs" && name != "staging" && !strings.HasPrefix(name, "images.") && !strings.HasPrefix(name, ".tmp-") {
				list = append(list, file)
			}
		}
	}
	slices.Sort(list)
	return list
}

// pack makes a tar of a folder.
func pack(t *testing.T, folder string) string {
	t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := errors.Join(w.AddFS(os.DirFS(folder)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}
