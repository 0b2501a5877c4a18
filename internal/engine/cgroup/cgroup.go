// Package cgroup makes, limits, measures and removes the control groups of Pods, over cgroupfs of
// version 1, version 2 or the hybrid of both.
//
// A path names one group in every hierarchy that the machine has ("/peapod-1a2b/podUID"). On version 1
// and on hybrid machines the same path exists once for each controller; callers never see that.
// All methods are safe for concurrent use on different paths.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Mode is the layout of the machine's cgroup hierarchies.
type Mode int

// V1 has one hierarchy for each controller; Hybrid has those and a version 2 tree beside them at
// /sys/fs/cgroup/unified; V2 has the one unified tree.
const (
	V1 Mode = iota + 1
	Hybrid
	V2
)

func (m Mode) String() string {
	switch m {
	case V1:
		return "v1"
	case Hybrid:
		return "hybrid"
	case V2:
		return "v2"
	}
	return "unknown"
}

const mountPoint = "/sys/fs/cgroup"

// Detect tells the mode of this machine.
func Detect() Mode {
	switch {
	case isV2(mountPoint):
		return V2
	case isV2(filepath.Join(mountPoint, "unified")):
		return Hybrid
	}
	return V1
}

func isV2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// Config says which tree a Hierarchy works on. The zero value is this machine's.
type Config struct {
	Root string // mount point; default /sys/fs/cgroup
	Mode Mode   // default: Detect()
	Log  *slog.Logger
}

// Hierarchy is the machine's cgroup tree.
type Hierarchy struct {
	mode Mode
	// roots has controller → mount point. Version 2 has the one entry "". Two version 1 controllers
	// that are mounted together have one mount point.
	roots map[string]string
	log   *slog.Logger
}

// New returns the machine's tree.
func New(c Config) *Hierarchy {
	if c.Root == "" {
		c.Root = mountPoint
	}
	if c.Mode == 0 {
		c.Mode = Detect()
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	h := &Hierarchy{mode: c.Mode, roots: map[string]string{}, log: c.Log}
	if c.Mode == V2 {
		h.roots[""] = c.Root
		return h
	}
	entries, err := os.ReadDir(c.Root)
	if err != nil {
		h.log.Warn("cannot read the cgroup mount point", "path", c.Root, "err", err)
	}
	for _, e := range entries {
		// "cpu" is commonly a link to "cpu,cpuacct".
		dir, err := filepath.EvalSymlinks(filepath.Join(c.Root, e.Name()))
		if err != nil {
			continue
		}
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			for _, controller := range strings.Split(e.Name(), ",") {
				h.roots[controller] = dir
			}
		}
	}
	return h
}

// Mode tells the layout.
func (h *Hierarchy) Mode() Mode { return h.mode }

// dir is where the group at path has the files of a controller. "" when the machine lacks that controller.
func (h *Hierarchy) dir(controller, path string) string {
	root, ok := h.roots[controller]
	if h.mode == V2 {
		root, ok = h.roots[""], true
	}
	if !ok {
		return ""
	}
	return filepath.Join(root, filepath.Clean("/"+path))
}

// dirs is the group at path in each hierarchy, each once.
func (h *Hierarchy) dirs(path string) []string {
	var all []string
	for controller := range h.roots {
		all = append(all, h.dir(controller, path))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Create makes the group at path with its parents and applies the limits (nil: none). Idempotent.
//
// On version 1 it is made in the hierarchies of cpu, cpuset, memory and pids; the OCI runtime makes the others
// when it starts a container, and Remove finds them all.
func (h *Hierarchy) Create(path string, r *runtimeapi.LinuxContainerResources) error {
	if filepath.Clean("/"+path) == "/" {
		return errors.New("cannot create cgroup: the path is empty")
	}
	var err error
	if h.mode == V2 {
		err = h.createV2(path)
	} else {
		err = h.createV1(path)
	}
	if err != nil {
		return fmt.Errorf("cannot create cgroup %s: %w", path, err)
	}
	if r == nil {
		return nil
	}
	return h.Update(path, r)
}

func (h *Hierarchy) createV1(path string) error {
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if dir := h.dir(controller, path); dir != "" {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
	}
	// A version 1 cpuset begins empty and takes no process until its parent's CPUs and nodes are copied into it.
	root := h.dir("cpuset", "/")
	if root == "" {
		return nil
	}
	return eachStep(path, func(step string) error {
		dir := filepath.Join(root, step)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if own, err := read(dir, file); err != nil || own != "" {
				continue // a cgroupfs mounted with noprefix, or set already
			}
			inherited, err := read(filepath.Dir(dir), file)
			if err != nil {
				return err
			}
			if err := write(dir, file, inherited); err != nil {
				return err
			}
		}
		return nil
	})
}

// delegated are the version 2 controllers that containers' limits need.
var delegated = [...]string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}

// createV2 hands the controllers down to the group itself, not to its children: a group that did so could hold no
// process. The OCI runtime hands them on when it puts a group below.
func (h *Hierarchy) createV2(path string) error {
	root := h.dir("", "/")
	return eachStep(path, func(step string) error {
		dir := filepath.Join(root, step)
		h.delegate(filepath.Dir(dir))
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// delegate enables the controllers for the children of the group at dir. It fails where processes live in dir itself
// ("no internal processes": peapod in a container whose cgroup namespace begins there); limits are off then, Pods run.
func (h *Hierarchy) delegate(dir string) {
	available, _ := read(dir, "cgroup.controllers")
	enabled, _ := read(dir, "cgroup.subtree_control")
	has, on := strings.Fields(available), strings.Fields(enabled)
	for _, c := range delegated {
		if !slices.Contains(has, c) || slices.Contains(on, c) {
			continue
		}
		if err := write(dir, "cgroup.subtree_control", "+"+c); err != nil {
			h.log.Warn("cannot enable a cgroup controller: its limits are off", "cgroup", dir, "controller", c, "err", err)
		}
	}
}

// eachStep calls f with "/a", "/a/b", … for path "/a/b/…".
func eachStep(path string, f func(step string) error) error {
	step := ""
	for _, name := range strings.Split(strings.Trim(filepath.Clean("/"+path), "/"), "/") {
		step += "/" + name
		if err := f(step); err != nil {
			return err
		}
	}
	return nil
}

func read(dir, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b)), err
}

// write never creates the file: a missing one means that the controller is missing.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
