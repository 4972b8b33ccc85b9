package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// shell is what the hooks inherit from the shell that sourced environment.d.
type shell struct {
	env []string
	// dir and umask are set only when a snippet changed them.
	dir, umask string
	// goesOn says that a snippet took "set -e" back: a shell that ran the hooks
	// itself would go on after one that fails.
	goesOn bool
}

// wrap makes a hook start in the shell's directory and with its umask.
func (s *shell) wrap(args []string) []string {
	if s.dir == "" && s.umask == "" {
		return args
	}
	// bash runs the last command in its own process; its exec would, too, but
	// makes paths absolute. Other shells drop functions from the environment.
	const script = `[ -z "$1" ] || cd "$1"; [ -z "$2" ] || umask "$2"; shift 2; "$@"`
	return append([]string{"bash", "-eu", "-c", script, "bash", s.dir, s.umask}, args...)
}

// Where the report goes that the sourcing shell makes: what is standard output,
// and the snippets' own output goes to standard error; or file 3, and the
// snippets' output goes where the hooks' goes.
const (
	toStdout = "exec {_hook_fd}>&1 1>&2\n"
	toFile   = "exec {_hook_fd}>&3 3>&-\n"
)

// sourcer is run by bash with the snippets as arguments, after toStdout or
// toFile. It reports in records that end with a zero byte: the directory,
// umask and options, a snippet before it is sourced, and at the end directory,
// umask, options and environment. The options are dib-run-parts': snippets rely on failing at an unset variable.
// As there, a function without arguments sources them: "local" works, and what
// declare makes does not outlive it.
const sourcer = `set -ue -o pipefail
_hook_say() { printf '%s\0' "$@" >&"$_hook_fd"; }
_hook_trace=$1; _hook_prefix=$2; shift 2
_hook_files=("$@"); shift $#
_hook_source() {
    for _hook_file in "${_hook_files[@]}"; do
        _hook_say "file" "$_hook_file"
        printf '%s%s\n' "$_hook_prefix" "$_hook_file" >&2
        [ -z "$_hook_trace" ] || set -x
        source "$_hook_file"
        { set +x; } 2>/dev/null
    done
}
# The subshell keeps bash from complaining about the function it left in the middle.
(
    _hook_say "state" "$PWD" "$(umask)" "$-"
    _hook_source
    _hook_say "state" "$PWD" "$(umask)" "$-" "env"
    command env -0 >&"$_hook_fd"
)`

// sourcing begins the line that says which snippet comes next.
const sourcing = "Sourcing environment file "

// environment sources environment.d, when there is one, and returns what the
// hooks inherit.
func (r *Runner) environment(ctx context.Context) (*shell, error) {
	names, err := Snippets(filepath.Join(r.Dir, "..", "environment.d"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return &shell{env: r.environ()}, nil
	}
	trace := ""
	if r.Trace {
		trace = "x"
	}
	args := []string{"bash", "-c", toStdout + sourcer, "dib-run-parts", trace, r.prefix() + sourcing}
	for _, n := range names {
		args = append(args, r.in("../environment.d/"+n))
	}
	x := command.Exec{Args: args, Env: r.environ(), Dir: r.Work, Stdin: r.Stdin, Log: r.Log, Bond: r.Bond}
	text, err := r.source(ctx, x)
	rep := readReport(text)
	switch {
	case err != nil:
		return nil, r.fault(ctx, rep.last(r.in("../environment.d")), err)
	case rep.env == nil:
		// "exit 0" in a snippet ends the shell that is to run the hooks. The
		// original then runs none and reports success; nobody wants that.
		return nil, &Error{Path: rep.last(r.in("../environment.d")), Status: 1, Err: errEnded}
	}
	return rep.shell(), nil
}

// source runs the sourcing shell and returns its report.
func (r *Runner) source(ctx context.Context, x command.Exec) (string, error) {
	var out output
	if r.Bond != command.Share {
		x.Stdout = &out
		err := r.exec(ctx, x)
		return out.String(), err
	}
	fd, err := unix.MemfdCreate("environment", unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("environment.d: %w", err)
	}
	f := os.NewFile(uintptr(fd), "environment")
	defer f.Close()
	x.Args[2] = toFile + sourcer
	x.Stdout, x.Files = r.Stdout, []*os.File{f}
	err = r.exec(ctx, x)
	_, copied := io.Copy(&out, io.NewSectionReader(f, 0, maxReport+1))
	return out.String(), cmp.Or(err, copied)
}

var errEnded = errors.New("ended the shell before the hooks could run")

// report is what the sourcing shell said.
type report struct {
	files  []string
	states [][3]string // directory, umask and options, before and after
	env    []string
}

func readReport(text string) report {
	var rep report
	words := strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
	for len(words) > 0 {
		switch {
		case words[0] == "state" && len(words) >= 4:
			rep.states = append(rep.states, [3]string{words[1], words[2], words[3]})
			words = words[4:]
		case words[0] == "file" && len(words) >= 2:
			rep.files = append(rep.files, words[1])
			words = words[2:]
		case words[0] == "env":
			rep.env = clean(words[1:])
			return rep
		default:
			return rep
		}
	}
	return rep
}

// last is the snippet that was being sourced.
func (rep report) last(otherwise string) string {
	if len(rep.files) == 0 {
		return otherwise
	}
	return rep.files[len(rep.files)-1]
}

func (rep report) shell() *shell {
	s := &shell{env: rep.env}
	if len(rep.states) == 2 {
		before, after := rep.states[0], rep.states[1]
		if before[0] != after[0] {
			s.dir = after[0]
		}
		if before[1] != after[1] {
			s.umask = after[1]
		}
		s.goesOn = !strings.Contains(after[2], "e")
	}
	return s
}

// clean drops what belongs to the shell and its env program alone.
func clean(env []string) []string {
	kept := make([]string, 0, len(env))
	for _, e := range env {
		if name, _, ok := strings.Cut(e, "="); ok && name != "_" && !strings.HasPrefix(strings.TrimPrefix(name, "BASH_FUNC_"), "_hook_") {
			kept = append(kept, e)
		}
	}
	return kept
}
