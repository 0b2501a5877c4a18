// Command peapod makes a Linux machine run Kubernetes Pods.
package main

import (
	"os"

	"go.podman.io/storage/pkg/reexec"

	"peapod.dev/peapod/internal/cli"
)

func main() {
	// Container storage runs this same program again for work in a chroot or a
	// user namespace; such a child must not reach the command line.
	if reexec.Init() {
		return
	}
	os.Exit(cli.Main(os.Args[1:]))
}
