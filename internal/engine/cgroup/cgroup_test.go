package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/osthread"
)

func TestSettings(t *testing.T) {
	r := &runtimeapi.LinuxContainerResources{
		CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000,
		MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 80 << 20,
		CpusetCpus: "0-1", HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}, {PageSize: "../x"}},
		Unified: map[string]string{"pids.max": "7", "memory.oom.group": "1", "../evil": "1"},
	}
	text := func(all []setting) (out []string) {
		for _, s := range all {
			out = append(out, s.file+"="+s.value)
		}
		return out
	}
	for _, c := range []struct {
		name string
		got  []setting
		want []string
	}{
		{"v1", settingsV1(r), []string{
			"cpu.shares=512", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000", "memory.limit_in_bytes=67108864",
			"memory.memsw.limit_in_bytes=83886080", "cpuset.cpus=0-1", "hugetlb.2MB.limit_in_bytes=0", "pids.max=7",
		}},
		{"v2", settingsV2(r), []string{
			"cpu.weight=59", "cpu.max=50000 100000", "memory.max=67108864", "memory.swap.max=16777216", "cpuset.cpus=0-1",
			"hugetlb.2MB.max=0", "memory.oom.group=1", "pids.max=7",
		}},
		{"v2 without limits", settingsV2(&runtimeapi.LinuxContainerResources{CpuQuota: -1, MemoryLimitInBytes: -1}), []string{
			"cpu.max=max 100000", "memory.max=max",
		}},
		{"nothing set", append(settingsV1(&runtimeapi.LinuxContainerResources{}), settingsV2(&runtimeapi.LinuxContainerResources{})...), nil},
	} {
		if got := text(c.got); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

// files lays out a pretended cgroupfs.
func files(t *testing.T, dir string, contents map[string]string) {
	t.Helper()
	for name, text := range contents {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStats(t *testing.T) {
	v1, v2 := t.TempDir(), t.TempDir()
	files(t, v1, map[string]string{
		"cpu,cpuacct/p/cpuacct.usage":     "5000",
		"memory/p/memory.usage_in_bytes":  "1000",
		"memory/p/memory.stat":            "rss 1\ntotal_rss 300\ntotal_inactive_file 400\ntotal_pgfault 8\ntotal_pgmajfault 2",
		"memory/p/memory.oom_control":     "oom_kill_disable 0\nunder_oom 0\noom_kill 0",
		"memory/p/sub/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
		"pids/p/pids.current":             "3",
	})
	files(t, v2, map[string]string{
		"p/cpu.stat":       "usage_usec 5\nuser_usec 1",
		"p/memory.current": "1000",
		"p/memory.stat":    "anon 300\ninactive_file 400\npgfault 8\npgmajfault 2",
		"p/memory.events":  "low 0\noom 1\noom_kill 1\noom_group_kill 1",
		"p/pids.current":   "3",
	})
	want := Stats{CPUUsageNanos: 5000, MemoryUsage: 1000, MemoryWorkingSet: 600, MemoryRSS: 300, PageFaults: 8, MajorPageFaults: 2, Pids: 3}
	for _, h := range []*Hierarchy{New(Config{Root: v1, Mode: V1}), New(Config{Root: v2, Mode: V2})} {
		if got, err := h.Stats("/p"); err != nil || got != want {
			t.Errorf("%v: Stats = %+v, %v; want %+v", h.Mode(), got, err, want)
		}
		if killed, err := h.OOMKilled("/p"); err != nil || !killed {
			t.Errorf("%v: OOMKilled = %v, %v", h.Mode(), killed, err)
		}
		if killed, err := h.OOMKilled("/gone"); err != nil || killed {
			t.Errorf("%v: OOMKilled of a group that is gone = %v, %v", h.Mode(), killed, err)
		}
		if _, err := h.Stats("/gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: Stats of a group that is gone: %v", h.Mode(), err)
		}
	}
}

func TestUpdateWithoutController(t *testing.T) {
	for _, mode := range []Mode{V1, V2} {
		root := t.TempDir()
		files(t, root, map[string]string{"cpu/p/cpu.shares": "", "p/cpu.weight": ""})
		var log bytes.Buffer
		h := New(Config{Root: root, Mode: mode, Log: slog.New(slog.NewTextHandler(&log, nil))})
		limits := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 20}
		if err := h.Update("/p", limits); err != nil || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("%v: Update without the memory controller: %v, log %q", mode, err, &log)
		}
		if err := h.Update("/gone", limits); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v: Update of a group that is gone: %v", mode, err)
		}
	}
}

func TestRootIsRefused(t *testing.T) {
	h := New(Config{Root: t.TempDir(), Mode: V2})
	for _, path := range []string{"", "/", "/..", "."} {
		if h.Create(path, nil) == nil || h.Remove(t.Context(), path) == nil {
			t.Errorf("path %q was taken", path)
		}
	}
}

// trees are those of this machine that the tests with real groups run on: a hybrid machine has both versions.
func trees(t *testing.T) []*Hierarchy {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	all := []*Hierarchy{New(Config{})}
	if all[0].Mode() == Hybrid {
		all = append(all, New(Config{Root: "/sys/fs/cgroup/unified", Mode: V2}))
	}
	return all
}

func TestLife(t *testing.T) {
	for _, h := range trees(t) {
		t.Run(h.Mode().String(), func(t *testing.T) {
			parent := fmt.Sprintf("/peapod-test-%d", os.Getpid())
			pod := parent + "/pod"
			t.Cleanup(func() {
				if err := h.Remove(context.Background(), parent); err != nil {
					t.Error(err)
				}
			})
			limits := &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 32 << 20}
			for range 2 { // the second finds everything there
				if err := h.Create(pod, limits); err != nil {
					t.Fatal(err)
				}
			}
			if h.Mode() != V2 {
				if got, _ := read(h.dir("memory", pod), "memory.limit_in_bytes"); got != fmt.Sprint(32<<20) {
					t.Errorf("memory limit is %s", got)
				}
			}

			// Memory and swap bound each other; both grow and shrink in one update.
			for _, mb := range []int64{32, 64, 16} {
				r := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: mb << 20, MemorySwapLimitInBytes: mb << 20}
				if err := h.Update(pod, r); err != nil {
					t.Errorf("with %d MiB: %v", mb, err)
				}
			}

			// A shell that ignores TERM, with a child, in a group below.
			if err := h.Create(pod+"/c", nil); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", `trap "" TERM; read go; sleep 1000 & wait`)
			stdin, _ := cmd.StdinPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for _, dir := range h.dirs(pod + "/c") {
				if err := write(dir, "cgroup.procs", fmt.Sprint(cmd.Process.Pid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			fmt.Fprintln(stdin)
			deadline := time.Now().Add(10 * time.Second)
			for pids, _ := h.Procs(pod); len(pids) < 2; pids, _ = h.Procs(pod) {
				if time.Now().After(deadline) {
					t.Fatalf("processes %v", pids)
				}
				time.Sleep(time.Millisecond)
			}
			if st, err := h.Stats(pod); err != nil || h.Mode() != V2 && st.Pids != 2 {
				t.Errorf("Stats = %+v, %v", st, err)
			}

			begun := time.Now()
			if err := h.Remove(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			t.Logf("removed in %v", time.Since(begun))
			if state, _ := cmd.Process.Wait(); state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("ended with %v", state)
			}
			if !h.gone(pod) {
				t.Error("the group is still there")
			}
			if err := h.Remove(t.Context(), pod); err != nil {
				t.Errorf("removing again: %v", err)
			}
		})
	}
}

// On version 1 a thread of this process may be in a group: it is not this process that Remove ends, and a group with
// others in it is not unused.
func TestRemoveSparesSelf(t *testing.T) {
	h := trees(t)[0]
	if h.Mode() == V2 {
		t.Skip("threads stay together on version 2")
	}
	path := fmt.Sprintf("/peapod-test-self-%d", os.Getpid())
	t.Cleanup(func() { _ = h.Remove(context.Background(), path) })
	if err := h.Create(path+"/below", nil); err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan error), make(chan struct{})
	osthread.Go(func() {
		entered <- write(h.dir("pids", path+"/below"), "tasks", fmt.Sprint(unix.Gettid()))
		<-leave
	})
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	if err := h.Kill(path); err != nil {
		t.Fatal(err)
	}
	if err := h.RemoveUnused(t.Context(), path); err != nil || h.gone(path) {
		t.Errorf("a group with another below was removed, or %v", err)
	}
	close(leave)
	for _, p := range []string{path + "/below", path} {
		if err := h.RemoveUnused(t.Context(), p); err != nil || !h.gone(p) {
			t.Errorf("%s is left: %v", p, err)
		}
	}
}

func TestOOMKilled(t *testing.T) {
	h := trees(t)[0]
	path := fmt.Sprintf("/peapod-test-oom-%d", os.Getpid())
	t.Cleanup(func() { _ = h.Remove(context.Background(), path) })
	if err := h.Create(path, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	if killed, err := h.OOMKilled(path); killed || err != nil {
		t.Fatalf("OOMKilled = %v, %v before anything ran", killed, err)
	}
	// tail keeps the last line, which has no end here.
	cmd := exec.Command("sh", "-c", `read go; tail /dev/zero`)
	stdin, _ := cmd.StdinPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := write(h.dir("memory", path), "cgroup.procs", fmt.Sprint(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin)
	_ = cmd.Wait()
	if killed, err := h.OOMKilled(path); !killed || err != nil {
		t.Errorf("OOMKilled = %v, %v", killed, err)
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	h, path := New(Config{}), fmt.Sprintf("/peapod-test-bench-%d", os.Getpid())
	for b.Loop() {
		if err := h.Create(path, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, CpuShares: 100}); err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if err := write(h.dir("pids", path), "cgroup.procs", fmt.Sprint(cmd.Process.Pid)); err != nil {
			b.Fatal(err)
		}
		if err := h.Remove(b.Context(), path); err != nil {
			b.Fatal(err)
		}
		_ = cmd.Wait()
	}
}
