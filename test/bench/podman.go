package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

var errNoPodman = errors.New("podman is not installed")

// podman is a container storage of its own in dir, and the program.
type podman struct{ path, dir string }

func (p podman) run(ctx context.Context, args ...string) error {
	global := []string{
		"--root", filepath.Join(p.dir, "storage"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"),
		"--cgroup-manager", "cgroupfs", "--events-backend", "file",
	}
	if hybrid() {
		global = append(global, "--runtime", "runc") // its crun refuses a hybrid hierarchy
	}
	cmd := exec.CommandContext(ctx, p.path, append(global, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(p.dir, "containers.conf"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot run podman %v: %w: %s", args, err, out)
	}
	return nil
}

// hybrid tells whether the machine has a version 2 tree beside those of version 1.
func hybrid() bool {
	_, err := os.Stat("/sys/fs/cgroup/unified")
	return err == nil
}

// limits keeps podman from raising limits, which a machine without CAP_SYS_RESOURCE refuses.
const limits = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n"

func (p podman) configure() error {
	err := os.MkdirAll(p.dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir, "containers.conf"), []byte(limits), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot configure podman: %w", err)
	}
	return nil
}

// measurePodman runs the same Pod through `podman kube play`, which returns when the containers run, and
// `podman kube down`. The result is by the names of peapod's figures.
func measurePodman(ctx context.Context, o options, dir, archive string) (samples map[string][]float64, err error) {
	path, err := exec.LookPath("podman")
	if err != nil {
		return nil, errNoPodman
	}
	if _, err := exec.LookPath("runc"); err != nil && hybrid() {
		return nil, fmt.Errorf("cannot run podman on this machine: %w", err) // it could not even clean up after itself
	}
	p := podman{path, dir}
	if err := p.configure(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.run(context.WithoutCancel(ctx), "system", "reset", "--force")) }()
	if err := p.run(ctx, "load", "--quiet", "--input", archive); err != nil {
		return nil, err
	}
	samples = map[string][]float64{}
	for n := range o.rounds {
		pod := task(fmt.Sprintf("one-%d", n), false)
		pod.APIVersion, pod.Kind = "v1", "Pod"
		text, err := yaml.Marshal(pod)
		if err != nil {
			return nil, fmt.Errorf("cannot write manifest: %w", err)
		}
		manifest := filepath.Join(dir, "pod.yaml")
		if err := os.WriteFile(manifest, text, 0o600); err != nil {
			return nil, fmt.Errorf("cannot write manifest: %w", err)
		}
		for _, step := range []struct{ verb, name string }{{"play", createReady}, {"down", deleteGone}} {
			begin := time.Now()
			if err := p.run(ctx, "kube", step.verb, manifest); err != nil {
				return nil, err
			}
			samples[step.name] = append(samples[step.name], milliseconds(time.Since(begin)))
		}
	}
	return samples, nil
}
