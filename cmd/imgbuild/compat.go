package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/dibargs"
	"goldsmith/internal/element"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
)

// originals are the programs that imgbuild is when it is called by their
// names, through links. They end with 0 or 1, or with the status of the hook
// that failed.
var originals = map[string]func(name string, args []string) int{
	dibargs.DiskImageCreate:    createImage,
	dibargs.RamdiskImageCreate: createImage,
	dibargs.DiskimageBuilder:   buildBatch,
	dibargs.ElementInfo:        elementInfoMain,
}

// originalElements is where Debian's python3-diskimage-builder keeps its
// elements.
const originalElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"

// hookTimeout is the variable that stands for --hook-timeout, which the
// originals' command lines do not have.
const hookTimeout = "GOLDSMITH_HOOK_TIMEOUT"

// compatPath is where the originals' names look for elements.
func compatPath() (element.Path, string, error) {
	bin, err := command.Self()
	if err != nil {
		return nil, "", err
	}
	path, err := element.CompatPath(bin, originalElements)
	return path, bin, err
}

// failed prints an error the way the program does, and gives its status.
func failed(name string, err error) int {
	command.Print(os.Stderr, name, err)
	if h, ok := errors.AsType[*imagebuild.HookError](err); ok && h.Status > 0 {
		return h.Status
	}
	return command.StatusFailed
}

// printed prints a result, and gives the program's status.
func printed(name, text string) int {
	out := &command.Output{W: os.Stdout}
	fmt.Fprint(out, text)
	if err := out.Err(); err != nil {
		return failed(name, err)
	}
	return command.StatusOK
}

// createImage is disk-image-create and ramdisk-image-create.
func createImage(name string, args []string) int {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root"
	}
	// As the original, find mkfs and the like from an ordinary user's path.
	if err := os.Setenv("PATH", imagebuild.WithSystemDirs(os.Getenv("PATH"))); err != nil {
		return failed(name, err)
	}
	img, err := dibargs.ParseImage(name, args, os.Environ(), architecture(), home)
	switch {
	case errors.Is(err, dibargs.ErrHelp):
		return printed(name, dibargs.Usage(name))
	case errors.Is(err, dibargs.ErrVersion):
		return printed(name, version+"\n")
	case err != nil:
		return failed(name, command.Hint(err, "'"+name+" --help' lists the options"))
	}
	if err := rootfs.Isolate(); err != nil {
		return failed(name, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	log, closeLog, err := compatLog(img)
	if err != nil {
		return failed(name, err)
	}
	p := command.NewProgress(name, command.IO{Stdin: os.Stdin, Stdout: log, Stderr: log}, false)
	err = buildCompat(ctx, img, log, p)
	p.Close()
	switch {
	case err == nil:
		fmt.Fprintln(log, "Build completed successfully")
	case img.LogFile != "":
		command.Print(log, name, err) // whoever reads the log alone must find it
	}
	if err := errors.Join(err, closeLog()); err != nil {
		if ctx.Err() != nil {
			command.Print(os.Stderr, name, errors.New("interrupted"))
			return command.StatusInterrupted
		}
		return failed(name, err)
	}
	return command.StatusOK
}

// buildCompat builds what a command line asks for.
func buildCompat(ctx context.Context, img *dibargs.Image, log io.Writer, p *command.Progress) error {
	path, bin, err := compatPath()
	if err != nil {
		return err
	}
	def := &imagebuild.Definition{
		Name: filepath.Base(img.Name), Version: "0", Arch: img.Arch,
		Release: img.Environ["DIB_RELEASE"], Elements: img.All(),
	}
	c := &imagebuild.Compat{
		Environ: img.Environ, Caller: img.Caller, Args: img.Args, ImageName: img.Name, ImageCache: img.ImageCache, LockFiles: img.LockFiles,
		Packages: img.Packages, RootLabel: img.RootLabel, MkfsOptions: img.MkfsOptions, MaxOnlineResize: img.MaxResize,
		QemuImgOptions: img.QemuOptions, DockerTarget: img.DockerTarget, NoImage: img.Ramdisk, Log: log, LogName: img.LogFile,
	}
	if def.Outputs, err = imagebuild.CompatOutputs(img.Types, !img.Uncompressed, img.QemuOptions); err != nil {
		return err
	}
	if slices.Contains(img.Types, "docker") && img.DockerTarget == "" {
		return command.BadInput(errors.New("image type docker: the image has no name there"), "--docker-target REPOSITORY:TAG")
	}
	var limit time.Duration
	if text := img.Environ[hookTimeout]; text != "" {
		if limit, err = time.ParseDuration(text); err != nil || limit < 0 {
			return command.BadInput(fmt.Errorf("%s %q: expected a time such as 30m", hookTimeout, text), "")
		}
	}
	fmt.Fprintf(log, "Building elements: %s\n", strings.Join(def.Elements, " "))
	res, err := imagebuild.Build(ctx, def, imagebuild.Options{
		Out: filepath.Dir(img.Name), Elements: path, Bin: bin, HookTimeout: limit, Progress: p, Compat: c,
	})
	if err != nil {
		return err
	}
	for _, o := range res.Outputs {
		fmt.Fprintf(log, "Image file %s created, sha256:%s\n", o.Path, o.SHA256)
	}
	return nil
}

// architecture is the machine's, in Debian's words.
func architecture() string {
	if out, err := (command.Exec{Args: []string{"dpkg", "--print-architecture"}}).Output(context.Background()); err == nil {
		return strings.TrimSpace(string(out))
	}
	return runtime.GOARCH
}

// compatLog is where a build's output goes: standard output and the log file,
// with the time before each line, as the original's filter has it.
func compatLog(img *dibargs.Image) (io.Writer, func() error, error) {
	f := &filter{}
	if !img.Quiet {
		f.sinks = append(f.sinks, stamped{os.Stdout, !img.NoTimestamp})
	}
	if img.LogFile == "" {
		return f, f.Close, nil
	}
	fmt.Printf("Output logs going to: %s\n", img.LogFile)
	file, err := os.OpenFile(img.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("log file: %w", err)
	}
	f.sinks = append(f.sinks, stamped{file, true})
	return f, func() error { return errors.Join(f.Close(), file.Close()) }, nil
}

// filter passes on whole lines, but for those that tell of the shell's own
// tracing.
type filter struct {
	mu    sync.Mutex // guards part
	part  []byte
	sinks []stamped
}

// stamped is a writer whose lines may begin with the time.
type stamped struct {
	w     io.Writer
	stamp bool
}

func (f *filter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := p
	for {
		line, after, found := bytes.Cut(rest, []byte("\n"))
		f.part = append(f.part, line...)
		if !found && len(f.part) < maxLine {
			return len(p), nil
		}
		text := string(f.part) + "\n"
		f.part = f.part[:0]
		if err := f.line(text); err != nil {
			return 0, err
		}
		rest = after
	}
}

// maxLine is how much of a line is kept for its end to come, in bytes: a
// progress bar may have none.
const maxLine = 64 << 10

// Close passes on a last line without an end.
func (f *filter) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.part) == 0 {
		return nil
	}
	line := string(f.part) + "\n"
	f.part = nil
	return f.line(line)
}

func (f *filter) line(line string) error {
	if strings.Contains(line, "set +o") || strings.Contains(line, "xtrace") {
		return nil
	}
	now := time.Now().UTC().Format("2006-01-02 15:04:05.000 | ")
	for _, s := range f.sinks {
		text := line
		if s.stamp {
			text = now + line
		}
		if _, err := io.WriteString(s.w, text); err != nil {
			return err
		}
	}
	return nil
}

// buildBatch is diskimage-builder: every image in a process of its own.
func buildBatch(name string, args []string) int {
	var files []string
	var dryRun, stop bool
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "-h" || a == "--help":
			return printed(name, dibargs.BatchUsage())
		case a == "--dry-run":
			dryRun = true
		case a == "--stop-on-failure":
			stop = true
		case a == "--":
			files, args = append(files, args...), nil
		case strings.HasPrefix(a, "-"):
			return wrongUsage(name, "unrecognized arguments: "+a)
		default:
			files = append(files, a)
		}
	}
	if len(files) == 0 {
		return wrongUsage(name, "the following arguments are required: <filename>")
	}
	commands, err := dibargs.Batch(files)
	if err != nil {
		return failed(name, err)
	}
	ctx, done := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer done()
	status := command.StatusOK
	for _, c := range commands {
		fmt.Fprintln(os.Stderr, c)
		if dryRun {
			continue
		}
		err := runBuild(ctx, c)
		if ctx.Err() != nil {
			command.Print(os.Stderr, name, errors.New("interrupted"))
			return command.StatusInterrupted
		}
		if err != nil {
			command.Print(os.Stderr, name, err)
			status = command.StatusFailed
			if stop {
				break
			}
		}
	}
	return status
}

// wrongUsage ends as Python's argparse does.
func wrongUsage(name, what string) int {
	command.Print(os.Stderr, name, command.Hint(errors.New(what), "'"+name+" --help' shows how"))
	return 2
}

// runBuild runs one build of a batch. It ends with the batch.
func runBuild(ctx context.Context, c dibargs.Command) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", c.Args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // the thread's death would count as ours
	defer runtime.UnlockOSThread()
	cmd.Args[0] = c.Program
	cmd.Env = os.Environ()
	for _, v := range c.Environment {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

// elementInfoMain is element-info: the elements that some lead to.
func elementInfoMain(name string, args []string) int {
	env := false
	var names []string
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			names, args = append(names, args...), nil
		case a == "-h" || a == "--help":
			return printed(name, "Usage: element-info [--env] ELEMENT...\n\n"+
				"Prints the elements that some lead to, themselves included; with -e or --env as\n"+
				"shell text that sets IMAGE_ELEMENT, IMAGE_ELEMENT_YAML and get_image_element_array.\n\n"+
				"Example:\n  eval \"$(element-info --env vm block-device-efi debian-minimal)\"\n")
		case a == "-e" || a == "--env":
			env = true
		case strings.HasPrefix(a, "-"):
			return wrongUsage(name, "unrecognized arguments: "+a)
		default:
			names = append(names, a)
		}
	}
	if len(names) == 0 {
		return wrongUsage(name, "the following arguments are required: elements")
	}
	path, _, err := compatPath()
	if err != nil {
		return failed(name, err)
	}
	elements, err := path.Resolve(names)
	if err != nil {
		return failed(name, err)
	}
	if env {
		return printed(name, element.Shell(elements))
	}
	var words []string
	for _, e := range elements {
		words = append(words, e.Name)
	}
	return printed(name, strings.Join(words, " ")+"\n")
}
