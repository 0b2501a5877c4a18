package ocispec

import "github.com/opencontainers/runtime-spec/specs-go"

// maskedPaths hides and write-protects what the security context says, or the kubelet's defaults when it says nothing
// (nil; an empty list is procMount Unmasked). Privileged containers see everything.
func maskedPaths(spec *specs.Spec, in *Input) error {
	if in.privileged() {
		return nil
	}
	masked, readonly := in.security().GetMaskedPaths(), in.security().GetReadonlyPaths()
	if masked == nil {
		masked = []string{
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
			"/sys/firmware",
		}
	}
	if readonly == nil {
		readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = masked, readonly
	return nil
}
