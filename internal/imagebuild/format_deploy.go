package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/element"
	"goldsmith/internal/hook"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/tree"
)

// Directories of elements that make a deploy ramdisk, and where the element
// deploy-ramdisk puts its /init.
const (
	stepsDir  = "deploy.d"
	binaryDir = "binary-deps.d"
	agentPath = "usr/lib/goldsmith/imgagent"
)

// deployParts are what elements bring for a deploy ramdisk.
type deployParts struct {
	steps    map[string][]byte // by name
	programs []string          // sorted, each once
}

// deployParts reads what the build's elements bring, if a deploy ramdisk is an
// output.
func (b *build) deployParts() (*deployParts, error) {
	if !slices.Contains(b.outputs, "deploy-ramdisk") {
		return &deployParts{}, nil
	}
	return readDeployParts(b.elements)
}

// readDeployParts reads the elements' deploy.d and binary-deps.d.
func readDeployParts(elements []*element.Element) (*deployParts, error) {
	p := &deployParts{steps: map[string][]byte{}}
	for _, e := range elements {
		for dir, take := range map[string]func(path string) error{stepsDir: p.step, binaryDir: p.binaries} {
			files, err := os.ReadDir(filepath.Join(e.Dir, dir))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, f := range files {
				if err := take(filepath.Join(e.Dir, dir, f.Name())); err != nil {
					return nil, command.BadInput(fmt.Errorf("element %s: %s/%s: %w", e.Name, dir, f.Name(), err), "")
				}
			}
		}
	}
	slices.Sort(p.programs)
	p.programs = slices.Compact(p.programs)
	return p, nil
}

// step reads a deploy step. That no two elements have one of the same name is
// checked for all of their files.
func (p *deployParts) step(path string) error {
	name := filepath.Base(path)
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !hook.Name.MatchString(name) || len(name) < 4 || strings.Trim(name[:2], "0123456789") != "" || name[2] != '-':
		return errors.New("a deploy step is named NN-name")
	case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
		return errors.New("a deploy step must be executable")
	}
	p.steps[name], err = os.ReadFile(path)
	return err
}

// binaries reads names of programs, one a line; # starts a comment.
func (p *deployParts) binaries(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		switch words := strings.Fields(line); {
		case len(words) > 1 || len(words) == 1 && strings.Contains(words[0], "/"):
			return fmt.Errorf("%q: want a program's name on each line", strings.TrimSpace(line))
		case len(words) == 1:
			p.programs = append(p.programs, words[0])
		}
	}
	return nil
}

// sum names all of it, for keys.
func (p *deployParts) sum() string {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(p.steps)) {
		fmt.Fprintf(&b, "%s %s\n", name, sum(p.steps[name]))
	}
	fmt.Fprintln(&b, p.programs)
	return sum(b.Bytes())
}

func writeDeployKernel(_ context.Context, f *os.File, src *source) error {
	return disk.WriteKernel(f, disk.Config{Root: src.tree})
}

// writeDeployInitrd writes the ramdisk that deploys machines. Nothing of the
// tree is in it but what its parts need.
func writeDeployInitrd(ctx context.Context, f *os.File, src *source) error {
	p, err := readDeployParts(src.build.elements)
	if err != nil {
		return err
	}
	init, err := agentOf(src.tree)
	if err != nil {
		return err
	}
	return disk.WriteDeployInitrd(ctx, f, initramfs.Deploy{
		Init: init, Root: src.tree, Drivers: drivers[src.build.def.Modules], Programs: p.programs, Steps: p.steps,
		Time: src.epoch,
	})
}

func agentOf(t *tree.Tree) ([]byte, error) {
	e := t.Lookup(agentPath)
	if e == nil {
		return nil, command.BadInput(fmt.Errorf("deploy-ramdisk: /%s is not in the image", agentPath),
			"the element deploy-ramdisk has it")
	}
	return e.ReadFile()
}
