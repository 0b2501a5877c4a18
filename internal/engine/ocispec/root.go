package ocispec

import "github.com/opencontainers/runtime-spec/specs-go"

// root names the root filesystem.
func root(spec *specs.Spec, in *Input) error {
	spec.Root = &specs.Root{Path: in.Rootfs, Readonly: in.security().GetReadonlyRootfs()}
	return nil
}
