package ocispec

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// devices lets the container use the nodes that every container has (the runtime's own list) and those that it names;
// a privileged one all of the host's.
func devices(spec *specs.Spec, in *Input) error {
	if len(in.Container.GetCDIDevices()) > 0 {
		return errors.New("CDI devices are not supported")
	}
	list := in.Machine.Devices
	if list == nil {
		list = HostDevices
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: in.privileged(), Access: "rwm"}}
	if in.privileged() {
		all, err := list("/dev")
		if err != nil {
			return fmt.Errorf("cannot list the host's devices: %w", err)
		}
		spec.Linux.Devices = all
	}
	for _, d := range in.Container.GetDevices() {
		found, err := list(d.GetHostPath())
		if err != nil {
			return fmt.Errorf("cannot add device %q: %w", d.GetHostPath(), err)
		}
		if len(found) == 0 {
			return fmt.Errorf("cannot add device %q: not a device node", d.GetHostPath())
		}
		for _, node := range found {
			if d.GetContainerPath() != "" { // a folder's nodes keep their names below it
				node.Path = filepath.Join(d.GetContainerPath(), strings.TrimPrefix(node.Path, filepath.Clean(d.GetHostPath())))
			}
			spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, func(o specs.LinuxDevice) bool { return o.Path == node.Path })
			spec.Linux.Devices = append(spec.Linux.Devices, node)
			rules = append(rules, specs.LinuxDeviceCgroup{
				Allow: true, Type: node.Type, Major: &node.Major, Minor: &node.Minor, Access: d.GetPermissions(),
			})
		}
	}
	spec.Linux.Resources.Devices = rules
	return nil
}
