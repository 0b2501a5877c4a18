package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkPod reports the median time of each step of a Pod's life, in milliseconds.
func BenchmarkPod(b *testing.B) {
	s := newSetup(b)
	steps := map[string][]time.Duration{}
	var mu sync.Mutex
	pod := func(n int) {
		begin := time.Now()
		step := func(name string, err error) {
			if err != nil {
				b.Fatal(name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			steps[name] = append(steps[name], time.Since(begin))
			begin = time.Now()
		}
		ctx := context.Background()
		config := &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: fmt.Sprint("p", n), Namespace: "bench", Uid: fmt.Sprint(n)},
			Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			}},
		}
		sandbox, err := s.engine.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		step("1run-sandbox", err)
		c, err := s.engine.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
			PodSandboxId: sandbox.GetPodSandboxId(), SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
				Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox},
				Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"},
			},
		})
		step("2create", err)
		_, err = s.engine.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.GetContainerId()})
		step("3start", err)
		_, err = s.engine.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.GetContainerId(), Cmd: []string{"true"}})
		step("4exec", err)
		_, err = s.engine.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.GetContainerId(), Timeout: 10})
		step("5stop", err)
		_, err = s.engine.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.GetContainerId()})
		step("6remove", err)
		_, err = s.engine.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.GetPodSandboxId()})
		step("7remove-sandbox", err)
	}
	pod(-1)
	clear(steps)
	b.ResetTimer()
	for n := range b.N {
		pod(n)
	}
	b.StopTimer()
	for name, all := range steps {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-ms")
	}
}
