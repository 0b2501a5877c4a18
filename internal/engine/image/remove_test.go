package image

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestRemove(t *testing.T) {
	s := openStore(t)
	img := makeImage(t, "app")
	for _, tag := range []string{"app:1", "app:2", "example.com/app:1"} {
		mustLoad(t, s, tag, img)
	}
	if err := s.Remove("app:1"); err != nil {
		t.Error(err)
	}
	got, err := s.Get("app:2")
	if err != nil || !slices.Equal(got.RepoTags, []string{"docker.io/library/app:2", "example.com/app:1"}) {
		t.Fatalf("after one name is gone: %+v, %v", got, err)
	}
	_, digest, _ := strings.Cut(got.RepoDigests[0], "@")
	if err := s.Remove("app@" + digest); err != nil {
		t.Error(err)
	}
	if _, err := s.Get("app:2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get = %v, want ErrNotFound", err)
	}
	if err := s.Remove("example.com/app:1"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(got.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove of nothing = %v, want ErrNotFound", err)
	}
	for _, tag := range []string{"app:1", "app:2"} {
		mustLoad(t, s, tag, img)
	}
	if err := s.Remove(got.ID); err != nil {
		t.Error(err)
	}
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("List = %v, %v", images, err)
	}
}

func TestPrune(t *testing.T) {
	s := openStore(t)
	dangling := mustLoad(t, s, "app", makeImage(t, "shared", "old"))
	kept := mustLoad(t, s, "app", makeImage(t, "shared", "new"))
	used := mustLoad(t, s, "used", makeImage(t, "used"))
	if err := s.CreateRootfs("c", used); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Prune(t.Context(), false); err != nil || !slices.Equal(removed, []string{dangling.ID}) {
		t.Errorf("Prune = %q, %v", removed, err)
	}
	if removed, err := s.Prune(t.Context(), true); err != nil || !slices.Equal(removed, []string{kept.ID}) {
		t.Errorf("Prune of all = %q, %v", removed, err)
	}
	info, err := s.FsInfo()
	if err != nil || info.ImageBytes == 0 || info.UsedBytes == 0 || info.UsedBytes >= info.CapacityBytes || info.Mountpoint != s.store.GraphRoot() {
		t.Errorf("FsInfo = %+v, %v", info, err)
	}
}
