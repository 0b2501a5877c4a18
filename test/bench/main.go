// Command bench measures what peapod promises to be: quick and small. It runs `podman kube play` beside it, on the
// same machine in the same run, and prints one table. It judges nothing.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

type options struct {
	binary  string
	images  string
	boots   int
	rounds  int
	burst   int
	density int
	probed  int
	json    bool
}

func main() {
	var o options
	flag.StringVar(&o.binary, "peapod", "bin/peapod", "the peapod program")
	flag.StringVar(&o.images, "images", ".images", "folder with busybox.tar")
	flag.IntVar(&o.boots, "boots", 5, "how often to bring peapod up")
	flag.IntVar(&o.rounds, "rounds", 30, "how many Pods to create and delete one after the other")
	flag.IntVar(&o.burst, "burst", 40, "how many Pods to create at once")
	flag.IntVar(&o.density, "density", 40, "over how many Pods to spread the memory of one")
	flag.IntVar(&o.probed, "probed", 200, "how many Pods to probe at once; 0 leaves that out")
	flag.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	archive, err := filepath.Abs(filepath.Join(o.images, "busybox.tar"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "peapod-bench-")
	if err != nil {
		return fmt.Errorf("cannot make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	figures, err := measurePeapod(ctx, o, filepath.Join(dir, "peapod"), archive)
	if err != nil {
		return err
	}
	podman, err := measurePodman(ctx, o, filepath.Join(dir, "podman"), archive)
	switch {
	case errors.Is(err, errNoPodman):
		fmt.Fprintln(os.Stderr, "podman is not installed: its figures are left out")
	case err != nil: // peapod's own figures stand
		fmt.Fprintf(os.Stderr, "podman's figures are left out: %v\n", err)
	}
	for i := range figures {
		figures[i].Podman = podman[figures[i].Name]
	}
	if o.json {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(figures)
	}
	printTable(os.Stdout, figures)
	return nil
}
