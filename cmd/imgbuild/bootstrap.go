package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/apt"
	"goldsmith/internal/bootstrap"
	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
)

// bootstrapArgs are the command line of "imgbuild bootstrap".
type bootstrapArgs struct {
	suite, arch, cache, plan, savePlan string
	mirrors, packages                  words
	packagesFile                       string
	filters                            []bootstrap.Filter
	offline, initramfs, verbose, json  bool
}

// words is a flag that may be given several times.
type words []string

func (l *words) String() string     { return strings.Join(*l, " ") }
func (l *words) Set(s string) error { *l = append(*l, s); return nil }

// filterFlag adds filters in the order of the command line.
type filterFlag struct {
	filters *[]bootstrap.Filter
	include bool
}

func (f filterFlag) String() string { return "" }

func (f filterFlag) Set(s string) error {
	if !strings.HasPrefix(s, "/") || strings.ContainsAny(s, "[\\") {
		return errors.New("expected a pattern that begins with a slash, of text, * and ?")
	}
	*f.filters = append(*f.filters, bootstrap.Filter{Include: f.include, Pattern: s})
	return nil
}

func bootstrapCommand() *command.Command {
	var a bootstrapArgs
	return &command.Command{
		Name:  "bootstrap",
		Args:  "ROOT",
		Short: "make a Debian system's file tree from packages",
		Long: `
Chooses, downloads and installs the packages of a Debian or Ubuntu release:
the variant minbase of debootstrap and mmdebstrap (what is essential, apt, and
what has priority required), and the packages asked for with their
dependencies, not their recommendations. The element debian does this; the
command is of use alone to make a tree, or to see a plan.

ROOT must be new or empty. With --save-plan and no ROOT nothing is installed.
The lists of packages must be signed by a key of this machine's archive
keyrings, or by one that a source names with [signed-by=FILE].

An initramfs is generated only with --initramfs.`,
		Example: `imgbuild bootstrap --suite bookworm --package systemd-sysv --package udev tree
imgbuild bootstrap --suite bookworm --save-plan plan.json
imgbuild bootstrap --plan plan.json --offline tree`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&a.suite, "suite", "", "install the release `name`: bookworm")
			fs.StringVar(&a.arch, "arch", "amd64", "install packages for `architecture`")
			fs.Var(&a.mirrors, "mirror", "take packages from `source`: a URI or a line as in sources.list(5); may be repeated"+
				" (default the archives that this machine's apt uses)")
			fs.Var(&a.packages, "package", "install `name` too, or name=version; may be repeated")
			fs.StringVar(&a.packagesFile, "packages", "", "install the packages in `file` too, one a line")
			fs.Var(filterFlag{&a.filters, false}, "path-exclude",
				"do not unpack paths that match `pattern`, as dpkg(1); may be repeated")
			fs.Var(filterFlag{&a.filters, true}, "path-include",
				"unpack paths that match `pattern` after all; may be repeated")
			fs.StringVar(&a.cache, "cache", "", "keep downloads in `directory` (default goldsmith/packages in the user's cache)")
			fs.StringVar(&a.plan, "plan", "", "install what is in `file`, a plan that was saved, and nothing else")
			fs.StringVar(&a.savePlan, "save-plan", "", "write the plan to `file`; - is standard output")
			fs.BoolVar(&a.offline, "offline", false, "use what is in the cache, and no network")
			fs.BoolVar(&a.initramfs, "initramfs", false, "have the system's own tools generate an initramfs")
			fs.BoolVar(&a.verbose, "verbose", false, "print what dpkg and the packages' scripts print")
			fs.BoolVar(&a.json, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error { return a.run(ctx, io, args) },
	}
}

func (a *bootstrapArgs) run(ctx context.Context, std command.IO, args []string) error {
	switch {
	case len(args) > 1 || len(args) == 0 && a.savePlan == "":
		return command.Usage("bootstrap needs one directory to make", "imgbuild bootstrap --suite bookworm tree")
	case (a.suite == "") == (a.plan == ""):
		return command.Usage("bootstrap needs a release or a plan", "imgbuild bootstrap --suite bookworm tree")
	case a.json && a.savePlan == "-":
		return command.Usage("--json and --save-plan - both want standard output", "name a file for the plan")
	}
	if a.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return command.Missing(err, "name a directory with --cache")
		}
		a.cache = filepath.Join(dir, "goldsmith", "packages")
	}
	unix.Umask(0o022) // the caller's must not reach the tree
	say := func(format string, args ...any) { fmt.Fprintf(std.Stderr, "imgbuild: "+format+"\n", args...) }
	meter := &bootstrap.Meter{}
	meter.Begin("resolve")
	plan, err := a.choose(ctx, say)
	if err != nil {
		return err
	}
	if a.savePlan != "" {
		if err := savePlan(std.Stdout, a.savePlan, plan); err != nil {
			return err
		}
	}
	if len(args) == 0 {
		return nil
	}
	say("%d packages, %.1f MB", len(plan.Packages), float64(plan.Size())/1e6)
	meter.Begin("download")
	err = plan.Fetch(ctx, a.cache, apt.FetchOptions{Offline: a.offline, Retrying: retrying(say)})
	if err != nil {
		return err
	}
	o := bootstrap.Options{Filters: a.filters, Initramfs: a.initramfs, Meter: meter}
	o.Env, o.Show = scriptTime()
	if a.verbose {
		o.Log = std.Stderr
	}
	if err := bootstrap.Make(ctx, plan, a.cache, args[0], o); err != nil {
		return err
	}
	return a.report(std.Stdout, say, plan, meter.End())
}

// scriptTime is what packages' scripts are told of the time: what this program
// was told, with the library that a second build shows them another time with.
func scriptTime() (env []string, show string) {
	if epoch, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		env = append(env, "SOURCE_DATE_EPOCH="+epoch)
	}
	lib := os.Getenv("LD_PRELOAD")
	if filepath.Base(lib) != filepath.Base(faketimeLibrary) {
		return env, ""
	}
	for _, name := range imagebuild.FaketimeVariables() {
		env = append(env, name+"="+os.Getenv(name))
	}
	return append(env, "LD_PRELOAD="+filepath.Join(rootfs.HooksDir, filepath.Base(lib))), filepath.Dir(lib)
}

func retrying(say func(string, ...any)) func(error) {
	return func(err error) { say("%v; trying again", err) }
}

// choose makes the plan, or reads it.
func (a *bootstrapArgs) choose(ctx context.Context, say func(string, ...any)) (*apt.Plan, error) {
	if a.plan != "" {
		b, err := os.ReadFile(a.plan)
		if err != nil {
			return nil, command.BadInput(err, "name a file that --save-plan wrote")
		}
		plan, err := apt.ParsePlan(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.plan, err)
		}
		return plan, nil
	}
	packages := a.packages
	if a.packagesFile != "" {
		b, err := os.ReadFile(a.packagesFile)
		if err != nil {
			return nil, command.BadInput(err, "name a file with one package a line")
		}
		packages = append(packages, strings.Fields(string(b))...)
	}
	var sources []apt.Source
	var err error
	if len(a.mirrors) > 0 {
		sources, err = apt.ParseSources(a.mirrors, a.suite, a.arch)
	} else {
		sources, err = apt.HostSources("/", a.suite)
	}
	if err != nil {
		return nil, err
	}
	return apt.Resolve(ctx, apt.Options{
		Suite: a.suite, Arch: a.arch, Sources: sources, Packages: packages, Cache: a.cache, Offline: a.offline,
		Retrying: retrying(say),
	})
}

func savePlan(stdout io.Writer, file string, plan *apt.Plan) error {
	b, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if file == "-" {
		_, err = stdout.Write(b)
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

// report prints what was made and what it took.
func (a *bootstrapArgs) report(
	stdout io.Writer, say func(string, ...any), plan *apt.Plan, stages []bootstrap.Stage,
) error {
	if a.json {
		return json.NewEncoder(stdout).Encode(struct {
			Packages int               `json:"packages"`
			Bytes    int64             `json:"bytes"`
			Stages   []bootstrap.Stage `json:"stages"`
		}{len(plan.Packages), plan.Size(), stages})
	}
	for _, s := range stages {
		say("%-10s %6.2f s CPU, %6.2f s", s.Name, s.CPU, s.Wall)
	}
	return nil
}
