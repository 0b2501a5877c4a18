package ocispec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are containerd's (and Docker's).
var defaultCapabilities = [...]string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities applies add and drop to the default set. "ALL" comes first in both lists wherever it stands, so that
// `drop: [ALL], add: [X]` leaves X. What this machine cannot give is left out. The inheritable set stays empty
// (CVE-2022-24769), and with it the ambient one.
func capabilities(spec *specs.Spec, in *Input) error {
	add := canonical(in.security().GetCapabilities().GetAddCapabilities())
	drop := canonical(in.security().GetCapabilities().GetDropCapabilities())
	set := slices.Clone(defaultCapabilities[:])
	switch {
	case in.privileged():
		set, add, drop = slices.Clone(in.Machine.Capabilities), nil, nil
	case slices.Contains(drop, "ALL"):
		set = nil
	case slices.Contains(add, "ALL"):
		set = slices.Clone(in.Machine.Capabilities)
	}
	for _, c := range add {
		if c != "ALL" && !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	set = slices.DeleteFunc(set, func(c string) bool {
		if slices.Contains(drop, c) {
			return true
		}
		if !slices.Contains(in.Machine.Capabilities, c) {
			in.Log.Info("a capability cannot be given on this machine", "capability", c)
			return true
		}
		return false
	})
	slices.Sort(set)
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	return nil
}

// canonical spells "net_admin" as "CAP_NET_ADMIN"; "all" as "ALL".
func canonical(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.ToUpper(n)
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		out = append(out, n)
	}
	return out
}
