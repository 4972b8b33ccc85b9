package command

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testProgram(run func(out string, words []string) error) *Program {
	var out string
	return &Program{Name: "prog", Short: "does things", Version: "1", Commands: []*Command{{
		Name: "make", Args: "THING", Short: "make a thing", Long: "Makes it.", Example: "prog make -o x thing",
		Flags: func(fs *flag.FlagSet) { fs.StringVar(&out, "o", "here", "write to `directory`") },
		Run:   func(_ context.Context, _ IO, words []string) error { return run(out, words) },
	}}}
}

// A command that does not look whether its results could be written fails.
func TestResultsThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	p := &Program{Name: "prog", Root: &Command{Run: func(_ context.Context, io IO, _ []string) error {
		fmt.Fprintln(io.Stdout, "result")
		return nil
	}}}
	var log strings.Builder
	if st := p.Run(t.Context(), nil, IO{Stdout: full, Stderr: &log}); st != StatusFailed || !strings.Contains(log.String(), "prog: standard output: ") {
		t.Errorf("status %d, %q", st, log.String())
	}
	p.Status = func(error) int { return 77 }
	if st := p.Run(t.Context(), nil, IO{Stdout: full, Stderr: &log}); st != 77 {
		t.Errorf("status %d; want the program's own", st)
	}
}

func TestProgram(t *testing.T) {
	fine := func(string, []string) error { return nil }
	fails := func(string, []string) error {
		return Hint(Missing(errors.New("no oven"), ""), "buy one")
	}
	for _, tt := range []struct {
		args   string
		run    func(string, []string) error
		status int
		stdout string // contains
		stderr string // contains
	}{
		{"make x", fine, 0, "", ""},
		{"make x", fails, 3, "", "prog: no oven\nhint: buy one\n"},
		{"", fine, 2, "", "no command given"},
		{"mak", fine, 2, "", `prog: unknown command "mak"`},
		{"make -x", fine, 2, "", "flag provided but not defined: -x"},
		{"--help", fine, 0, "make        make a thing", ""},
		{"make --help", fine, 0, "Example:\n  prog make -o x thing", ""},
		{"help make", fine, 0, "-o directory", ""},
		{"version", fine, 0, "prog 1\n", ""},
		{"completion bash", fine, 0, "make) words='-o'", ""},
		{"completion --help", fine, 0, "source <(prog completion bash)", ""},
		{"completion fish", fine, 0, "-a make -d 'make a thing'", ""},
		{"completion tcsh", fine, 2, "", "no completion for shell"},
	} {
		var stdout, stderr bytes.Buffer
		status := testProgram(tt.run).Run(t.Context(), strings.Fields(tt.args), IO{Stdout: &stdout, Stderr: &stderr})
		if status != tt.status || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
			t.Errorf("prog %s = %d\nstdout: %s\nstderr: %s\nwant %d, %q, %q", tt.args, status, &stdout, &stderr, tt.status, tt.stdout, tt.stderr)
		}
	}
}

// Flags and words may come in any order; "--" ends the flags.
func TestWordsAndFlags(t *testing.T) {
	for args, want := range map[string]string{
		"make a -o out b":        "out a b",
		"make -o out -- -a -o b": "out -a -o b",
		"make a -- --help":       "here a --help",
		"make a -":               "here a -",
	} {
		var got string
		p := testProgram(func(out string, words []string) error {
			got = strings.Join(append([]string{out}, words...), " ")
			return nil
		})
		if status := p.Run(t.Context(), strings.Fields(args), IO{Stdout: io.Discard, Stderr: io.Discard}); status != 0 || got != want {
			t.Errorf("%q gives %q, status %d; want %q", args, got, status, want)
		}
	}
}

func TestCompletionIsShell(t *testing.T) {
	flags := func(fs *flag.FlagSet) { fs.String("mode", "", ""); fs.String("file", "", "") }
	root := &Command{Words: []string{"near", "far"}, Values: map[string][]string{"mode": {"slow", "fast"}}, Flags: flags}
	alone, both := &Program{Name: "prog", Root: root}, &Program{Name: "prog", Root: root, Commands: testProgram(nil).Commands}
	both.Commands[0].Values = map[string][]string{"o": {"here", "there"}}
	for _, tt := range []struct {
		p    *Program
		line string
		want string
	}{
		{testProgram(nil), "ma", "make"}, {testProgram(nil), "h", "help"}, {testProgram(nil), "make -", "-o"},
		{testProgram(nil), "comp", "completion"}, {testProgram(nil), "completion z", "zsh"}, {testProgram(nil), "n", ""},
		{alone, "n", "near"}, {alone, "far n", "near"}, {alone, "--m", "--mode"}, {alone, "comp", "completion"},
		{alone, "--mode f", "fast"}, {alone, "far --mode s", "slow"}, {alone, "--file s", ""}, {alone, "completion f", "fish"},
		{both, "n", "near"}, {both, "m", "make"}, {both, "make -", "-o"}, {both, "make -o h", "here"}, {both, "make n", ""},
		{both, "--mode f", "fast"}, {both, "comp", "completion"},
	} {
		var script bytes.Buffer
		if status := tt.p.Run(t.Context(), []string{"completion", "bash"}, IO{Stdout: &script}); status != 0 {
			t.Fatal(status)
		}
		fmt.Fprintf(&script, "\nCOMP_WORDS=(prog %s); COMP_CWORD=%d; _prog; echo \"${COMPREPLY[@]}\"\n", tt.line,
			len(strings.Fields(tt.line)))
		out, err := exec.Command("bash", "-c", script.String()).CombinedOutput()
		if string(out) != tt.want+"\n" || err != nil {
			t.Errorf("completing %q = %q, %v; want %q", tt.line, out, err, tt.want)
		}
	}
	var fish bytes.Buffer
	both.Run(t.Context(), []string{"completion", "fish"}, IO{Stdout: &fish})
	want := "complete -c prog -n __fish_use_subcommand -l file\n" +
		"complete -c prog -n __fish_use_subcommand -l mode -x -a 'slow fast'\n" +
		"complete -c prog -n __fish_use_subcommand -a 'near far'\n" +
		"complete -c prog -n __fish_use_subcommand -a make -d 'make a thing'\n" +
		"complete -c prog -n '__fish_seen_subcommand_from make' -s o -x -a 'here there'\n" +
		"complete -c prog -n __fish_use_subcommand -a completion -d '" + completionShort + "'\n" +
		"complete -c prog -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n"
	if d := cmp.Diff(want, fish.String()); d != "" {
		t.Error(d)
	}
}

func TestExec(t *testing.T) {
	out, err := Exec{Args: []string{"sh", "-c", "echo hello"}}.Output(t.Context())
	if string(out) != "hello\n" || err != nil {
		t.Errorf("Output = %q, %v", out, err)
	}
	err = Exec{Args: []string{"sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; done; echo; exit 7"}}.Run(t.Context())
	ee, ok := errors.AsType[*ExitError](err)
	if !ok || ee.Status != 7 || cmp.Diff([]string{"3", "4", "5", "6", "7", "8", "9", "10"}, ee.Tail) != "" {
		t.Errorf("exit 7: %v", err)
	}
	err = Exec{Args: []string{"no-such-program"}, Remedy: "install it"}.Run(t.Context())
	if Status(err) != StatusMissing {
		t.Errorf("a missing program: %v, status %d", err, Status(err))
	}
}

// A line of which only the end is kept says so, however little that is.
func TestTailOfLongLines(t *testing.T) {
	tail := &lineTail{max: tailLines}
	s := tail.stream(0)
	for _, part := range []string{strings.Repeat("f", 64<<10), "long", strings.Repeat(" ", 4090) + "x", "\nnext\n",
		strings.Repeat("f", 64<<10) + strings.Repeat(" ", 4090)} {
		if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	got := tail.lines()
	if len(got) != 3 || !strings.HasPrefix(got[0], Cut) || got[1] != "next" || got[2] != Cut+"ffffff" {
		t.Errorf("%.20q", got)
	}
}

// A cancelled context ends the whole group, and the error is the context's.
func TestExecCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	start := time.Now()
	err := Exec{Args: []string{"sh", "-c", "sleep 60 & sleep 60"}}.Run(ctx)
	if !errors.Is(err, context.Canceled) || time.Since(start) > 30*time.Second {
		t.Errorf("cancelled: %v after %s", err, time.Since(start))
	}
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("x"), 1}, {Usage("x", ""), 2}, {Missing(errors.New("x"), ""), 3},
		{Busy(errors.New("x"), ""), 4}, {context.Canceled, 130},
		{Hint(Usage("x", ""), "h"), 2}, {errors.Join(errors.New("y"), Usage("x", "")), 2},
	} {
		if got := Status(tt.err); got != tt.want {
			t.Errorf("Status(%v) = %d; want %d", tt.err, got, tt.want)
		}
	}
}

func TestProgressPlainAndJSON(t *testing.T) {
	var stdout, stderr bytes.Buffer
	p := NewProgress("prog", IO{Stdout: &stdout, Stderr: &stderr}, false)
	p.Start("bake").Done(nil, "12 loaves")
	p.Within("oven").Start("cool").Cached("")
	p.Close()
	if got := stderr.String(); !strings.HasPrefix(got, "prog: bake                                     ok         0.0s  12 loaves\nprog: oven: cool                               cached     0.0s\n") {
		t.Errorf("plain progress:\n%s", got)
	}
	p = NewProgress("prog", IO{Stdout: &stdout, Stderr: &stderr}, true)
	p.Start("bake").Done(errors.New("burnt"), "")
	p.Result(map[string]int{"loaves": 12})
	p.Close()
	for _, want := range []string{`{"event":"start","step":"bake"}`, `"status":"failed"`, `{"event":"result","result":{"loaves":12}}`} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %s in\n%s", want, &stdout)
		}
	}
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	Print(&b, "prog", Hint(errors.New("hook 10-x: exit status 3"), "look there"))
	if got, want := b.String(), "prog: hook 10-x: exit status 3\nhint: look there\n"; got != want {
		t.Errorf("Print = %q; want %q", got, want)
	}
	b.Reset()
	Print(&b, "prog", Hint(errors.New("é\x1b[31m\x00\u202e:\n    x\u200by\n"), "a\tb"))
	if got, want := b.String(), "prog: é [31m  :\n    x y\nhint: a b\n"; got != want {
		t.Errorf("Print = %q; want %q", got, want)
	}
	if got := HintOf(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}); !strings.Contains(got, "full") {
		t.Errorf("the hint of a full file system is %q", got)
	}
}

// An interrupt is told shortly, what could not be cleaned up is told too.
func TestInterrupted(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{context.Canceled, "prog: interrupted\n"},
		{fmt.Errorf("stage: %w", context.Canceled), "prog: interrupted\n"},
		{errors.Join(fmt.Errorf("stage: %w", context.Canceled), errors.New("machine still runs")), "prog: interrupted\nprog: machine still runs\n"},
		{Hint(errors.Join(context.Canceled, errors.New("x")), "h"), "prog: interrupted\nprog: x\n"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		p := testProgram(func(string, []string) error { cancel(); return tt.err })
		var stderr bytes.Buffer
		if status := p.Run(ctx, []string{"make"}, IO{Stderr: &stderr}); status != 130 || stderr.String() != tt.want {
			t.Errorf("%v: status %d, %q; want %q", tt.err, status, &stderr, tt.want)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A log that cannot be written is the error, not what becomes of the program.
func TestExecFullLog(t *testing.T) {
	for _, x := range []Exec{{Log: fullDisk{}}, {Stdout: fullDisk{}}} {
		x.Args = []string{"sh", "-c", "for i in 1 2 3; do echo line; done; exit 0"}
		if err := x.Run(t.Context()); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("full disk: %v", err)
		}
	}
}

// What a program leaves running does not make it a failure, and ends.
func TestExecBackground(t *testing.T) {
	x := Exec{Args: []string{"sh", "-c", "sleep 45678 & echo $!"}, Grace: 100 * time.Millisecond}
	out, err := x.Output(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %d still runs", pid)
}

// Steps that nobody ended go with the step around them.
func TestProgressForgottenStep(t *testing.T) {
	p := NewProgress("prog", IO{Stderr: new(bytes.Buffer)}, false)
	outer := p.Start("outer")
	p.Start("inner")
	outer.Done(nil, "")
	if p.out.running != nil {
		t.Errorf("%s is still shown as running", p.out.running.name)
	}
	p.Close()
}

func TestErrorEvent(t *testing.T) {
	var stdout bytes.Buffer
	p := NewProgress("prog", IO{Stdout: &stdout}, true)
	p.Error(Hint(Missing(errors.New("no oven"), ""), "buy one"))
	p.Close()
	if got, want := stdout.String(), `{"event":"error","detail":"no oven","hint":"buy one","exit":3}`+"\n"; got != want {
		t.Errorf("event %s; want %s", got, want)
	}
}

func TestOriginalStatus(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{Usage("no such flag", ""), 2}, {BadInput(errors.New("not JSON"), ""), 1}, {Missing(errors.New("x"), ""), 1},
		{Busy(errors.New("x"), ""), 11}, {errors.New("x"), 1}, {&Error{Status: 255, Err: errors.New("x")}, 255},
		{Hint(Usage("wrapped", ""), "h"), 2},
	} {
		if got := OriginalStatus(tt.err, 11); got != tt.want {
			t.Errorf("OriginalStatus(%v) = %d; want %d", tt.err, got, tt.want)
		}
	}
}

// A program that does something without a verb may have verbs, too.
func TestRootAndCommands(t *testing.T) {
	var ran []string
	p := testProgram(func(out string, words []string) error {
		ran = append(ran, "make "+strings.Join(words, " "))
		return nil
	})
	p.Root = &Command{Short: "does", Long: "Does.", Run: func(_ context.Context, _ IO, words []string) error {
		ran = append(ran, "root "+strings.Join(words, " "))
		return nil
	}}
	var out, errs bytes.Buffer
	for _, args := range []string{"make it", "made", "", "--help", "make --help", "completion bash"} {
		if status := p.Run(t.Context(), strings.Fields(args), IO{Stdout: &out, Stderr: &errs}); status != StatusOK {
			t.Errorf("%q: status %d: %s", args, status, errs.String())
		}
	}
	if diff := cmp.Diff([]string{"make it", "root made", "root "}, ran); diff != "" {
		t.Errorf("ran (-want +got):\n%s", diff)
	}
	for _, want := range []string{"Or: prog COMMAND ...\n  make        make a thing\n", "prog make: make a thing", "make) words='-o' ;;"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed\n%s\nwant %q in it", out.String(), want)
		}
	}
}
