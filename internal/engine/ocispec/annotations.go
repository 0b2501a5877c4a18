package ocispec

import "github.com/opencontainers/runtime-spec/specs-go"

// annotations tell sandboxing runtimes (Kata, gVisor) what the container belongs to, under the names that containerd
// gave them. The Pod's own annotations stay out: runtimes take orders from some (run.oci.*), which are not the user's to give.
func annotations(spec *specs.Spec, in *Input) error {
	const prefix = "io.kubernetes.cri."
	pod := in.Sandbox.GetMetadata()
	spec.Annotations = map[string]string{
		prefix + "container-type":    "container",
		prefix + "container-name":    in.Container.GetMetadata().GetName(),
		prefix + "image-name":        in.Container.GetImage().GetImage(),
		prefix + "sandbox-id":        in.SandboxID,
		prefix + "sandbox-name":      pod.GetName(),
		prefix + "sandbox-namespace": pod.GetNamespace(),
		prefix + "sandbox-uid":       pod.GetUid(),
	}
	return nil
}
