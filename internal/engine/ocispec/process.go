package ocispec

import (
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// process decides what runs, where, and as whom.
//
// The container's command replaces the image's entrypoint and with it the image's arguments; the container's args
// replace the image's arguments alone (kubernetes.io/docs: "Define a Command and Arguments for a Container").
func process(spec *specs.Spec, in *Input) error {
	command, args := in.Container.GetCommand(), in.Container.GetArgs()
	if len(command) == 0 {
		command = in.Image.Entrypoint
		if len(args) == 0 {
			args = in.Image.Cmd
		}
	}
	p := spec.Process
	p.Args = append(append([]string{}, command...), args...)
	if len(p.Args) == 0 {
		return ErrNoCommand
	}
	p.Cwd = in.Container.GetWorkingDir()
	if p.Cwd == "" {
		p.Cwd = in.Image.WorkingDir
	}
	p.Cwd = filepath.Join("/", p.Cwd)
	p.Terminal = in.Container.GetTty()
	p.NoNewPrivileges = in.security().GetNoNewPrivs()
	umask := uint32(0o022) // whatever the daemon's own is
	p.User = specs.User{
		UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.AdditionalGids, Umask: &umask,
	}
	return nil
}
