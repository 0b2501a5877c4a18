package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.podman.io/storage/pkg/reexec"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	if os.Getenv(crashFolder) != "" {
		fmt.Fprintln(os.Stderr, crash())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// openStore opens an empty storage that the test has for itself, under a registries.conf without content.
func openStore(t testing.TB) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", writeFile(t, "registries.conf", ""))
	return openAt(t, t.TempDir(), "test")
}

func openAt(t testing.TB, folder, owner string) *Store {
	t.Helper()
	s, err := Open(Config{Root: filepath.Join(folder, "root"), RunRoot: filepath.Join(folder, "run"), Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, err := s.ListRootfs()
		for _, id := range ids {
			if err := s.DeleteRootfs(id); err != nil {
				t.Error(err)
			}
		}
		if err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func writeFile(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// makeImage makes an image with a layer a word, which holds a file of that name and content.
func makeImage(t testing.TB, words ...string) v1.Image {
	t.Helper()
	img := empty.Image
	for _, word := range words {
		var layer bytes.Buffer
		out := tar.NewWriter(&layer)
		if err := out.WriteHeader(&tar.Header{Name: word, Mode: 0o644, Size: int64(len(word)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if img, err = mutate.AppendLayers(img, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Cmd: []string{"/bin/" + words[0]}, Env: []string{"A=B"}, StopSignal: "SIGQUIT"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// writeDockerArchive writes images, by tag, as docker save does.
func writeDockerArchive(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	byTag := map[name.Tag]v1.Image{}
	for tag, img := range images {
		parsed, err := name.NewTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		byTag[parsed] = img
	}
	path := filepath.Join(t.TempDir(), "images.tar")
	if err := tarball.MultiWriteToFile(path, byTag); err != nil {
		t.Fatal(err)
	}
	return path
}

func idOf(t testing.TB, img v1.Image) string {
	t.Helper()
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// mustLoad loads an image under a tag.
func mustLoad(t testing.TB, s *Store, tag string, img v1.Image) *Image {
	t.Helper()
	if _, err := s.Load(t.Context(), writeDockerArchive(t, map[string]v1.Image{tag: img}), nil); err != nil {
		t.Fatal(err)
	}
	loaded, err := s.Get(tag)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}
