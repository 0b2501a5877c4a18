package ocispec

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func rootfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\n",
		"etc/group":  "root:x:0:\nweb:x:1000:\nlogs:x:50000:web\nadm:x:4:web,root\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestResolveUser(t *testing.T) {
	id := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	dir := rootfs(t)
	for _, c := range []struct {
		name, image string
		sc          *runtimeapi.LinuxContainerSecurityContext
		want        User
		err         string
	}{
		{"nothing said", "", nil, User{0, 0, []uint32{0, 4}}, ""},
		{"image user", "web", nil, User{1000, 1000, []uint32{1000, 50000, 4}}, ""},
		{"image user and group", "web:adm", nil, User{1000, 4, []uint32{4, 50000}}, ""},
		{"image number without entry", "77", nil, User{77, 0, []uint32{0}}, ""},
		{"run as user", "web", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(0)}, User{0, 0, []uint32{0, 4}}, ""},
		{"merge", "", &runtimeapi.LinuxContainerSecurityContext{
			RunAsUser: id(1000), RunAsGroup: id(3000), SupplementalGroups: []int64{60000, 4},
		}, User{1000, 3000, []uint32{3000, 50000, 4, 60000}}, ""},
		{"strict", "", &runtimeapi.LinuxContainerSecurityContext{
			RunAsUser: id(1000), RunAsGroup: id(3000), SupplementalGroups: []int64{60000}, SupplementalGroupsPolicy: strict,
		}, User{1000, 3000, []uint32{3000, 60000}}, ""},
		{"name", "", &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "web"}, User{1000, 1000, []uint32{1000, 50000, 4}}, ""},
		{"group alone", "", &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: id(5)}, User{}, "user group 5 is specified without user"},
		{"no such user", "nobody", nil, User{}, "unable to find user nobody: no matching entries in passwd file"},
		{"no such group", "web:none", nil, User{}, "unable to find group none: no matching entries in group file"},
	} {
		got, err := ResolveUser(dir, c.image, c.sc)
		if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// An image decides what lies at /etc/passwd.
func TestResolveUserHostileImage(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("spy:x:4711:4711::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func(file string) error{
		"link out":      func(file string) error { return os.Symlink(outside, file) },
		"relative link": func(file string) error { return os.Symlink(strings.Repeat("../", 40)+outside, file) },
		"link to self":  func(file string) error { return os.Symlink("passwd", file) },
		"fifo":          func(file string) error { return unix.Mkfifo(file, 0o644) },
		"folder":        func(file string) error { return os.Mkdir(file, 0o755) },
	} {
		dir := rootfs(t)
		file := filepath.Join(dir, "etc/passwd")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := prepare(file); err != nil {
			t.Fatal(err)
		}
		if u, err := ResolveUser(dir, "spy", nil); err == nil {
			t.Errorf("%s: found %+v", name, u)
		}
		if u, err := ResolveUser(dir, "42", nil); err != nil || u.UID != 42 {
			t.Errorf("%s: a number is %+v, %v", name, u, err)
		}
	}
	// A link that stays inside is followed.
	dir := rootfs(t)
	if err := os.Rename(filepath.Join(dir, "etc"), filepath.Join(dir, "real")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/real", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	if u, err := ResolveUser(dir, "web", nil); err != nil || u.UID != 1000 {
		t.Errorf("link inside: %+v, %v", u, err)
	}
	if u, err := ResolveUser(t.TempDir(), "", nil); err != nil || u.UID != 0 {
		t.Errorf("empty image: %+v, %v", u, err)
	}
}
