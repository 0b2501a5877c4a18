package image

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"
)

const (
	idPrefix       = "sha256:" // of Image.ID; the store itself keeps bare hex
	defaultHost    = "docker.io"
	localHost      = "localhost" // where podman build puts names without a registry
	maxReference   = 4096        // bytes; longer is no reference, and not worth parsing
	fullIDLength   = 64
	shortestPrefix = 3 // hex digits of an ID that are taken for one
)

var hexID = regexp.MustCompile(`^[0-9a-f]{3,64}$`)

// asID returns the bare hex of ref if ref reads as an image ID or the beginning of one, and whether it can be nothing
// else. "cafe" may be either an ID or a name.
func asID(ref string) (id string, only bool) {
	if rest, ok := strings.CutPrefix(ref, idPrefix); ok && hexID.MatchString(rest) {
		return rest, true
	}
	if hexID.MatchString(ref) {
		return ref, len(ref) == fullIDLength
	}
	return "", false
}

// parse reads a name as people write it. The result has a registry, and a tag or a digest; where ref has both, the digest
// decides and the tag is dropped, as in the kubelet. short says that ref left the registry open.
func parse(ref string) (named reference.Named, short bool, err error) {
	if len(ref) > maxReference {
		return nil, false, fmt.Errorf("%w: longer than %d bytes", ErrInvalidReference, maxReference)
	}
	named, err = reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, false, fmt.Errorf("%w %q: %w", ErrInvalidReference, ref, err)
	}
	if digested, ok := named.(reference.Digested); ok {
		if named, err = reference.WithDigest(reference.TrimNamed(named), digested.Digest()); err != nil {
			return nil, false, fmt.Errorf("%w %q: %w", ErrInvalidReference, ref, err)
		}
	}
	host, _, hasHost := strings.Cut(ref, "/")
	short = !hasHost || !strings.ContainsAny(host, ".:") && host != localHost && host == strings.ToLower(host)
	return reference.TagNameOnly(named), short, nil
}

// localCandidates are the full names under which the store may hold ref, in the order in which podman looks: alias,
// localhost, the search registries of registries.conf, docker.io.
func localCandidates(sys *types.SystemContext, ref string) ([]reference.Named, error) {
	named, short, err := parse(ref)
	if err != nil || !short {
		return []reference.Named{named}, err
	}
	alias, hosts, err := shortNameRules(sys, named)
	if err != nil {
		return nil, err
	}
	candidates, err := onHosts(named, append([]string{localHost}, hosts...))
	if alias != nil {
		candidates = append([]reference.Named{alias}, candidates...)
	}
	return append(candidates, named), err
}

// pullCandidates are the full names to try for ref: its alias, else each search registry, else docker.io.
func pullCandidates(sys *types.SystemContext, ref string) ([]reference.Named, error) {
	named, short, err := parse(ref)
	if err != nil || !short {
		return []reference.Named{named}, err
	}
	alias, hosts, err := shortNameRules(sys, named)
	switch {
	case err != nil:
		return nil, err
	case alias != nil:
		return []reference.Named{alias}, nil
	case len(hosts) == 0:
		return []reference.Named{named}, nil
	}
	return onHosts(named, hosts)
}

// shortNameRules is what registries.conf says of a short name.
func shortNameRules(sys *types.SystemContext, named reference.Named) (alias reference.Named, hosts []string, err error) {
	alias, _, err = sysregistriesv2.ResolveShortNameAlias(sys, reference.FamiliarName(named))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the short-name aliases: %w", err)
	}
	if alias != nil {
		if alias, err = withVersionOf(alias, named); err != nil {
			return nil, nil, err
		}
	}
	if hosts, err = sysregistriesv2.UnqualifiedSearchRegistries(sys); err != nil {
		return nil, nil, fmt.Errorf("cannot read registries.conf: %w", err)
	}
	return alias, hosts, nil
}

// onHosts is the short name named on each of hosts.
func onHosts(named reference.Named, hosts []string) ([]reference.Named, error) {
	var names []reference.Named
	for _, host := range hosts {
		name, err := reference.ParseNormalizedNamed(host + "/" + reference.FamiliarName(named))
		if err == nil {
			name, err = withVersionOf(name, named)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: search registry %q: %w", ErrInvalidReference, host, err)
		}
		names = append(names, name)
	}
	return names, nil
}

// withVersionOf gives repository the tag or the digest of named.
func withVersionOf(repository, named reference.Named) (reference.Named, error) {
	switch version := named.(type) {
	case reference.Digested:
		return reference.WithDigest(reference.TrimNamed(repository), version.Digest())
	case reference.Tagged:
		return reference.WithTag(reference.TrimNamed(repository), version.Tag())
	}
	return repository, nil
}

// repoTagsAndDigests sorts the names that the store holds for an image as CRI wants them. Every repository that names the
// image gets every digest by which the image is known: that of its manifest, and of the index it was chosen from.
func repoTagsAndDigests(names []string, digests []digest.Digest) (tags, repoDigests []string) {
	for _, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue // not a name of ours: the store takes any string
		}
		if _, ok := named.(reference.Digested); ok {
			repoDigests = append(repoDigests, name)
			continue
		}
		tags = append(tags, name)
		for _, d := range digests {
			repoDigests = append(repoDigests, named.Name()+"@"+d.String())
		}
	}
	return sorted(tags), sorted(repoDigests)
}
