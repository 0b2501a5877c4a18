package ocispec

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// environment lists the variables: engine's defaults, then the image's, then the container's. The last one of a name
// wins and takes the first one's place.
func environment(spec *specs.Spec, in *Input) error {
	var env []string
	place := map[string]int{}
	set := func(name, value string) {
		if i, ok := place[name]; ok {
			env[i] = name + "=" + value
			return
		}
		place[name] = len(env)
		env = append(env, name+"="+value)
	}
	set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if in.Container.GetTty() {
		set("TERM", "xterm")
	}
	set("HOSTNAME", in.Hostname)
	for _, e := range in.Image.Env {
		if name, value, ok := strings.Cut(e, "="); ok {
			set(name, value)
		}
	}
	for _, e := range in.Container.GetEnvs() {
		set(e.GetKey(), string(e.GetValue()))
	}
	spec.Process.Env = env
	return nil
}
