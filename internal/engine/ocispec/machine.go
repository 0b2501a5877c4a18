package ocispec

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"peapod.dev/peapod/internal/engine/cgroup"
)

// Machine are the facts of the host that rules depend on.
type Machine struct {
	Capabilities []string // what this process may give, "CAP_…", sorted
	// MinOOMScoreAdj is the lowest that this process may give: its own without CAP_SYS_RESOURCE.
	MinOOMScoreAdj int
	Hugetlb        bool // the cgroup controller is there
	Seccomp        bool
	// AppArmor are the names of the loaded profiles; nil: AppArmor is off.
	AppArmor map[string]bool
	// Devices lists the device at a host path, or all below it when it is a folder. nil: HostDevices.
	Devices func(path string) ([]specs.LinuxDevice, error)
}

// everything is a machine on which nothing is missing.
func everything() *Machine {
	m := &Machine{MinOOMScoreAdj: -1000, Hugetlb: true, Seccomp: true}
	for _, c := range capability.ListKnown() {
		m.Capabilities = append(m.Capabilities, capName(c))
	}
	slices.Sort(m.Capabilities)
	return m
}

func capName(c capability.Cap) string { return "CAP_" + strings.ToUpper(c.String()) }

// DetectMachine gathers the facts of this one.
func DetectMachine() (*Machine, error) {
	caps, err := capability.NewPid2(0)
	if err == nil {
		err = caps.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read this process' capabilities: %w", err)
	}
	m := &Machine{MinOOMScoreAdj: -1000}
	for _, c := range capability.ListKnown() {
		if caps.Get(capability.PERMITTED, c) && caps.Get(capability.BOUNDING, c) {
			m.Capabilities = append(m.Capabilities, capName(c))
		}
	}
	slices.Sort(m.Capabilities)
	if !slices.Contains(m.Capabilities, "CAP_SYS_RESOURCE") {
		b, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return nil, fmt.Errorf("cannot read this process' OOM score: %w", err)
		}
		if m.MinOOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return nil, fmt.Errorf("cannot read this process' OOM score: %w", err)
		}
	}
	m.Hugetlb = hasHugetlb()
	// EFAULT says that filters are known, and that this one is not in memory.
	m.Seccomp = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0) == unix.EFAULT
	m.AppArmor = appArmorProfiles()
	return m, nil
}

func hasHugetlb() bool {
	if cgroup.Detect() != cgroup.V2 {
		_, err := os.Stat("/sys/fs/cgroup/hugetlb")
		return err == nil
	}
	b, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return slices.Contains(strings.Fields(string(b)), "hugetlb")
}

// appArmorProfiles reads lines "name (mode)".
func appArmorProfiles() map[string]bool {
	if b, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); !strings.HasPrefix(string(b), "Y") {
		return nil
	}
	loaded := map[string]bool{}
	b, _ := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	for line := range strings.Lines(string(b)) {
		if i := strings.LastIndex(line, " ("); i > 0 {
			loaded[line[:i]] = true
		}
	}
	return loaded
}

// HostDevices lists the device at a path of this machine, or all below it when it is a folder. Links are followed for
// the path itself only, and its nodes are named below the path that was given. Folders of other filesystems that the runtime mounts for itself are left out.
func HostDevices(path string) ([]specs.LinuxDevice, error) {
	given := filepath.Clean(path)
	path, err := filepath.EvalSymlinks(given)
	if err != nil {
		return nil, err
	}
	var all []specs.LinuxDevice
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && p != path: // unplugged meanwhile
			return nil
		case err != nil:
			return err
		case d.IsDir():
			switch p {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/hugepages":
				return fs.SkipDir
			}
			return nil
		case p == "/dev/console": // the runtime makes the container's own
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return nil
		}
		kind := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b"}[st.Mode&unix.S_IFMT]
		if kind == "" {
			return nil
		}
		mode := fs.FileMode(st.Mode & 0o7777)
		all = append(all, specs.LinuxDevice{
			Path: given + strings.TrimPrefix(p, path), Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		})
		return nil
	})
	return all, err
}
