package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Tagged returns the digest that a tag of a registry's repository stands for,
// "" when there is no such tag.
func Tagged(ctx context.Context, repository, tag string) (string, error) {
	ref, err := tagRef(repository, tag)
	if err != nil {
		return "", err
	}
	d, err := remote.Head(ref, options(ctx)...)
	if te, ok := errors.AsType[*transport.Error](err); ok && te.StatusCode == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", explain(ref.String(), err)
	}
	return d.Digest.String(), nil
}

// MoveTag moves a tag of a registry's repository to the image with that
// digest, which must be there, and reads it back. The manifest's bytes stay
// what they are.
func MoveTag(ctx context.Context, repository, tag, digest string) error {
	ref, err := tagRef(repository, tag)
	if err != nil {
		return err
	}
	d, err := remote.Get(ref.Context().Digest(digest), options(ctx)...)
	if err != nil {
		return explain(repository+"@"+digest, err)
	}
	if err := remote.Tag(ref, d, options(ctx)...); err != nil {
		return explain(ref.String(), err)
	}
	got, err := Tagged(ctx, repository, tag)
	if err == nil && got != digest {
		err = fmt.Errorf("%s: the tag was moved to %s and stands for %q", ref, digest, got)
	}
	return err
}

func tagRef(repository, tag string) (name.Tag, error) {
	ref, err := name.NewTag(repository+":"+tag, name.StrictValidation)
	if err != nil {
		return ref, badRef(repository+":"+tag, err)
	}
	return ref, nil
}
