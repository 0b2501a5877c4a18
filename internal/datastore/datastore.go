// Package datastore provides the etcd that holds the API server's state: one that is embedded in this process, or the
// endpoints of a cluster that exists already.
//
// Invariants: the embedded etcd is reachable only through a unix socket of mode 0600 in a folder of mode 0700, never
// over TCP, and has no peer listener at all; a data folder has at most one Store at a time, in any process; Close
// returns after the last write is on disk and the lock is released.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/apiserver/pkg/storage/storagebackend"
)

// Config says where the state lives.
type Config struct {
	// Dir is the data folder of the whole daemon. It is created if missing, and locked; etcd's files are in Dir/etcd.
	Dir string
	// RunDir is the run folder of the whole daemon, the socket of the embedded etcd in it. It is created if missing, and locked.
	RunDir string
	// Servers are the client URLs of an etcd that exists. When set, none is embedded.
	Servers []string
	// CertFile, KeyFile and CAFile are for TLS towards Servers; all may be empty.
	CertFile, KeyFile, CAFile string
	// Log defaults to slog.Default().
	Log *slog.Logger
}

// Limits of the embedded etcd. Raft's timing is that of a cluster with one member on one machine: no network has to be
// tolerated, so an election may take a tenth of a second instead of one or two.
const (
	tickMs     = 10
	electionMs = 100

	// quotaBytes is etcd's own default, spelled out because reaching it makes the store read-only.
	quotaBytes = 2 << 30

	// Raft keeps snapshotCount+catchUpEntries entries in memory. Catching up is for slow followers: there are none.
	snapshotCount  = 1000
	catchUpEntries = 10

	startTimeout = 30 * time.Second
)

// Store is a running datastore.
type Store struct {
	transport storagebackend.TransportConfig
	etcd      *embed.Etcd // nil when the servers were given, or have not started
	socket    string
	end       end
	failed    chan error // nil when the servers were given
	lock      *lock      // of the data folder
	runLock   *lock
	quiet     atomic.Bool // etcd starts or stops: its errors are returned, or of no interest
}

// Start locks the data and the run folder and starts the embedded etcd, unless servers are given. It returns when etcd
// accepts requests. The error is an *InUseError if another process holds one of the folders.
func Start(ctx context.Context, cfg Config) (_ *Store, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	s := &Store{}
	if s.lock, err = lockDir(dataFolder, cfg.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.runLock, err = lockDir(runFolder, cfg.RunDir); err != nil {
		return nil, err
	}
	if len(cfg.Servers) > 0 {
		s.transport = storagebackend.TransportConfig{
			ServerList: cfg.Servers, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile, TrustedCAFile: cfg.CAFile,
		}
		return s, nil
	}
	if err := s.embed(ctx, cfg); err != nil {
		return nil, fmt.Errorf("cannot start etcd in %s: %w", filepath.Join(cfg.Dir, "etcd"), err)
	}
	return s, nil
}

func (s *Store) embed(ctx context.Context, cfg Config) error {
	dir := filepath.Join(cfg.Dir, "etcd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var err error
	if s.socket, err = socketPath(cfg.RunDir, cfg.Dir); err != nil {
		return err
	}
	s.quiet.Store(true)
	ec := embed.NewConfig()
	ec.Name = "peapod"
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	ec.Dir = dir
	s.end.done = make(chan struct{})
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(cfg.Log, &s.quiet, &s.end))
	ec.TickMs, ec.ElectionMs = tickMs, electionMs
	ec.QuotaBackendBytes = quotaBytes
	ec.SnapshotCount, ec.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	ec.EnableGRPCGateway = false
	// A member must advertise some peer URL; with no listener nothing ever connects to it.
	ec.ListenPeerUrls = nil
	ec.ListenClientUrls = []url.URL{{Scheme: "unix", Host: s.socket}}
	ec.AdvertiseClientUrls = ec.ListenClientUrls

	started := make(chan struct{})
	go func() {
		defer close(started)
		s.etcd, err = embed.StartEtcd(ec)
	}()
	select {
	case <-s.end.done:
		return s.end.reason
	case <-started:
		if err != nil {
			return err
		}
	}
	// The folder already keeps others out; the socket's own mode is for whoever opens up the folder.
	if err := os.Chmod(s.socket, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return err
	case <-s.etcd.Server.StopNotify():
		return errors.New("etcd stopped")
	case <-s.end.done:
		return s.end.reason
	case <-ctx.Done():
		return ctx.Err()
	}
	s.failed = make(chan error, 1)
	go func(etcd *embed.Etcd) { // until Close, or the end
		select {
		case err, open := <-etcd.Err():
			if open {
				s.failed <- err
			}
		case <-s.end.done:
			s.failed <- s.end.reason
		}
	}(s.etcd)
	s.quiet.Store(false)
	s.transport.ServerList = []string{"unix://" + s.socket}
	return nil
}

// Transport says how the API server reaches the store.
func (s *Store) Transport() storagebackend.TransportConfig { return s.transport }

// Failed delivers the error that ended the embedded etcd by itself. For given servers it never delivers.
func (s *Store) Failed() <-chan error { return s.failed }

// Close stops the embedded etcd, waits for it, and releases the data folder. Stop all clients first: etcd waits for
// their requests. Closing again does nothing.
func (s *Store) Close() error {
	s.quiet.Store(true)
	if s.etcd != nil {
		closed := make(chan struct{})
		go func(etcd *embed.Etcd) { defer close(closed); etcd.Close() }(s.etcd)
		select {
		case <-closed:
		case <-s.end.done: // it never closes
		}
		s.etcd = nil
		_ = os.Remove(s.socket)
	}
	var errs []error
	for _, l := range []*lock{s.runLock, s.lock} {
		if l != nil {
			errs = append(errs, l.release())
		}
	}
	s.runLock, s.lock = nil, nil
	return errors.Join(errs...)
}
