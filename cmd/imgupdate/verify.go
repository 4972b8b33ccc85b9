package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/drift"
	"goldsmith/internal/schema"
	"goldsmith/internal/update"
)

// keptFile is where imginit says what of this machine is its own.
const keptFile = "/run/goldsmith/kept"

// verified is what 'imgupdate verify' says.
type verified struct {
	Drift   []drift.Drift `json:"drift"`
	Unknown []string      `json:"unknown"` // what cannot be compared, for people
}

func verifyCommand() *command.Command {
	o := &options{}
	return &command.Command{
		Name: "verify", Short: "list where this machine is not what image and configuration say",
		Long: "It looks at the root's device, at what is mounted, at /etc, which is the image's, with what applycfg would\n" +
			"write now and what is declared as the machine's own, and at kernel images and boot loaders on the EFI\n" +
			"partition. Each drift is a line; with one the status is 1. What it cannot know is said, too.",
		Example: "imgupdate verify --json",
		Flags:   o.declareJSON,
		Run: o.run(func(ctx context.Context, io command.IO, m *update.Machine) error {
			v, err := verify(ctx, m, filepath.Dir(o.state))
			if err != nil {
				return err
			}
			if o.json {
				if err := printJSON(io, v); err != nil {
					return err
				}
			} else {
				for _, d := range v.Drift {
					fmt.Fprintln(io.Stdout, d)
				}
				for _, u := range v.Unknown {
					fmt.Fprintln(io.Stdout, "not known: "+u)
				}
			}
			if n := len(v.Drift); n > 0 {
				return command.Hint(fmt.Errorf("drift: %d", n),
					"a restart makes /etc anew; docs/boot.md says what is kept")
			}
			return nil
		}),
	}
}

func verify(ctx context.Context, m *update.Machine, state string) (v verified, err error) {
	v.Drift = []drift.Drift{}
	kept, directories, err := declared()
	if err != nil {
		return v, err
	}
	for _, p := range slices.Concat(directories, kept) {
		v.Unknown = append(v.Unknown, p+": the machine's own")
	}
	image, done, err := imageRoot()
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, done()) }()
	for _, check := range []func() ([]drift.Drift, error){
		func() ([]drift.Drift, error) { return verifyRoot(m) },
		func() ([]drift.Drift, error) {
			text, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				return nil, err
			}
			return drift.Mounts(string(text), image, directories)
		},
		func() ([]drift.Drift, error) {
			made, err := rendered(ctx)
			if err != nil {
				v.Unknown = append(v.Unknown, fmt.Sprintf("what configuration makes: %v", err))
			}
			return drift.Etc{Upper: filepath.Join(state, "etc/upper"), Image: image, Kept: kept, Rendered: made}.Check()
		},
		func() ([]drift.Drift, error) {
			found, err := m.InspectBoot(ctx)
			v.Unknown = append(v.Unknown, found.Unknown...)
			var list []drift.Drift
			for _, f := range found.Wrong {
				list = append(list, drift.Drift{Kind: drift.Boot, Path: f.Path, Detail: f.Detail})
			}
			return list, err
		},
	} {
		found, err := check()
		if err != nil {
			return v, err
		}
		v.Drift = append(v.Drift, found...)
	}
	v.Unknown = append(v.Unknown, "programs that run, and what they hold in memory")
	return v, nil
}

// declared is what of this machine is its own: below /etc, and elsewhere.
func declared() (etc, directories []string, err error) {
	text, err := os.ReadFile(keptFile)
	if err != nil {
		return nil, nil, command.Hint(err, update.HintImginit)
	}
	for p := range strings.FieldsSeq(string(text)) {
		if p == "/etc" || strings.HasPrefix(p, "/etc/") {
			etc = append(etc, p)
		} else {
			directories = append(directories, p)
		}
	}
	return etc, directories, nil
}

// imageRoot is the root file system without what is mounted over it, as a
// directory, until done is called.
func imageRoot() (dir string, done func() error, err error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("the root without its mounts: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() error { return unix.Close(fd) }, nil
}

func verifyRoot(m *update.Machine) ([]drift.Drift, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	v, err := drift.ReadVerity("/")
	if err != nil {
		return nil, err
	}
	hash := drift.CommandLineHash(string(cmdline))
	found := v.Check(hash)
	if hash != m.Boot.RootHash {
		const detail = "has another root hash than the kernel command line"
		found = append(found, drift.Drift{Kind: drift.Root, Path: update.DefaultBoot, Detail: detail})
	}
	return found, nil
}

// rendered are the files that applycfg would write now, and what is wrong with
// those that are there.
func rendered(ctx context.Context) (map[string]string, error) {
	dir, _ := applycfg.TemplatesDir()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	doc, err := applycfg.FromEnvironment(nil, "").LoadContext(ctx)
	if err != nil {
		return nil, err
	}
	rules, err := schema.Read(schema.Dir(dir))
	if err != nil {
		return nil, err
	}
	files, err := applycfg.Templates{Dir: dir}.Render(ctx, rules.WithDefaults(doc))
	if err != nil {
		return nil, err
	}
	changes, err := applycfg.Output{DryRun: true}.Apply(ctx, files)
	if err != nil {
		return nil, err
	}
	wrong := map[applycfg.Action]string{
		applycfg.Created: "it is not there", applycfg.Updated: "changed", applycfg.Deleted: "it should not be there",
	}
	made := map[string]string{}
	for _, c := range changes {
		made[c.Path] = wrong[c.Action]
	}
	return made, nil
}
