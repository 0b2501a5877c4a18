package agent

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/version"

	"peapod.dev/peapod/internal/agent/admit"
)

// machine are the facts about this machine that Pods depend on; they do not change while the agent runs.
type machine struct {
	cgroupV2  bool
	admission admit.Options
}

func readMachine() machine {
	var m machine
	var fs unix.Statfs_t
	m.cgroupV2 = unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
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
