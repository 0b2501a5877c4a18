package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Config is what `peapod up` was told. Paths are made absolute by complete.
type Config struct {
	DataDir, RunDir string
	// Listen is the API server's HOST:PORT, KubeletListen the kubelet API's (its port gives way when taken).
	Listen, KubeletListen string
	NodeName              string
	NodeLabels            map[string]string
	// PodCIDR is the cluster's range of Pod addresses; each node gets a /24 of it (or all of it if it is smaller).
	PodCIDR netip.Prefix
	// EtcdServers are the endpoints of an etcd that exists; none means the embedded one.
	EtcdServers               []string
	EtcdCert, EtcdKey, EtcdCA string
	// Kubeconfig is a further path for the admin's kubeconfig.
	Kubeconfig string
	// NoAgent runs the control plane alone.
	NoAgent       bool
	LeaseDuration time.Duration
	// NodeMonitorGracePeriod is how long a node may be silent before it is lost; zero means upstream's 50 s.
	NodeMonitorGracePeriod time.Duration
	// MaxRestartPeriod is the longest back-off before a container is restarted, 1 s to 300 s.
	MaxRestartPeriod time.Duration
	// MaxPods is how many Pods the node takes; 0 means 110.
	MaxPods int64
	// LogMaxSize, in bytes, and LogMaxFiles bound the logs of each container; 0 means the kubelet's defaults, a negative
	// size no bound.
	LogMaxSize  int64
	LogMaxFiles int
	// Runtime is the OCI runtime's name or path; empty picks one that works here.
	Runtime string
	Log     *slog.Logger
}

// LongestRestartPeriod is the default, and the bound, of Config.MaxRestartPeriod, as in the kubelet's configuration.
const LongestRestartPeriod = 300 * time.Second

// Instance is what a data folder remembers of the daemon that uses it, for `peapod down` and `status`.
type Instance struct {
	RunDir  string
	PodCIDR netip.Prefix
	Runtime string
}

// instanceFile holds the Instance below the data folder.
const instanceFile = "instance.json"

// complete checks the configuration and makes it absolute.
func (c *Config) complete() error {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	var err error
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return fmt.Errorf("cannot use data folder %q: %w", c.DataDir, err)
	}
	if c.RunDir, err = filepath.Abs(c.RunDir); err != nil {
		return fmt.Errorf("cannot use run folder %q: %w", c.RunDir, err)
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("cannot find this machine's name, give one with --node-name: %w", err)
		}
		c.NodeName = strings.ToLower(strings.TrimSpace(host))
	}
	if problems := validation.IsDNS1123Subdomain(c.NodeName); len(problems) > 0 {
		return fmt.Errorf("cannot use %q as node name, give another with --node-name: %s", c.NodeName, strings.Join(problems, "; "))
	}
	for k, v := range c.NodeLabels {
		if problems := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(problems) > 0 {
			return fmt.Errorf("cannot use label %q=%q (--node-labels): %s", k, v, strings.Join(problems, "; "))
		}
	}
	if p := c.MaxRestartPeriod; p < time.Second || p > LongestRestartPeriod {
		return fmt.Errorf("cannot use %s as --max-container-restart-period: it must be between 1s and 300s", p)
	}
	if c.NodeMonitorGracePeriod < 0 {
		return fmt.Errorf("cannot use %s as --node-monitor-grace-period: it must be positive", c.NodeMonitorGracePeriod)
	}
	if !c.PodCIDR.Addr().Is4() || c.PodCIDR.Bits() > 28 {
		return fmt.Errorf("cannot use %s as --pod-cidr: an IPv4 range of /28 or larger is needed", c.PodCIDR)
	}
	c.PodCIDR = c.PodCIDR.Masked()
	if !c.NoAgent && os.Geteuid() != 0 {
		return errors.New("cannot run Pods without being root: use sudo, or --no-agent for the control plane alone")
	}
	return nil
}

// nodeCIDR is this node's share of the cluster's range.
func (c *Config) nodeCIDR() netip.Prefix {
	if c.PodCIDR.Bits() >= 24 {
		return c.PodCIDR
	}
	return netip.PrefixFrom(c.PodCIDR.Addr(), 24)
}

// instanceID tells the instances on one machine apart: names of links, rules and control groups derive from it.
func instanceID(dataDir string) string {
	sum := sha256.Sum256([]byte(dataDir))
	return hex.EncodeToString(sum[:4])
}

// remember writes the Instance into the data folder. It refuses another run folder while the one before is in use:
// what runs from there would be taken for ended.
func (c *Config) remember() error {
	before, ok, err := recall(c.DataDir)
	if err != nil { // a daemon that runs nothing can live without, and `down` will be able to
		c.Log.Warn("writing down anew what the data folder says of its daemon", "error", err)
	}
	if ok && before.RunDir != c.RunDir {
		if _, err := os.Stat(engineRunDir(before.RunDir)); err == nil {
			return fmt.Errorf("cannot use run folder %s: the Pods of data folder %s have theirs in %s; "+
				"use that, or end them first: peapod down --data-dir %s", c.RunDir, c.DataDir, before.RunDir, c.DataDir)
		}
	}
	data, err := json.Marshal(Instance{RunDir: c.RunDir, PodCIDR: c.nodeCIDR(), Runtime: c.Runtime})
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(c.DataDir, instanceFile), data); err != nil {
		return fmt.Errorf("cannot write to the data folder: %w", err)
	}
	return nil
}

// recall reads the Instance of a data folder; ok is false when no daemon has used the folder.
func recall(dataDir string) (in Instance, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(dataDir, instanceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return in, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err != nil {
		return in, false, fmt.Errorf("cannot read what the data folder %s says of its daemon: %w", dataDir, err)
	}
	return in, true, nil
}
