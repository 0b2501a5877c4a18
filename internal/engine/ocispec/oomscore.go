package ocispec

import "github.com/opencontainers/runtime-spec/specs-go"

// oomScore sets the score that the kubelet's quality of service asks for. Without CAP_SYS_RESOURCE it can only be
// raised: the container gets this process' own then, instead of failing.
func oomScore(spec *specs.Spec, in *Input) error {
	want := int(in.Container.GetLinux().GetResources().GetOomScoreAdj())
	score := max(want, in.Machine.MinOOMScoreAdj)
	if score != want {
		in.Log.Debug("the OOM score cannot be lowered without CAP_SYS_RESOURCE", "wanted", want, "set", score)
	}
	spec.Process.OOMScoreAdj = &score
	return nil
}
