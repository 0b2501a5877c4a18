package ociruntime

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxSealed is the size of the largest program that is copied into memory: crun is a twentieth of it, runc is larger, and
// does without what is saved.
const maxSealed = 8 << 20

// seal copies a program into a memory file that nothing can change.
//
// A runtime protects its program from the containers that it enters (CVE-2019-5736): before anything else crun makes a
// read-only mount of it, unmounts that and executes itself once more. The kernel tells every mount to all mount
// namespaces of the machine, so that the more containers there are, the longer it takes, and other programs wait
// meanwhile. From a sealed memory file a runtime sees that it is protected already.
func seal(path string) (*os.File, error) {
	program, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	if info, err := program.Stat(); err != nil {
		return nil, err
	} else if info.Size() > maxSealed {
		return nil, fmt.Errorf("%s is too large", path)
	}
	fd, err := unix.MemfdCreate(path, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memory file could be executed
		fd, err = unix.MemfdCreate(path, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	sealed := os.NewFile(uintptr(fd), path)
	if _, err := io.Copy(sealed, program); err != nil {
		sealed.Close()
		return nil, err
	}
	// These and no others are what the runtimes look for.
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, all); err != nil {
		sealed.Close()
		return nil, fmt.Errorf("cannot seal a memory file: %w", err)
	}
	return sealed, nil
}
