package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	imagetypes "go.podman.io/image/v5/types"
	"golang.org/x/sync/errgroup"
)

// testRegistry is a registry on loopback. gate, if set, is asked before a blob is sent.
type testRegistry struct {
	host           string
	user, password string
	gate           func(*http.Request)
	manifests      atomic.Int32 // requests for the contents of one
}

func startRegistry(t *testing.T) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	storage := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, password, _ := req.BasicAuth(); user != r.user || password != r.password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`)
			return
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/manifests/") {
			r.manifests.Add(1)
		}
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") && r.gate != nil {
			r.gate(req)
		}
		storage.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// push stores an image, or an index, before the registry asks for credentials.
func (r *testRegistry) push(t *testing.T, repository string, what remote.Taggable) {
	t.Helper()
	ref, err := name.ParseReference(r.host+"/"+repository, name.Insecure)
	if err == nil {
		switch what := what.(type) {
		case v1.Image:
			err = remote.Write(ref, what)
		case v1.ImageIndex:
			err = remote.WriteIndex(ref, what)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openWithRegistry opens a storage that may talk to the registry.
func openWithRegistry(t *testing.T, r *testRegistry, registriesConf string) *Store {
	s := openStore(t)
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	conf := fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n%s", r.host, registriesConf)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", writeFile(t, "registries.conf", conf))
	return s
}

func TestPull(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	img := makeImage(t, "app", "more")
	r.push(t, "team/app:1", img)
	var reports []Progress
	for range 2 { // the second finds all of it there
		got, err := s.Pull(t.Context(), r.host+"/team/app:1", PullOptions{Progress: func(p Progress) { reports = append(reports, p) }})
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != idOf(t, img) || !slices.Equal(got.RepoTags, []string{r.host + "/team/app:1"}) {
			t.Errorf("pulled %+v", got)
		}
		digest, err := img.Digest()
		if want := []string{r.host + "/team/app@" + digest.String()}; err != nil || !slices.Equal(got.RepoDigests, want) {
			t.Errorf("RepoDigests = %q, want %q", got.RepoDigests, want)
		}
	}
	if len(reports) == 0 {
		t.Fatal("no progress")
	}
	done := map[string]bool{}
	var last Progress
	for _, p := range reports {
		if p.Complete > p.Total || p.Offset > p.Size && p.Size >= 0 {
			t.Errorf("odd progress %+v", p)
		}
		if p.Done {
			done[p.Blob] = true
		}
		last = p
	}
	if len(done) != 3 || last.Complete != last.Total {
		t.Errorf("%d blobs done, last %+v", len(done), last)
	}
}

func TestPullIndexByDigest(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	img := makeImage(t, "app")
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	r.push(t, "app:multi", index)
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	byDigest := r.host + "/app@" + digest.String()
	for _, ref := range []string{byDigest, r.host + "/app:multi"} {
		got, err := s.Pull(t.Context(), ref, PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != idOf(t, img) || !slices.Contains(got.RepoDigests, byDigest) {
			t.Errorf("Pull(%q) = %+v", ref, got)
		}
		if again, err := s.Get(ref); err != nil || again.ID != got.ID {
			t.Errorf("Get(%q) = %v, %v", ref, again, err)
		}
	}
}

func TestPullMirrorOfShortName(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	mirror := fmt.Sprintf("\n[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"%s/hub\"\ninsecure = true\n", r.host)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", writeFile(t, "registries.conf", mirror))
	img := makeImage(t, "box")
	r.push(t, "hub/library/busybox:latest", img)
	got, err := s.Pull(t.Context(), "busybox", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.RepoTags, []string{"docker.io/library/busybox:latest"}) {
		t.Errorf("RepoTags = %q", got.RepoTags)
	}
}

func TestPullFromSearchRegistry(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	conf := fmt.Sprintf("unqualified-search-registries = [%q]\n[[registry]]\nlocation = %q\ninsecure = true\n[aliases]\n\"nick\" = \"%s/team/app\"\n", r.host, r.host, r.host)
	t.Setenv("CONTAINERS_REGISTRIES_CONF", writeFile(t, "registries.conf", conf))
	img := makeImage(t, "app")
	r.push(t, "team/app:1", img)
	for _, ref := range []string{"team/app:1", "nick:1"} {
		if got, err := s.Pull(t.Context(), ref, PullOptions{}); err != nil || got.ID != idOf(t, img) {
			t.Errorf("Pull(%q) = %v, %v", ref, got, err)
		}
		if got, err := s.Get(ref); err != nil || got.ID != idOf(t, img) {
			t.Errorf("Get(%q) = %v, %v", ref, got, err)
		}
	}
}

func TestPullAuth(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	r.push(t, "app:1", makeImage(t, "app"))
	r.user, r.password = "me", "secret"
	ref := r.host + "/app:1"
	if _, err := s.Pull(t.Context(), ref, PullOptions{}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("Pull without credentials = %v, want ErrUnauthorized", err)
	}
	wrong := &imagetypes.DockerAuthConfig{Username: "me", Password: "wrong"}
	if _, err := s.Pull(t.Context(), ref, PullOptions{Auth: wrong}); !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("Pull with wrong credentials = %v, want ErrUnauthorized", err)
	}
	file := writeFile(t, "auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, r.host))
	if _, err := s.Pull(t.Context(), ref, PullOptions{AuthFile: file}); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(t.Context(), ref, PullOptions{Auth: &imagetypes.DockerAuthConfig{Username: "me", Password: "secret"}}); err != nil {
		t.Error(err)
	}
	t.Setenv("REGISTRY_AUTH_FILE", file)
	if _, err := s.Pull(t.Context(), ref, PullOptions{}); err != nil {
		t.Error(err)
	}
}

func TestPullErrors(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "[[registry]]\nlocation = \"127.0.0.1:1\"\ninsecure = true\n")
	r.push(t, "app:1", makeImage(t, "app"))
	for ref, want := range map[string]error{
		r.host + "/app:2":  ErrManifestUnknown,
		r.host + "/none:1": ErrManifestUnknown,
		"127.0.0.1:1/app":  ErrRegistryUnavailable,
		"Not:A:Name":       ErrInvalidReference,
	} {
		_, err := s.Pull(t.Context(), ref, PullOptions{})
		if !errors.Is(err, want) {
			t.Errorf("Pull(%q) = %v, want %v", ref, err, want)
		}
		t.Log(err)
	}
}

func TestPullTogether(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	r.push(t, "app:1", makeImage(t, "app"))
	begun, open := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.gate = func(*http.Request) {
		once.Do(func() { close(begun) })
		<-open
	}
	ref := r.host + "/app:1"
	first, cancelFirst := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error {
		if _, err := s.Pull(first, ref, PullOptions{}); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("first = %w, want context.Canceled", err)
		}
		return nil
	})
	<-begun
	joined := r.manifests.Load()
	for range 9 {
		group.Go(func() error {
			_, err := s.Pull(t.Context(), ref, PullOptions{})
			return err
		})
	}
	waitFor(t, func() bool { return waiting(s) == 10 })
	cancelFirst() // does not end what the others wait for
	waitFor(t, func() bool { return waiting(s) == 9 })
	close(open)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if r.manifests.Load() != joined {
		t.Errorf("%d requests for manifests, %d before the others came", r.manifests.Load(), joined)
	}
}

// waiting counts those who wait for the only flight.
func waiting(s *Store) int {
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	for _, f := range s.pulls.byKey {
		return f.waiting
	}
	return 0
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !what(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}

func TestPullCancelled(t *testing.T) {
	r := startRegistry(t)
	s := openWithRegistry(t, r, "")
	r.push(t, "app:1", makeImage(t, "app"))
	ctx, cancel := context.WithCancel(t.Context())
	open := make(chan struct{})
	r.gate = func(*http.Request) { cancel(); <-open }
	defer close(open)
	before := tree(t, s)
	if _, err := s.Pull(ctx, r.host+"/app:1", PullOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Pull = %v, want context.Canceled", err)
	}
	if after := tree(t, s); !slices.Equal(before, after) {
		t.Errorf("the store changed:\n%q\n%q", before, after)
	}
}
