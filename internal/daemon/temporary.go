package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Temporary brings up a peapod of its own for as long as use runs, then ends its Pods and removes every trace of it.
func Temporary(ctx context.Context, cfg Config, use func(context.Context, Up) error) (err error) {
	dir, err := os.MkdirTemp("", "peapod-run-")
	if err != nil {
		return err
	}
	cfg.DataDir, cfg.RunDir = filepath.Join(dir, "data"), filepath.Join(dir, "run")
	// The daemon outlives ctx: Pods are to end gracefully after it.
	daemonCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	up := make(chan Up, 1)
	ended := make(chan error, 1)
	go func() { ended <- Run(daemonCtx, cfg, func(u Up) { up <- u }) }()
	select {
	case u := <-up:
		err = use(ctx, u)
	case err = <-ended:
		ended <- nil
	case <-ctx.Done():
		err = ctx.Err()
	}
	stop()
	err = errors.Join(err, <-ended)
	if _, made, _ := recall(cfg.DataDir); made {
		err = errors.Join(err, Down(context.WithoutCancel(ctx), cfg.DataDir, cfg.Log))
	}
	return errors.Join(err, os.RemoveAll(dir))
}
