package imagebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/blockdevice"
	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
	"goldsmith/internal/rootfs"
	"goldsmith/internal/tarball"
	"goldsmith/internal/tree"
	"goldsmith/internal/vm"
)

// InMachine is the name of the command that does the disk's half of a build
// inside the virtual machine: "imgbuild in-machine JOB". Nobody else calls it.
const InMachine = "in-machine"

// machineJob is that half: JSON in the scratch directory.
type machineJob struct {
	Stage   stage
	Config  string // the block device configuration; empty means the default
	Name    string // of the configuration, for messages
	Params  blockdevice.Params
	Tree    string // the device that holds the tree as a tar archive
	Clean   *time.Time
	Export  string // where the finished tree goes as a tar archive; empty: nowhere
	Status  string // where the package database goes
	Failure string // where an error goes
}

// machineFailure is how the machine tells an error.
type machineFailure struct {
	Text   string
	Hint   string
	Status int        // exit status of the program
	Hook   *HookError `json:",omitempty"`
}

// What the machine leaves in the directory that steps work in.
const (
	statusName   = "status"   // the package database
	finishedName = "finished" // the finished tree, where an output is made from it
	diskName     = "image0.raw"
)

// diskInMachine makes the disk, copies the tree on it and runs the last phases
// there, in a virtual machine. What comes of it machineResult reads.
func (b *build) diskInMachine(ctx context.Context) error {
	root := b.root()
	// What a hook mounted on the tree is no part of the image.
	if err := rootfs.UnmountBelow(root); err != nil {
		return err
	}
	if err := b.sizeDisk(); err != nil {
		return err
	}
	images := b.layout.plan.Images()
	j := machineJob{
		Stage: *b.stageFor(diskPhases[0], root), Config: string(b.layout.text), Name: b.layout.name, Params: b.layout.params,
		Status: filepath.Join(b.dir(), statusName), Failure: filepath.Join(b.work.dir, "failure"),
		Tree: deviceName(len(images)),
	}
	j.Stage.Devices, j.Stage.Lent = true, b.lent
	terminal := len(j.Stage.Break.Points) > 0 && term.IsTerminal(int(os.Stdin.Fd()))
	j.Stage.NoInput = !terminal
	for name, value := range j.Stage.Env {
		j.Stage.Env[name] = vm.Reachable(name, value)
	}
	if b.opts.Compat == nil {
		j.Clean = &b.epoch
	}
	if b.wantsTree() {
		j.Export = filepath.Join(b.work.dir, "finished.tar")
	}
	kernel, err := vm.FindKernel([]string{root, "/"}, b.layout.plan.Modules())
	if err != nil {
		return err
	}
	c := vm.Config{
		Kernel: kernel, Scratch: b.work.dir, Dir: b.workDir(), Args: []string{InMachine, filepath.Join(b.work.dir, "job.json")},
		Log: b.log, Terminal: terminal,
	}
	for _, i := range images {
		path := filepath.Join(b.dir(), imageName, i.Name+".raw")
		if err := makeSparse(path, i.Size); err != nil {
			return err
		}
		c.Disks = append(c.Disks, vm.Disk{Path: path, SectorSize: i.Sector})
	}
	packed := filepath.Join(b.work.dir, "tree.tar")
	if err := packTree(ctx, root, packed); err != nil {
		return explainFull(packed, err)
	}
	c.Disks = append(c.Disks, vm.Disk{Path: packed, ReadOnly: true})
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Args[1], text, 0o600); err != nil {
		return err
	}
	step := b.progress.Start("disk in a machine")
	err = j.outcome(vm.Run(ctx, c))
	step.Done(err, "")
	if err != nil {
		return err
	}
	if err := os.Remove(packed); err != nil || j.Export == "" {
		return err
	}
	if err := unpack(ctx, j.Export, filepath.Join(b.dir(), finishedName), b.log); err != nil {
		return err
	}
	return os.Remove(j.Export)
}

// machineResult returns the tree that the machine finished, or, where no output
// is made from it, what the manifest needs of it; and opens the disk.
func (b *build) machineResult() (*tree.Tree, error) {
	var err error
	if b.disk, err = os.Open(filepath.Join(b.dir(), imageName, diskName)); err != nil {
		return nil, err
	}
	if b.wantsTree() {
		return tree.FromDir(filepath.Join(b.dir(), finishedName))
	}
	t := tree.New()
	status := filepath.Join(b.dir(), statusName)
	if _, err := os.Stat(status); err == nil {
		if _, err := t.AddFrom(dpkg.StatusFile, 0o644, status); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// deviceName is the machine's name for its disk number n: 0 is /dev/vda.
func deviceName(n int) string { return "/dev/vd" + string(rune('a'+n)) }

// makeSparse makes a file of one hole.
func makeSparse(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// packTree writes the tree as a tar archive that nobody else can read: it has
// the image's secrets.
func packTree(ctx context.Context, root, path string) error {
	t, err := tree.FromDir(root)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(tarball.Write(ctx, f, t), f.Close())
}

// outcome is the error that the machine told, where it told one.
func (j *machineJob) outcome(err error) error {
	if err == nil {
		return nil
	}
	if _, ended := errors.AsType[*command.ExitError](err); !ended {
		return err
	}
	text, readErr := os.ReadFile(j.Failure)
	var f machineFailure
	if readErr != nil || json.Unmarshal(text, &f) != nil {
		return fmt.Errorf("in the virtual machine: %w", err)
	}
	told := errors.New(f.Text)
	if f.Hook != nil {
		f.Hook.text = f.Text
		told = f.Hook
	}
	return &command.Error{Status: f.Status, Err: told, Hint: f.Hint}
}

// unpack extracts a tar archive of ours with everything it says: owners,
// modes, times, attributes, devices.
func unpack(ctx context.Context, archive, dir string, log io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return command.Exec{
		Args: []string{"tar", "--directory=" + dir, "--extract", "--file=" + archive, "--preserve-permissions",
			"--same-owner", "--numeric-owner", "--xattrs", "--xattrs-include=*"},
		Log: log, Remedy: "Debian packages it as tar",
	}.Run(ctx)
}

// RunInMachine is the command [InMachine].
func RunInMachine(ctx context.Context, file string) error {
	if !vm.Inside() {
		return command.Usage(InMachine+" is for the build's own virtual machine", "imgbuild build starts it")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var j machineJob
	if err := json.Unmarshal(text, &j); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	j.Stage.log = os.Stdout
	err = j.run(ctx)
	if err == nil {
		return nil
	}
	f := machineFailure{Text: err.Error(), Hint: command.HintOf(err), Status: command.Status(err)}
	if h, ok := errors.AsType[*HookError](err); ok {
		f.Hook = h
	}
	text, marshalErr := json.Marshal(f)
	if marshalErr != nil {
		return errors.Join(err, marshalErr)
	}
	return errors.Join(err, atomicfile.Write(j.Failure, text, 0o600))
}

// run does the disk's half of the build.
func (j *machineJob) run(ctx context.Context) (err error) {
	config := blockdevice.Default()
	if j.Config != "" {
		if config, err = blockdevice.Parse(j.Name, []byte(j.Config)); err != nil {
			return err
		}
	}
	plan, err := config.Plan(j.Params)
	if err != nil {
		return err
	}
	if err := j.legacyDevice(ctx); err != nil {
		return err
	}
	disks := map[string]string{}
	for n, i := range plan.Images() {
		disks[i.Name] = deviceName(n)
	}
	devices, err := plan.Create(ctx, disks, j.Stage.log)
	if err != nil {
		return explainJournal(err)
	}
	defer func() { err = errors.Join(err, devices.Umount(context.WithoutCancel(ctx))) }()
	s := &j.Stage
	s.Env[blockDevice], s.Env[blockDevices] = devices.ImageBlockDevice(), devices.ImageBlockDevices()
	if err := unpack(ctx, j.Tree, s.Root, s.log); err != nil {
		return explainSmall(err)
	}
	if err := j.prepare(plan); err != nil {
		return err
	}
	for _, p := range diskPhases {
		if err := s.run(ctx, p, nil); err != nil {
			return err
		}
	}
	if err := s.finish(j.Clean); err != nil {
		return err
	}
	return j.export(ctx)
}

// owners names the elements that have hooks in a phase.
func (j *machineJob) owners(p phase) string {
	var names []string
	for _, e := range slices.Sorted(maps.Keys(j.Stage.Elements)) {
		if files, _ := os.ReadDir(filepath.Join(j.Stage.Elements[e], p.name)); len(files) > 0 {
			names = append(names, e)
		}
	}
	return strings.Join(names, ", ")
}

// explainJournal says what to do about a journal that a small file system has
// no room for.
func explainJournal(err error) error {
	x, ok := errors.AsType[*command.ExitError](err)
	if !ok || !slices.ContainsFunc(x.Tail, func(l string) bool { return strings.Contains(l, "journal size too big") }) {
		return err
	}
	return command.Hint(err, "DIB_JOURNAL_SIZE makes the journal smaller (MiB), DIB_IMAGE_SIZE the disk larger (GiB)")
}

// explainSmall says what to do about file systems of the image that the tree
// does not fit.
func explainSmall(err error) error {
	x, ok := errors.AsType[*command.ExitError](err)
	if !ok || !slices.ContainsFunc(x.Tail, saysFull) {
		return err
	}
	return command.Hint(errors.New("the image's tree does not fit its file systems"),
		"--image-size or DIB_IMAGE_SIZE (GiB) and DIB_IMAGE_EXTRA_SIZE (MiB) make the disk larger; look at the sizes in the block device configuration")
}

// legacyDevice runs the hooks that once made the device. The YAML replaced
// them, and the original can no longer finish a build that has one.
func (j *machineJob) legacyDevice(ctx context.Context) error {
	if !j.Stage.has(devicePhase) {
		return nil
	}
	var said strings.Builder
	if err := j.Stage.run(ctx, devicePhase, &said); err != nil {
		return err
	}
	fmt.Fprint(j.Stage.log, said.String())
	if strings.Contains(said.String(), blockDevice+"=") {
		return command.BadInput(fmt.Errorf("block-device.d: a hook of %s made the device itself, which is not supported", j.owners(devicePhase)),
			"describe the disk in block-device-default.yaml (docs/elements.md)")
	}
	return nil
}

// prepare writes what the tree needs of the disk and of the machine: fstab,
// and the machine's resolver in place of the host's.
func (j *machineJob) prepare(plan *blockdevice.Plan) error {
	if err := writeFstab(j.Stage.Root, plan.Fstab()); err != nil {
		return err
	}
	root, err := os.OpenRoot(j.Stage.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if fi, err := root.Lstat(resolvConf); j.Stage.Lent && err == nil && fi.Mode().IsRegular() {
		return root.WriteFile(resolvConf, []byte(vm.ResolvConf), 0o644)
	}
	return nil
}

// export writes what the host wants of the finished tree.
func (j *machineJob) export(ctx context.Context) error {
	root := j.Stage.Root
	if err := rootfs.UnmountBelow(filepath.Join(root, "tmp")); err != nil {
		return err
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	if status, err := r.ReadFile(dpkg.StatusFile); err == nil {
		if err := os.WriteFile(j.Status, status, 0o644); err != nil {
			return explainFull(j.Status, err)
		}
	}
	if j.Export == "" {
		return nil
	}
	return explainFull(j.Export, packTree(ctx, root, j.Export))
}
