package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/signature"
	imagestorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
)

// progressInterval is how often a pull reports on each layer.
const progressInterval = 250 * time.Millisecond

// PullOptions are how to pull. The zero value uses the machine's credentials and reports nothing.
type PullOptions struct {
	Auth     *types.DockerAuthConfig // for this pull alone, before any file
	AuthFile string                  // instead of $REGISTRY_AUTH_FILE and the files that podman login and docker login write
	Progress func(Progress)          // called from one goroutine at a time, never after Pull has returned; must not block
}

// Progress is the state of a pull after a change in one of its blobs (layers and the configuration).
type Progress struct {
	Blob         string // digest
	Offset, Size int64  // bytes of this blob had so far, and in all; Size is -1 if the registry did not say
	Done         bool   // the blob is there

	Complete, Total int64 // bytes of all blobs begun so far; Total grows while more are begun
}

// Pull gets an image from its registry, or a mirror of it, as registries.conf says; a short name is looked for on the search
// registries, by default docker.io. Concurrent pulls of one image with the same credentials are one pull. Layers that are
// stored already are not fetched again. Once Pull returns, the image is durable. Errors are ErrInvalidReference,
// ErrManifestUnknown, ErrUnauthorized or ErrRegistryUnavailable where the cause is known, with the registry's own text.
func (s *Store) Pull(ctx context.Context, ref string, options PullOptions) (*Image, error) {
	sysregistriesv2.InvalidateCache() // an edit of registries.conf counts from the next pull on
	candidates, err := pullCandidates(nil, ref)
	if err != nil {
		return nil, fmt.Errorf("cannot pull image %q: %w", ref, err)
	}
	var failed []error
	for _, named := range candidates {
		img, err := s.pulls.do(ctx, flightKey(named, options), options.Progress,
			func(ctx context.Context, report func(Progress)) (*Image, error) {
				return s.pull(ctx, named, options, report)
			})
		if err == nil {
			return img, nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("cannot pull image %q: %w", ref, errors.Join(failed...))
}

// flightKey tells pulls apart. One with wrong credentials must not fail another's, so they are part of it, hashed.
func flightKey(named reference.Named, options PullOptions) string {
	var auth types.DockerAuthConfig
	if options.Auth != nil {
		auth = *options.Auth
	}
	return fmt.Sprintf("%s %x", named, sha256.Sum256(fmt.Appendf(nil, "%q %q", auth, options.AuthFile)))
}

// pull copies one image, of a full name, into the storage. Layers of a pull that fails stay: the next try needs them.
func (s *Store) pull(ctx context.Context, named reference.Named, options PullOptions, report func(Progress)) (*Image, error) {
	scratch, err := s.newScratch()
	if err != nil {
		return nil, err
	}
	defer scratch.remove()
	system := scratch.system()
	system.DockerAuthConfig = options.Auth
	if system.AuthFilePath = options.AuthFile; system.AuthFilePath == "" {
		system.AuthFilePath = os.Getenv("REGISTRY_AUTH_FILE")
	}
	source, err := docker.NewReference(named)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidReference, err)
	}
	target, err := imagestorage.Transport.NewStoreReference(s.store, named, "")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidReference, err)
	}
	if err := copyImage(ctx, target, source, system, report); err != nil {
		return nil, classify(canceled(ctx, err))
	}
	if err := s.syncStorage(); err != nil {
		return nil, err
	}
	img, err := s.lookup(named.String())
	if err != nil {
		return nil, err
	}
	if img == nil {
		return nil, fmt.Errorf("%w: it was removed at once", ErrNotFound)
	}
	return s.describe(img)
}

// copyImage copies an image under the machine's signature policy.
func copyImage(ctx context.Context, target, source types.ImageReference, system *types.SystemContext, report func(Progress)) (err error) {
	policy, err := signature.DefaultPolicy(system)
	if errors.Is(err, configfile.ErrConfigFileNotFound) {
		// Without a policy.json the library would refuse every image; no other engine has that default.
		policy = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	} else if err != nil {
		return fmt.Errorf("cannot read the signature policy: %w", err)
	}
	policyContext, err := signature.NewPolicyContext(policy)
	if err != nil {
		return fmt.Errorf("cannot use the signature policy: %w", err)
	}
	defer func() { err = errors.Join(err, policyContext.Destroy()) }()

	options := &copy.Options{SourceCtx: system, DestinationCtx: system}
	if report != nil {
		events := make(chan types.ProgressProperties)
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			follow(events, report)
		}()
		defer func() { close(events); <-finished }()
		options.Progress, options.ProgressInterval = events, progressInterval
	}
	_, err = copy.Image(ctx, policyContext, target, source, options)
	return err
}

// follow sums up the events of one copy.
func follow(events <-chan types.ProgressProperties, report func(Progress)) {
	blobs := map[string]Progress{}
	for event := range events {
		id := event.Artifact.Digest.String()
		blob := Progress{Blob: id, Offset: int64(event.Offset), Size: event.Artifact.Size}
		switch event.Event {
		case types.ProgressEventDone, types.ProgressEventSkipped:
			blob.Done = true
			blob.Offset = max(blob.Offset, blob.Size)
		}
		blobs[id] = blob
		for _, other := range blobs {
			blob.Complete += other.Offset
			blob.Total += max(other.Offset, other.Size)
		}
		report(blob)
	}
}
