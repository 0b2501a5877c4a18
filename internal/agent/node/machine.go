package node

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// machine holds facts that stay true as long as the machine runs. Sizes are in bytes.
type machine struct {
	machineID, systemUUID, bootID string
	kernel, osImage, os, arch     string
	cpus, memory, swap            int64
	hugepages                     map[int64]int64 // page size → total of all pages
}

func readMachine(root string) (machine, error) {
	m := machine{os: runtime.GOOS, arch: runtime.GOARCH, cpus: int64(runtime.NumCPU()), osImage: "Unknown"}
	info, err := meminfo(root)
	if err != nil {
		return machine{}, err
	}
	m.memory, m.swap = info["MemTotal"], info["SwapTotal"]
	m.kernel = firstOf(root, "proc/sys/kernel/osrelease")
	m.bootID = firstOf(root, "proc/sys/kernel/random/boot_id")
	m.machineID = firstOf(root, "etc/machine-id", "var/lib/dbus/machine-id")
	m.systemUUID = firstOf(root, "sys/class/dmi/id/product_uuid", "proc/device-tree/system-id", "proc/device-tree/vm,uuid", "etc/machine-id")
	for _, release := range []string{"etc/os-release", "usr/lib/os-release"} {
		if name := prettyName(filepath.Join(root, release)); name != "" {
			m.osImage = name
			break
		}
	}
	m.hugepages = hugepages(root)
	return m, nil
}

// firstOf returns the trimmed content of the first of the files that can be read and is not empty.
func firstOf(root string, files ...string) string {
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(root, f))
		if s := strings.Trim(string(b), " \n\x00"); err == nil && s != "" {
			return s
		}
	}
	return ""
}

func prettyName(file string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// meminfo reads /proc/meminfo; values are in bytes.
func meminfo(root string) (map[string]int64, error) {
	f, err := os.Open(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info := map[string]int64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[2] == "kB" {
			if kb, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				info[strings.TrimSuffix(fields[0], ":")] = kb << 10
			}
		}
	}
	if info["MemTotal"] == 0 {
		return nil, fmt.Errorf("no MemTotal in %s", f.Name())
	}
	return info, lines.Err()
}

func memoryAvailable(root string) (int64, error) {
	info, err := meminfo(root)
	return info["MemAvailable"], err
}

func hugepages(root string) map[int64]int64 {
	found := map[int64]int64{}
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/kernel/mm/hugepages/hugepages-*kB"))
	for _, dir := range dirs {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), "hugepages-"), "kB"), 10, 64)
		pages, err2 := strconv.ParseInt(firstOf(dir, "nr_hugepages"), 10, 64)
		if err == nil && err2 == nil {
			found[kb<<10] = pages * kb << 10
		}
	}
	return found
}

// disk is the state of a file system; sizes are in bytes.
type disk struct{ size, free, inodes, freeInodes int64 }

func statDisk(path string) (disk, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return disk{}, fmt.Errorf("cannot get the size of %s: %w", path, err)
	}
	return disk{size: int64(s.Blocks) * s.Bsize, free: int64(s.Bavail) * s.Bsize, inodes: int64(s.Files), freeInodes: int64(s.Ffree)}, nil
}

// short reports whether less is left than must be. Some file systems do not count inodes.
func (d disk) short() bool {
	return d.free < d.size/100*minDiskPercent || d.inodes > 0 && d.freeInodes < d.inodes/100*minInodePercent
}

// ChooseIP returns the address under which others reach this machine, as far as it can tell: that of
// the interface with the default route, else the first that is not a loopback, else 127.0.0.1.
func ChooseIP() net.IP {
	if ip, err := utilnet.ChooseHostInterface(); err == nil {
		return ip
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ipNet, ok := a.(*net.IPNet); ok && ipNet.IP.IsGlobalUnicast() {
			return ipNet.IP
		}
	}
	return net.IPv4(127, 0, 0, 1)
}
