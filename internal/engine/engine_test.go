package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine"
	"peapod.dev/peapod/internal/engine/enginetest"
	"peapod.dev/peapod/internal/engine/image"
)

const busybox = "docker.io/library/busybox:latest"

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

// setup is an engine under test with folders, storage and names of its own.
type setup struct {
	engine *engine.Engine
	config engine.Config
}

func newSetup(t testing.TB) *setup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	run, err := os.MkdirTemp("/run", "peapod-test-") // a tmpfs on real machines; and short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	level := slog.LevelWarn
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	images, err := image.Open(image.Config{Root: filepath.Join(dir, "storage"), RunRoot: filepath.Join(run, "storage"), Owner: dir, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Load(t.Context(), busyboxArchive(t), func(string) {}); err != nil {
		t.Fatal(err)
	}
	id := filepath.Base(run)[len("peapod-test-"):]
	s := &setup{config: engine.Config{
		Root: filepath.Join(dir, "engine"), RunRoot: filepath.Join(run, "engine"), PodCIDR: podCIDR(),
		Bridge: "pt" + id[:min(len(id), 10)], CgroupParent: "/peapod-test-" + id, Runtime: os.Getenv("PEAPOD_TEST_RUNTIME"),
		Images: images, Log: log,
	}}
	t.Cleanup(func() {
		if s.engine != nil {
			if err := s.engine.Destroy(context.Background()); err != nil {
				t.Error("Destroy:", err)
			}
			if err := s.engine.Close(); err != nil {
				t.Error("Close:", err)
			}
		}
		if err := images.Close(); err != nil {
			t.Error(err)
		}
		// The storage's own bind mount of its folder; Close unmounts it where no other process did meanwhile.
		unix.Unmount(filepath.Join(dir, "storage", "overlay"), unix.MNT_DETACH)
	})
	s.open(t)
	return s
}

func (s *setup) open(t testing.TB) {
	t.Helper()
	var err error
	if s.engine, err = engine.New(t.Context(), s.config); err != nil {
		t.Fatal(err)
	}
}

// podCIDR is a range that hardly anything else on the machine has: tests of several packages run at once.
func podCIDR() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + rand.IntN(127)), byte(rand.IntN(256)), 0}), 24)
}

func (s *setup) suite() enginetest.Suite { return enginetest.Suite{Engine: s.engine, Image: busybox} }

// busyboxArchive is a docker-archive with the machine's static busybox.
func busyboxArchive(t testing.TB) string {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"bin/", "etc/", "tmp/", "root/"} {
		w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))})
	w.Write(program)
	passwd := "root:x:0:0:root:/root:/bin/sh\n"
	w.WriteHeader(&tar.Header{Name: "etc/passwd", Mode: 0o644, Size: int64(len(passwd))})
	io.WriteString(w, passwd)
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			w.WriteHeader(&tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
		}
	}
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config.Cmd, file.Config.Env = []string{"sh"}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(busybox)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEngine(t *testing.T) {
	s := newSetup(t)
	s.suite().Run(t)
}
