package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
)

func TestCandidates(t *testing.T) {
	conf := t.TempDir() // and not the machine's own aliases
	sys := &types.SystemContext{
		SystemRegistriesConfDirPath: conf,
		SystemRegistriesConfPath:    writeFile(t, "registries.conf", "unqualified-search-registries = [\"quay.io\", \"docker.io\"]\n[aliases]\n\"nick\" = \"example.com/real\"\n"),
		UserShortNameAliasConfPath:  writeFile(t, "aliases.conf", ""),
	}
	none := &types.SystemContext{SystemRegistriesConfDirPath: conf, SystemRegistriesConfPath: writeFile(t, "registries.conf", ""), UserShortNameAliasConfPath: writeFile(t, "aliases.conf", "")}
	digest := "@sha256:" + strings.Repeat("a", 64)
	for _, test := range []struct {
		sys         *types.SystemContext
		ref         string
		local, pull string // lists
	}{
		{none, "busybox", "localhost/busybox:latest docker.io/library/busybox:latest", "docker.io/library/busybox:latest"},
		{none, "team/app:1", "localhost/team/app:1 docker.io/team/app:1", "docker.io/team/app:1"},
		{none, "app:1" + digest, "localhost/app" + digest + " docker.io/library/app" + digest, "docker.io/library/app" + digest},
		{none, "docker.io/app", "docker.io/library/app:latest", "docker.io/library/app:latest"},
		{none, "localhost/app", "localhost/app:latest", "localhost/app:latest"},
		{none, "reg:5000/app:1", "reg:5000/app:1", "reg:5000/app:1"},
		{sys, "app", "localhost/app:latest quay.io/app:latest docker.io/library/app:latest docker.io/library/app:latest", "quay.io/app:latest docker.io/library/app:latest"},
		{sys, "nick:2", "example.com/real:2 localhost/nick:2 quay.io/nick:2 docker.io/library/nick:2 docker.io/library/nick:2", "example.com/real:2"},
	} {
		local, err := localCandidates(test.sys, test.ref)
		if got := join(local); err != nil || got != test.local {
			t.Errorf("localCandidates(%q) = %s, %v, want %s", test.ref, got, err, test.local)
		}
		pull, err := pullCandidates(test.sys, test.ref)
		if got := join(pull); err != nil || got != test.pull {
			t.Errorf("pullCandidates(%q) = %s, %v, want %s", test.ref, got, err, test.pull)
		}
	}
}

func join(names []reference.Named) string {
	var list []string
	for _, n := range names {
		list = append(list, n.String())
	}
	return strings.Join(list, " ")
}

func TestRepoTagsAndDigests(t *testing.T) {
	d := digest.Digest("sha256:" + strings.Repeat("b", 64))
	tags, digests := repoTagsAndDigests([]string{"b.io/x:1", "a.io/x:2", "a.io/x:1", "a.io/x@" + d.String(), "Not A Name"}, []digest.Digest{d})
	if !slices.Equal(tags, []string{"a.io/x:1", "a.io/x:2", "b.io/x:1"}) {
		t.Errorf("tags = %q", tags)
	}
	if !slices.Equal(digests, []string{"a.io/x@" + d.String(), "b.io/x@" + d.String()}) {
		t.Errorf("digests = %q", digests)
	}
}

func FuzzParse(f *testing.F) {
	for _, ref := range []string{"busybox", "docker.io/library/a:1", "localhost:5000/a@sha256:" + strings.Repeat("a", 64), "A/b", "a:b@c", "sha256:abc", "[::1]/a"} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		asID(ref)
		named, _, err := parse(ref)
		if err != nil {
			if !errors.Is(err, ErrInvalidReference) {
				t.Errorf("parse(%q) = %v", ref, err)
			}
			return
		}
		again, short, err := parse(named.String())
		if err != nil || short || again.String() != named.String() {
			t.Errorf("parse(%q) = %q, which reads as %v, short %v, %v", ref, named, again, short, err)
		}
		if reference.IsNameOnly(named) {
			t.Errorf("parse(%q) = %q, which has no version", ref, named)
		}
	})
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("\x1f\x8b\x08"))
	var layout bytes.Buffer
	w := tar.NewWriter(&layout)
	if err := errors.Join(w.AddFS(fstest.MapFS{"index.json": {Data: []byte("{}")}, "blobs/sha256/a": {}}), w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(layout.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if kind, err := sniff(bytes.NewReader(data)); err != nil && !errors.Is(err, ErrBadArchive) || (kind == 0) != (err != nil) {
			t.Errorf("sniff = %v, %v", kind, err)
		}
	})
}

func FuzzAnnotatedName(f *testing.F) {
	f.Add("latest", "")
	f.Fuzz(func(t *testing.T, refName, full string) {
		name := annotatedName(map[string]string{"org.opencontainers.image.ref.name": refName, containerdName: full})
		if name == "" {
			return
		}
		if named, short, err := parse(name); err != nil || short || named.String() != name {
			t.Errorf("annotatedName(%q, %q) = %q, which reads as %v, %v", refName, full, name, named, err)
		}
	})
}
