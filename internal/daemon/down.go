package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/agent/volume"
	"peapod.dev/peapod/internal/datastore"
	"peapod.dev/peapod/internal/engine"
)

// gracePeriodAnnotation is where the agent leaves a Pod's grace period, in seconds, as the kubelet does.
const gracePeriodAnnotation = "io.kubernetes.pod.terminationGracePeriod"

func cgroupRoot(dataDir string) string { return "/peapod-" + instanceID(dataDir) }

func engineRunDir(runDir string) string { return filepath.Join(runDir, "engine") }

func engineConfig(dataDir, runDir, runtime string, cfg Config) engine.Config {
	return engine.Config{
		Root: filepath.Join(dataDir, "engine"), RunRoot: engineRunDir(runDir),
		PodCIDR: cfg.nodeCIDR(), Bridge: "pea-" + instanceID(dataDir), CgroupParent: cgroupRoot(dataDir),
		Runtime: runtime, Log: cfg.Log,
	}
}

// ServeEngine serves the container engine alone, as a CRI runtime on a socket, until ctx ends. Its containers
// are left running; Down ends them.
func ServeEngine(ctx context.Context, cfg Config, socket string) (err error) {
	if err := cfg.complete(); err != nil {
		return err
	}
	unlock, err := datastore.Lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	undo, err := openRunDir(cfg.RunDir)
	if err != nil {
		return err
	}
	if err := cfg.remember(); err != nil {
		return errors.Join(err, undo())
	}
	eng, err := engine.New(ctx, engineConfig(cfg.DataDir, cfg.RunDir, cfg.Runtime, cfg))
	if err != nil {
		return err
	}
	return errors.Join(eng.Serve(ctx, socket), eng.Close())
}

// Down ends the daemon of a data folder if it runs, ends the Pods (their processes get their grace period),
// and removes every mount, namespace, control group, link and rule that was made for them. Images and the
// API's data stay. It is idempotent; a folder that no daemon has used is an error.
func Down(ctx context.Context, dataDir string, log *slog.Logger) error {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return err
	}
	instance, ok, err := recall(dataDir)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("cannot take peapod down: no peapod has used the data folder %s", dataDir)
	}
	unlock, err := datastore.Evict(ctx, dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	cfg := Config{PodCIDR: instance.PodCIDR, Log: log}
	config := engineConfig(dataDir, instance.RunDir, instance.Runtime, cfg)
	config.Removing = true
	eng, err := engine.New(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(stopAll(ctx, eng), eng.Destroy(ctx), removeVolumes(ctx, dataDir, log), eng.Close(), removeRunDir(instance.RunDir))
}

// stopAll ends all containers at once, each with its Pod's grace period.
func stopAll(ctx context.Context, eng *engine.Engine) error {
	list, err := eng.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range list.Containers {
		grace, err := strconv.ParseInt(c.Annotations[gracePeriodAnnotation], 10, 64)
		if err != nil {
			grace = 30
		}
		g.Go(func() error {
			_, err := eng.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: grace})
			return err
		})
	}
	return g.Wait()
}

func removeVolumes(ctx context.Context, dataDir string, log *slog.Logger) error {
	root := filepath.Join(dataDir, "pods")
	volumes, err := volume.New(volume.Config{Root: root, Log: log})
	if err != nil {
		return err
	}
	defer volumes.Close()
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, volumes.Teardown(ctx, types.UID(e.Name())))
	}
	return errors.Join(errs...)
}
