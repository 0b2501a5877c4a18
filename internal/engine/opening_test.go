package engine_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"peapod.dev/peapod/internal/engine"
	"peapod.dev/peapod/internal/engine/enginetest"
)

// left lists the cgroups and links of an engine.
func left(c engine.Config) []string {
	all, _ := filepath.Glob("/sys/fs/cgroup/*" + c.CgroupParent)
	v2, _ := filepath.Glob("/sys/fs/cgroup" + c.CgroupParent)
	link, _ := exec.Command("ip", "-o", "link", "show", c.Bridge).Output()
	if len(link) > 0 {
		all = append(all, string(link))
	}
	return append(all, v2...)
}

// An engine whose range is taken does not open, and leaves nothing.
func TestFailedOpening(t *testing.T) {
	s := newSetup(t)
	other := s.config
	other.Root, other.RunRoot = filepath.Join(t.TempDir(), "engine"), filepath.Join(t.TempDir(), "run")
	other.Bridge, other.CgroupParent = s.config.Bridge+"x", s.config.CgroupParent+"x"
	if e, err := engine.New(t.Context(), other); err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Errorf("opened %v, %v", e, err)
	}
	if got := left(other); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	// Nor does one that meets another on its folders, which goes on.
	if e, err := engine.New(t.Context(), s.config); err == nil || !strings.Contains(err.Error(), "another engine") {
		t.Errorf("opened %v, %v", e, err)
	}
	if got := s.suite().NewPod(t).Run("sleep 1000").Exec("echo hi"); got != "hi" {
		t.Errorf("got %q", got)
	}
}

// What an engine made can be removed when it could not be opened to work: another link has its range.
func TestRemoveWithRangeTaken(t *testing.T) {
	s := newSetup(t)
	c := s.suite().NewPod(t).Run("sleep 1000")
	link := "pd" + s.config.Bridge[2:]
	taken := s.config.PodCIDR.Addr().Next().Next().String() + "/16"
	for _, args := range [][]string{
		{"link", "add", link, "type", "bridge"}, {"addr", "add", taken, "dev", link}, {"link", "set", link, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %s", args, out)
		}
	}
	t.Cleanup(func() { exec.Command("ip", "link", "del", link).Run() })
	if err := s.engine.Close(); err != nil {
		t.Error(err)
	}
	if _, err := engine.New(t.Context(), s.config); err == nil {
		t.Error("opened")
	}
	if out, err := exec.Command("pgrep", "-f", c.ID).Output(); err != nil || len(out) == 0 {
		t.Error("the container's monitor is gone")
	}
	s.config.Removing = true
	s.open(t)
	c.Use(s.suite())
	if got := c.Exec("echo hi"); got != "hi" {
		t.Errorf("got %q", got)
	}
	if err := s.engine.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := left(s.config); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
	enginetest.Eventually(t, func() bool { return exec.Command("pgrep", "-f", c.ID).Run() != nil }, "a process is left")
}
