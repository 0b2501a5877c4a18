package container

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"peapod.dev/peapod/internal/engine/record"
)

// merge is what is in force after an update: what it does not set (zero) stays as the last one, or the creation, set it.
func merge(last, created, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	all := &runtimeapi.LinuxContainerResources{}
	if last == nil {
		last = created
	}
	proto.Merge(all, last)
	if len(update.GetHugepageLimits()) > 0 {
		all.HugepageLimits = nil // Merge would append
	}
	proto.Merge(all, update)
	return all
}

// updateSpec changes the limits of a container that its OCI runtime does not know yet.
func updateSpec(bundle string, r *runtimeapi.LinuxContainerResources) error {
	path := filepath.Join(bundle, "config.json")
	var spec specs.Spec
	if err := record.Read(path, &spec); err != nil {
		return err
	}
	limits := spec.Linux.Resources
	if limits.CPU == nil {
		limits.CPU = &specs.LinuxCPU{}
	}
	if limits.Memory == nil {
		limits.Memory = &specs.LinuxMemory{}
	}
	setPositive(&limits.CPU.Period, uint64(r.GetCpuPeriod()))
	setPositive(&limits.CPU.Shares, uint64(r.GetCpuShares()))
	if q := r.GetCpuQuota(); q != 0 {
		limits.CPU.Quota = &q
	}
	if m := r.GetMemoryLimitInBytes(); m != 0 {
		limits.Memory.Limit = &m
	}
	if m := r.GetMemorySwapLimitInBytes(); m != 0 {
		limits.Memory.Swap = &m
	}
	if r.GetCpusetCpus() != "" {
		limits.CPU.Cpus = r.GetCpusetCpus()
	}
	if r.GetCpusetMems() != "" {
		limits.CPU.Mems = r.GetCpusetMems()
	}
	data, err := json.Marshal(&spec)
	if err != nil {
		return err
	}
	return record.WriteFile(path, data, os.FileMode(0o600))
}

func setPositive(to **uint64, v uint64) {
	if v != 0 {
		*to = &v
	}
}
