package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"peapod.dev/peapod/test/instance"
)

const (
	// settle is how long the daemon is left alone before its memory is read.
	settle = 10 * time.Second
	// trap is how long a Pod's shell is given to set its trap: until then, as process 1, it ignores TERM.
	trap = 50 * time.Millisecond
)

// Names of the figures that podman is measured by too.
const (
	createReady = "create to Ready, one busybox Pod"
	deleteGone  = "delete to gone, the process ends on TERM"
)

func measurePeapod(ctx context.Context, o options, dir, archive string) ([]figure, error) {
	boot := figure{Name: "boot to node Ready, a new data folder", Unit: "ms", Goal: "≤ 1000 (800)"}
	var rest []figure
	for n := range o.boots {
		last := n == o.boots-1
		took, figures, err := bootOnce(ctx, o, filepath.Join(dir, fmt.Sprint(n)), archive, last)
		if err != nil {
			return nil, err
		}
		boot.Samples = append(boot.Samples, milliseconds(took))
		rest = figures
	}
	return append([]figure{boot}, rest...), nil
}

// bootOnce brings up a peapod in a new folder, measures it in full if it is to, and takes it down.
func bootOnce(ctx context.Context, o options, dir, archive string, measure bool) (took time.Duration, figures []figure, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	pod, err := instance.New(o.binary, dir, 40)
	if err != nil {
		return 0, nil, err
	}
	pod.Extra = []string{"--max-pods", "250"} // as many as the instance has addresses for
	if err := pod.Load(ctx, archive); err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, pod.Down(context.WithoutCancel(ctx))) }()
	if _, took, err = pod.Up(ctx); err != nil || !measure {
		return took, nil, err
	}
	if figures, err = measureInstance(ctx, o, pod); err != nil {
		return 0, nil, fmt.Errorf("%w\n%s", err, pod.Log())
	}
	return took, figures, nil
}

// measureInstance measures a peapod that has just come up: first at rest, then Pods one by one, then many.
func measureInstance(ctx context.Context, o options, pod *instance.Instance) ([]figure, error) {
	config, err := clientcmd.BuildConfigFromFlags("", pod.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("cannot read kubeconfig: %w", err)
	}
	config.QPS = -1 // the client's own limit is not what is measured
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cannot make a client: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := openStage(ctx, client)
	if err != nil {
		return nil, err
	}

	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	idle, err := measureMemory(pod.PID(), pod.Dir)
	if err != nil {
		return nil, err
	}
	bare := figure{Name: createReady, Unit: "ms", Goal: "≤ 80 (45)"}
	tokens := figure{Name: createReady + ", with a service account token", Unit: "ms", Goal: "≤ 80 (45)"}
	gone := figure{Name: deleteGone, Unit: "ms", Goal: "≤ 80 (40)"}
	for n := range o.rounds {
		for _, f := range []*figure{&bare, &tokens} {
			name := fmt.Sprintf("one-%d-%t", n, f == &tokens)
			took, err := s.createReady(ctx, task(name, f == &tokens))
			if err != nil {
				return nil, err
			}
			f.Samples = append(f.Samples, milliseconds(took))
			if err := pause(ctx, trap); err != nil {
				return nil, err
			}
			if took, err = s.deleteGone(ctx, name); err != nil {
				return nil, err
			}
			gone.Samples = append(gone.Samples, milliseconds(took))
		}
	}

	burst := figure{Name: fmt.Sprintf("%d Pods created at once, all Ready", o.burst), Unit: "ms", Goal: "≤ 1600 (800)"}
	took, err := s.createReadyAll(ctx, o.burst, withToken)
	if err != nil {
		return nil, err
	}
	burst.Samples = []float64{milliseconds(took)}
	if err := s.deleteGoneAll(ctx, o.burst); err != nil {
		return nil, err
	}

	// What one Pod costs is read between two settled states of the same daemon, both after the work above.
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	before, err := measureMemory(pod.PID(), pod.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := s.createReadyAll(ctx, o.density, withToken); err != nil {
		return nil, err
	}
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	after, err := measureMemory(pod.PID(), pod.Dir)
	if err != nil {
		return nil, err
	}
	if err := s.deleteGoneAll(ctx, o.density); err != nil {
		return nil, err
	}
	changes, err := measureChanges(ctx, s, o.rounds)
	if err != nil {
		return nil, err
	}
	probes, err := measureProbes(ctx, s, pod.PID(), o.probed)
	if err != nil {
		return nil, fmt.Errorf("cannot measure probes: %w", err)
	}
	each := func(before, after float64) []float64 { return []float64{(after - before) / float64(o.density)} }
	return slices.Concat([]figure{bare, tokens, burst, gone}, changes, probes, []figure{
		{Name: "resident memory, idle, all processes", Unit: "MB", Goal: "≤ 140 (110)", Samples: []float64{idle.RSS}},
		{Name: "proportional memory, idle", Unit: "MB", Samples: []float64{idle.PSS}},
		{Name: "anonymous memory, idle", Unit: "MB", Goal: "(60)", Samples: []float64{idle.Anonymous}},
		{Name: "resident memory, each further Pod", Unit: "MB", Goal: "≤ 2.5 (2)", Samples: each(before.RSS, after.RSS)},
		{Name: "proportional memory, each further Pod", Unit: "MB", Samples: each(before.PSS, after.PSS)},
	}), nil
}

// pause waits, as nothing tells when a garbage collector has come to rest.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
