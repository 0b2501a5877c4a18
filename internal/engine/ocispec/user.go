package ocispec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxAccounts bounds what is read of an image's /etc/passwd and /etc/group, in bytes.
const maxAccounts = 16 << 20

// User is who the container's first process is.
type User struct {
	UID, GID       uint32
	AdditionalGids []uint32 // the primary group first
}

// ResolveUser finds who the container runs as, reading /etc/passwd and /etc/group below rootfs; links never lead out of it.
// imageUser is the image's USER. The security context wins (run_as_user, run_as_username, run_as_group,
// supplemental_groups and their policy). A numeric user needs no entry; a name does:
// "unable to find user NAME: no matching entries in passwd file".
func ResolveUser(rootfs, imageUser string, sc *runtimeapi.LinuxContainerSecurityContext) (User, error) {
	who := sc.GetRunAsUsername()
	if who == "" && sc.GetRunAsUser() != nil {
		who = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10)
	}
	if sc.GetRunAsGroup() != nil {
		if who == "" {
			return User{}, fmt.Errorf("user group %d is specified without user", sc.GetRunAsGroup().GetValue())
		}
		who += ":" + strconv.FormatInt(sc.GetRunAsGroup().GetValue(), 10)
	}
	if who == "" {
		who = imageUser
	}
	passwd, err := accounts(rootfs, "/etc/passwd")
	if err != nil {
		return User{}, err
	}
	group, err := accounts(rootfs, "/etc/group")
	if err != nil {
		return User{}, err
	}
	found, err := user.GetExecUser(who, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, err
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), AdditionalGids: []uint32{uint32(found.Gid)}}
	add := func(gid uint32) {
		if !slices.Contains(u.AdditionalGids, gid) {
			u.AdditionalGids = append(u.AdditionalGids, gid)
		}
	}
	// Merge (the default) also gives the groups that the image makes the user a member of; asked for without the
	// group, because an explicit one hides them.
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge {
		name, _, _ := strings.Cut(who, ":")
		member, err := user.GetExecUser(name, nil, bytes.NewReader(passwd), bytes.NewReader(group))
		if err != nil {
			return User{}, err
		}
		for _, gid := range member.Sgids {
			add(uint32(gid))
		}
	}
	for _, gid := range sc.GetSupplementalGroups() {
		add(uint32(gid))
	}
	return u, nil
}

// accounts reads a regular file below rootfs; anything else, and nothing, is an empty one. It is opened as a path first,
// so that an image's FIFO or device in its place cannot block the engine.
func accounts(rootfs, path string) ([]byte, error) {
	handle, err := pathrs.OpenInRoot(rootfs, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("cannot read %s of the image: %w", path, err)
	}
	defer handle.Close()
	if st, err := handle.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, err
	}
	f, err := pathrs.Reopen(handle, os.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of the image: %w", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of the image: %w", path, err)
	}
	return b, nil
}
