package imagebuild

import (
	"fmt"
	"os"
)

const (
	resolvConf     = "etc/resolv.conf"
	resolvConfOrig = "etc/resolv.conf.ORIG"
)

// lendResolvConf gives the tree the content of the file host, the host's
// resolver configuration, while hooks run, and returns a function that takes
// it back. As in diskimage-builder, the image's own file is resolv.conf.ORIG
// meanwhile, and a symbolic link that a hook made in its place stays. A tree
// whose etc leads out of it is an error.
func lendResolvConf(tree, host string) (restore func() error, err error) {
	content, err := os.ReadFile(host)
	if os.IsNotExist(err) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	if err := root.Rename(resolvConf, resolvConfOrig); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("image: %w", err)
	}
	if err := root.WriteFile(resolvConf, content, 0o644); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return func() error { return restoreResolvConf(tree) }, nil
}

func restoreResolvConf(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if fi, err := root.Lstat(resolvConf); err != nil || !fi.Mode().IsRegular() {
		return ignoreMissing(root.Remove(resolvConfOrig))
	}
	if err := root.Remove(resolvConf); err != nil {
		return err
	}
	return ignoreMissing(root.Rename(resolvConfOrig, resolvConf))
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
