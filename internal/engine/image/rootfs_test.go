package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/mount"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Root filesystems are the same whoever mounts them.
func TestRootfs(t *testing.T) {
	t.Run("own", func(t *testing.T) {
		s := openStore(t)
		if s.overlays == nil {
			t.Fatal("the storage library mounts, in a plain storage")
		}
		testRootfs(t, s)
		if err := s.closeOverlays(); err != nil {
			t.Error(err)
		}
		if layers, err := s.store.Layers(); err != nil || len(layers) != 0 {
			t.Errorf("layers left: %v, %v", layers, err)
		}
		if _, err := os.Stat(s.overlayRoot()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the folder of root filesystems is left: %v", err)
		}
	})
	t.Run("library", func(t *testing.T) {
		s := openStore(t)
		s.overlays = nil
		testRootfs(t, s)
	})
}

func testRootfs(t *testing.T, s *Store) {
	img := mustLoad(t, s, "app", makeImage(t, "app", "more"))
	for range 2 {
		if err := s.CreateRootfs("one", img); err != nil {
			t.Fatal(err)
		}
	}
	var path string
	for range 2 {
		var err error
		if path, err = s.MountRootfs("one"); err != nil {
			t.Fatal(err)
		}
	}
	if content, err := os.ReadFile(filepath.Join(path, "more")); err != nil || string(content) != "more" {
		t.Errorf("more = %q, %v", content, err)
	}
	if err := os.WriteFile(filepath.Join(path, "app"), []byte("changed"), 0o600); err != nil {
		t.Error(err)
	}
	if err := s.Remove("app"); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove = %v, want ErrInUse", err)
	}
	if removed, err := s.Prune(t.Context(), true); err != nil || len(removed) != 0 {
		t.Errorf("Prune = %q, %v", removed, err)
	}
	for range 2 {
		if err := s.UnmountRootfs("one"); err != nil {
			t.Error(err)
		}
		if mounted, err := mount.Mounted(path); err != nil || mounted {
			t.Errorf("still mounted: %v", err)
		}
	}
	if path, err := s.MountRootfs("one"); err != nil {
		t.Error(err)
	} else if content, err := os.ReadFile(filepath.Join(path, "app")); err != nil || string(content) != "changed" {
		t.Errorf("app after remount = %q, %v", content, err)
	}
	for range 2 {
		if err := s.DeleteRootfs("one"); err != nil {
			t.Error(err)
		}
	}
	if err := s.UnmountRootfs("one"); err != nil {
		t.Error(err)
	}
	if _, err := s.MountRootfs("one"); !errors.Is(err, storage.ErrContainerUnknown) {
		t.Errorf("MountRootfs of nothing = %v", err)
	}
	if err := s.Remove("app"); err != nil {
		t.Error(err)
	}
	if err := s.CreateRootfs("two", img); !errors.Is(err, ErrNotFound) {
		t.Errorf("CreateRootfs without image = %v, want ErrNotFound", err)
	}
	if layers, err := s.store.Layers(); err != nil || len(layers) != 0 {
		t.Errorf("layers left: %v, %v", layers, err)
	}
}

func TestRootfsOfOtherImage(t *testing.T) {
	s := openStore(t)
	one, two := mustLoad(t, s, "one", makeImage(t, "one")), mustLoad(t, s, "two", makeImage(t, "two"))
	if err := s.CreateRootfs("c", one); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateRootfs("c", two); err == nil {
		t.Error("a root filesystem changed its image")
	}
}

func TestMountImage(t *testing.T) {
	s := openStore(t)
	img := mustLoad(t, s, "data", makeImage(t, "data"))
	var path string
	for range 2 {
		var err error
		if path, err = s.MountImage("volume", img); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.ReadFile(filepath.Join(path, "data")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write = %v, want EROFS", err)
	}
	for range 2 {
		if err := s.UnmountImage("volume"); err != nil {
			t.Error(err)
		}
	}
}

// A mount of which a crash took the record is used, and taken down.
func TestUncountedMount(t *testing.T) {
	s := openStore(t)
	s.overlays = nil
	img := mustLoad(t, s, "app", makeImage(t, "app"))
	if err := s.CreateRootfs("c", img); err != nil {
		t.Fatal(err)
	}
	path, err := s.MountRootfs("c")
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(t.TempDir(), "kept")
	if err := errors.Join(os.Mkdir(overlay, 0o700), unix.Mount(path, overlay, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(overlay, unix.MNT_DETACH) }()
	if err := s.UnmountRootfs("c"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(overlay, path, "", unix.MS_BIND, ""); err != nil { // mounted, and counted nowhere
		t.Fatal(err)
	}
	if again, err := s.MountRootfs("c"); err != nil || again != path {
		t.Errorf("MountRootfs = %q, %v", again, err)
	}
	if err := s.DeleteRootfs("c"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !os.IsNotExist(err) {
		t.Errorf("the layer is left: %v", err)
	}
}

// A root filesystem whose layer a power cut took is made anew.
func TestLostLayer(t *testing.T) {
	s := openStore(t)
	s.overlays = nil
	img := mustLoad(t, s, "app", makeImage(t, "app"))
	if err := s.CreateRootfs("c", img); err != nil {
		t.Fatal(err)
	}
	lists, err := filepath.Glob(filepath.Join(s.store.GraphRoot(), "overlay-layers", "volatile-layers.json"))
	if err != nil || len(lists) != 1 {
		t.Fatalf("lists of layers = %q, %v", lists, err)
	}
	if err := os.WriteFile(lists[0], []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateRootfs("c", img); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MountRootfs("c"); err != nil {
		t.Error(err)
	}
}

// Root filesystems of others, also of another peapod, are not ours to list or delete.
func TestOwners(t *testing.T) {
	s := openStore(t)
	img := mustLoad(t, s, "app", makeImage(t, "app"))
	if _, err := s.store.CreateContainer("foreign", nil, img.ID[len(idPrefix):], "", "", nil); err != nil {
		t.Fatal(err)
	}
	other := &Store{store: s.store, overlays: newOverlays(s.store), owner: "other"}
	if err := errors.Join(s.CreateRootfs("mine", img), other.CreateRootfs("theirs", img)); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.ListRootfs(); err != nil || !slices.Equal(ids, []string{"mine"}) {
		t.Errorf("ListRootfs = %q, %v", ids, err)
	}
	if err := s.DeleteRootfs("theirs"); err != nil {
		t.Error(err)
	}
	if ids, err := other.ListRootfs(); err != nil || !slices.Equal(ids, []string{"theirs"}) {
		t.Errorf("ListRootfs of the other = %q, %v", ids, err)
	}
	if err := errors.Join(s.DeleteRootfs("foreign"), other.DeleteRootfs("theirs")); err != nil {
		t.Error(err)
	}
	if !s.store.Exists("foreign") {
		t.Error("another program's container was deleted")
	}
	s.overlays = nil
	if err := s.CreateRootfs("foreign", img); err == nil {
		t.Error("took over another program's container")
	}
}

// An image is let go when its last root filesystem has been gone for a while, and at once for who removes it, also when
// that is another process; its own root filesystems keep it.
func TestPin(t *testing.T) {
	s := openStore(t)
	img := mustLoad(t, s, "app", makeImage(t, "app"))
	other := &Store{store: s.store, owner: "other"} // as `peapod image rm` is
	if err := errors.Join(s.CreateRootfs("one", img), s.CreateRootfs("two", img)); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(s.store.GraphRoot(), "overlay-containers", "containers.json"))
	if err != nil || !strings.Contains(string(list), pinPrefix) {
		t.Errorf("the pin is not where older users of the storage look: %s, %v", list, err)
	}
	for _, id := range []string{"one", "two"} {
		if err := other.Remove("app"); !errors.Is(err, ErrInUse) {
			t.Errorf("Remove = %v, want ErrInUse", err)
		}
		if err := s.DeleteRootfs(id); err != nil {
			t.Error(err)
		}
	}
	s.overlays.mu.Lock()
	waiting := len(s.overlays.idle)
	s.overlays.mu.Unlock()
	if waiting != 1 {
		t.Errorf("%d images wait for being let go", waiting)
	}
	if err := other.Remove("app"); err != nil {
		t.Error(err)
	}
}

// More layers than their paths have room for in a page of mount options.
func TestManyLayers(t *testing.T) {
	s := openStore(t)
	var words []string
	for i := range 60 {
		words = append(words, fmt.Sprintf("word-%d", i))
	}
	img := mustLoad(t, s, "deep", makeImage(t, words...))
	if err := s.CreateRootfs("c", img); err != nil {
		t.Fatal(err)
	}
	path, err := s.MountRootfs("c")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		if _, err := os.Stat(filepath.Join(path, word)); err != nil {
			t.Error(err)
		}
	}
}

// The root folder has the mode and the owner that the image gives it.
func TestRootFolder(t *testing.T) {
	s := openStore(t)
	img := mustLoad(t, s, "app", makeImage(t, "app"))
	if err := s.CreateRootfs("c", img); err != nil {
		t.Fatal(err)
	}
	base, err := s.base(img.ID[len(idPrefix):])
	if err != nil {
		t.Fatal(err)
	}
	lower := filepath.Join(s.overlays.home, base.lower)
	if err := errors.Join(unix.Chmod(lower, 0o1751), os.Chown(lower, 5, 6)); err != nil {
		t.Fatal(err)
	}
	clear(s.overlays.bases)
	if err := s.CreateRootfs("d", img); err != nil {
		t.Fatal(err)
	}
	path, err := s.MountRootfs("d")
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Mode&0o7777 != 0o1751 || st.Uid != 5 || st.Gid != 6 {
		t.Errorf("/ has mode %o, owner %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
}

func TestRootfsConcurrently(t *testing.T) {
	s := openStore(t)
	img := mustLoad(t, s, "app", makeImage(t, "app", "more"))
	const count = 40
	report := func(what string, do func(id string) error) {
		var group errgroup.Group
		var mu sync.Mutex
		var slowest time.Duration
		began := time.Now()
		for i := range count {
			group.Go(func() error {
				began := time.Now()
				err := do(fmt.Sprintf("c%d", i))
				mu.Lock()
				defer mu.Unlock()
				slowest = max(slowest, time.Since(began))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s of %d at once: %v, the slowest %v", what, count, time.Since(began), slowest)
	}
	report("create and mount", func(id string) error {
		_, err := s.MountRootfs(id)
		if err == nil {
			return errors.New("mounted what is not there")
		}
		if err := s.CreateRootfs(id, img); err != nil {
			return err
		}
		_, err = s.MountRootfs(id)
		return err
	})
	report("delete", s.DeleteRootfs)
	if ids, err := s.ListRootfs(); err != nil || len(ids) != 0 {
		t.Errorf("ListRootfs = %q, %v", ids, err)
	}
}

func BenchmarkRootfs(b *testing.B) {
	s := openStore(b)
	img := mustLoad(b, s, "app", makeImage(b, "a", "b", "c", "d", "e"))
	var get, create, mounting, deleting time.Duration
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("c%d", i)
		start := time.Now()
		_, err := s.Get("app")
		got := time.Now()
		err = errors.Join(err, s.CreateRootfs(id, img))
		created := time.Now()
		_, mountErr := s.MountRootfs(id)
		mounted := time.Now()
		if err := errors.Join(err, mountErr, s.DeleteRootfs(id)); err != nil {
			b.Fatal(err)
		}
		get, create = get+got.Sub(start), create+created.Sub(got)
		mounting, deleting = mounting+mounted.Sub(created), deleting+time.Since(mounted)
	}
	for unit, sum := range map[string]time.Duration{"get-µs": get, "create-µs": create, "mount-µs": mounting, "delete-µs": deleting} {
		b.ReportMetric(float64(sum.Microseconds())/float64(b.N), unit)
	}
}
