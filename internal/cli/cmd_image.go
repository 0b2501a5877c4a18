package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"peapod.dev/peapod/internal/engine/image"
)

// newImageCommand works on the machine's own container storage, which the daemon shares: no daemon is asked.
func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Pull, load, list and remove container images",
		Long: `Pull, load, list and remove images in this machine's container storage, the one
that podman and buildah use too. No peapod needs to be up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImagePullCommand(), newImageLoadCommand(), newImageListCommand(), newImageRemoveCommand(), newImagePruneCommand())
	return cmd
}

// withImages opens the image store for do, and closes it.
func withImages(do func(*image.Store) error) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("cannot open the container storage: peapod needs root")
	}
	joinUpstream(&slog.HandlerOptions{Level: slog.LevelWarn}, os.Stderr)
	store, err := image.Open(image.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return do(store)
}

func newImagePullCommand() *cobra.Command {
	var authFile string
	cmd := &cobra.Command{
		Use:   "pull IMAGE…",
		Short: "Pull images from their registries",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return withImages(func(store *image.Store) error {
				for _, ref := range refs {
					progress := newPullProgress(cmd.ErrOrStderr(), ref)
					img, err := store.Pull(cmd.Context(), ref, image.PullOptions{AuthFile: authFile, Progress: progress.show})
					progress.end()
					if err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), img.ID)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&authFile, "authfile", "", "registry credentials, as podman login and docker login write them")
	return cmd
}

func newImageLoadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE…",
		Short: "Load images from docker or OCI archives",
		Long:  "Load every image of the archives, which may be compressed. FILE - is standard input.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			return withImages(func(store *image.Store) error {
				for _, file := range files {
					if err := loadArchive(cmd, store, file); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// loadArchive loads one archive and names its images. An archive is read more than once, so standard input goes through
// a file.
func loadArchive(cmd *cobra.Command, store *image.Store, file string) (err error) {
	if file == "-" {
		spool, err := os.CreateTemp("", "peapod-load-*.tar")
		if err != nil {
			return fmt.Errorf("cannot load images from standard input: %w", err)
		}
		defer func() { _ = os.Remove(spool.Name()) }()
		_, err = io.Copy(spool, cmd.InOrStdin())
		if err := errors.Join(err, spool.Close()); err != nil {
			return fmt.Errorf("cannot load images from standard input: %w", err)
		}
		file = spool.Name()
	}
	progress := func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	refs, err := store.Load(cmd.Context(), file, progress)
	for _, ref := range refs {
		fmt.Fprintln(cmd.OutOrStdout(), ref)
	}
	return err
}

func newImageListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return &usageError{fmt.Errorf("cannot print as %q: -o takes json", output), cmd.CommandPath()}
			}
			return withImages(func(store *image.Store) error {
				images, err := store.List()
				if err != nil {
					return err
				}
				if output == "json" {
					return printImagesJSON(cmd.OutOrStdout(), images)
				}
				return printImages(cmd.OutOrStdout(), images)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json for all details, for programs to read")
	return cmd
}

// printImages prints a line a tag; an image without a tag has one line all the same.
func printImages(out io.Writer, images []*image.Image) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "REPOSITORY\tTAG\tIMAGE ID\tSIZE")
	for _, img := range images {
		tags := img.RepoTags
		if len(tags) == 0 {
			tags = []string{"<none>:<none>"}
		}
		for _, tag := range tags {
			repository, tag := splitTag(tag)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", repository, tag, shortID(img.ID), units.HumanSize(float64(img.Size)))
		}
	}
	return w.Flush()
}

// listedImage is the stable form of an image for programs.
type listedImage struct {
	ID          string   `json:"id"`
	RepoTags    []string `json:"repoTags"`
	RepoDigests []string `json:"repoDigests"`
	Size        int64    `json:"size"` // bytes
	Pinned      bool     `json:"pinned,omitempty"`
}

func printImagesJSON(out io.Writer, images []*image.Image) error {
	list := make([]listedImage, 0, len(images))
	for _, img := range images {
		list = append(list, listedImage{img.ID, img.RepoTags, img.RepoDigests, img.Size, img.Pinned})
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(list)
}

// splitTag splits registry:5000/name:tag at the tag.
func splitTag(name string) (repository, tag string) {
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.ContainsRune(name[i:], '/') {
		return name, "<none>"
	}
	return name[:i], name[i+1:]
}

// shortID is the length at which people read IDs; it is enough to name the image.
func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

func newImageRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm IMAGE…",
		Aliases: []string{"remove"},
		Short:   "Remove images",
		Long:    "Remove images by name or ID. All are tried; one that a container uses stays.",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return withImages(func(store *image.Store) error {
				var failed []error
				for _, ref := range refs {
					if err := store.Remove(ref); err != nil {
						failed = append(failed, err)
						continue
					}
					fmt.Fprintln(cmd.OutOrStdout(), ref)
				}
				return errors.Join(failed...)
			})
		},
	}
}

func newImagePruneCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images that no container uses",
		Long:  "Remove the images that have no name and that no container uses; with --all, named ones too.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withImages(func(store *image.Store) error {
				removed, err := store.Prune(cmd.Context(), all)
				for _, id := range removed {
					fmt.Fprintln(cmd.OutOrStdout(), id)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "remove images that have a name too")
	return cmd
}
