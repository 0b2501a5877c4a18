// Command mkimage packs a folder into a container image, as a docker archive, without any registry or daemon. The same folder
// and flags give the same bytes: files are owned by root, dated 1970, and sorted. It needs no root: modes that the folder cannot
// have, such as a set-user-ID bit on a file of the caller's, are given with -chmod.
//
//	mkimage -o busybox.tar -t docker.io/library/busybox:latest -cmd sh ./rootfs
package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// recipe is what the flags say.
type recipe struct {
	out, arch string
	tags      []string
	config    v1.Config
	owners    map[string]owner // by path in the image, as are modes
	modes     map[string]int64
}

type owner struct{ uid, gid int }

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "mkimage:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	r := recipe{owners: map[string]owner{}, modes: map[string]int64{}}
	r.config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	flags := r.flags()
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || r.out == "" || len(r.tags) == 0 {
		flags.Usage()
		return errors.New("needs -o, -t and one folder")
	}
	if err := r.build(flags.Arg(0)); err != nil {
		return fmt.Errorf("cannot make image %s: %w", r.tags[0], err)
	}
	return nil
}

func (r *recipe) flags() *flag.FlagSet {
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: mkimage -o FILE.tar -t TAG [flags] FOLDER")
		flags.PrintDefaults()
	}
	list := func(into *[]string, name, usage string) {
		flags.Func(name, usage+"; may be repeated", func(value string) error {
			*into = append(*into, value)
			return nil
		})
	}
	flags.StringVar(&r.out, "o", "", "the `file` to write")
	list(&r.tags, "t", "`tag` of the image")
	flags.StringVar(&r.arch, "arch", runtime.GOARCH, "architecture, as Go names it")
	list(&r.config.Env, "env", "environment variable, `NAME=VALUE`")
	list(&r.config.Entrypoint, "entrypoint", "next `word` of the entrypoint")
	list(&r.config.Cmd, "cmd", "next `word` of the command")
	flags.StringVar(&r.config.User, "user", "", "`user[:group]` of the process")
	flags.StringVar(&r.config.WorkingDir, "workdir", "", "working `folder` of the process")
	flags.StringVar(&r.config.StopSignal, "stopsignal", "", "`signal` that ends the process, such as SIGQUIT")
	set := func(into *map[string]struct{}, name, usage string) {
		flags.Func(name, usage+"; may be repeated", func(value string) error {
			if *into == nil {
				*into = map[string]struct{}{}
			}
			(*into)[value] = struct{}{}
			return nil
		})
	}
	set(&r.config.ExposedPorts, "expose", "`port/protocol` that the process serves")
	set(&r.config.Volumes, "volume", "`folder` that is a volume")
	flags.Func("label", "`NAME=VALUE` about the image; may be repeated", func(value string) error {
		if r.config.Labels == nil {
			r.config.Labels = map[string]string{}
		}
		key, value, _ := strings.Cut(value, "=")
		r.config.Labels[key] = value
		return nil
	})
	flags.Func("chmod", "mode of a path, `PATH=MODE` such as /bin/su=4755; may be repeated", func(value string) error {
		p, mode, _ := strings.Cut(value, "=")
		bits, err := strconv.ParseInt(mode, 8, 16)
		r.modes[inImage(p)] = bits
		return err
	})
	flags.Func("chown", "owner of a path, `PATH=UID:GID`; may be repeated", func(value string) error {
		p, ids, _ := strings.Cut(value, "=")
		var o owner
		_, err := fmt.Sscanf(ids, "%d:%d", &o.uid, &o.gid)
		r.owners[inImage(p)] = o
		return err
	})
	return flags
}

// inImage is how a path is written in a layer: without the leading slash.
func inImage(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

func (r *recipe) build(folder string) error {
	scratch, err := os.CreateTemp("", "mkimage-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name())
	if err := errors.Join(r.pack(scratch, folder), scratch.Close()); err != nil {
		return err
	}
	layer, err := tarball.LayerFromFile(scratch.Name())
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	img, err = mutate.ConfigFile(img, r.configFile(layer))
	if err != nil {
		return err
	}
	images := map[name.Reference]v1.Image{}
	for _, t := range r.tags {
		tag, err := name.NewTag(t, name.WithDefaultRegistry("docker.io"))
		if err != nil {
			return err
		}
		images[tag] = img
	}
	return r.write(images)
}

func (r *recipe) configFile(layer v1.Layer) *v1.ConfigFile {
	epoch := v1.Time{Time: time.Unix(0, 0).UTC()}
	diffID, _ := layer.DiffID() // LayerFromFile has computed it
	return &v1.ConfigFile{
		Architecture: r.arch,
		OS:           "linux",
		Created:      epoch,
		Config:       r.config,
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		History:      []v1.History{{Created: epoch, CreatedBy: "mkimage"}},
	}
}

// write replaces the file at once, so that one that is there is whole.
func (r *recipe) write(images map[name.Reference]v1.Image) error {
	part := r.out + ".part"
	if err := tarball.MultiRefWriteToFile(part, images); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, r.out)
}

// pack writes the folder as a layer.
func (r *recipe) pack(out io.Writer, folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	layer := tar.NewWriter(out)
	err = fs.WalkDir(root.FS(), ".", func(p string, entry fs.DirEntry, err error) error { // in order of names
		if err != nil || p == "." {
			return err
		}
		return r.packOne(layer, root, p, entry)
	})
	return errors.Join(err, layer.Close())
}

func (r *recipe) packOne(layer *tar.Writer, root *os.Root, p string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = root.Readlink(p); err != nil {
			return err
		}
	}
	full, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	o := r.owners[p]
	header := &tar.Header{
		Typeflag: full.Typeflag, Name: filepath.ToSlash(p), Linkname: link, Size: full.Size, Mode: full.Mode,
		Devmajor: full.Devmajor, Devminor: full.Devminor, Uid: o.uid, Gid: o.gid, ModTime: time.Unix(0, 0),
	}
	if mode, ok := r.modes[p]; ok {
		header.Mode = mode
	}
	if info.IsDir() {
		header.Name += "/"
	}
	if err := layer.WriteHeader(header); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := root.Open(p)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(layer, file)
	return err
}
