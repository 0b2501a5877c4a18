package agent

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/version"

	"peapod.dev/peapod/internal/agent/admit"
)

const cgroupTree = "/sys/fs/cgroup"

// machine are the facts about this machine that Pods depend on; they do not change while the agent runs.
type machine struct {
	cgroupV2  bool
	admission admit.Options
}

func readMachine() machine {
	var m machine
	var fs unix.Statfs_t
	m.cgroupV2 = unix.Statfs(cgroupTree, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		if v, err := version.ParseGeneric(unix.ByteSliceToString(uts.Release[:])); err == nil {
			m.admission.Kernel = v
		}
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	m.admission.AppArmor = err == nil && strings.HasPrefix(string(enabled), "Y")
	return m
}

// swapAccounting tells whether the kernel can limit the swap of containers. tree is where the control groups are mounted,
// root the group that all Pods are below. On version 2 it is asked rather than the daemon's own group: that may be the
// tree's root, which has no limits.
func swapAccounting(tree, root string, cgroupV2 bool) bool {
	file := filepath.Join(tree, root, "memory.swap.max")
	if !cgroupV2 {
		file = filepath.Join(tree, "memory", "memory.memsw.limit_in_bytes")
	}
	_, err := os.Stat(file)
	return err == nil
}
