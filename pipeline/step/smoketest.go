package step

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/evidence"
	"goldsmith/internal/hook"
	"goldsmith/pipeline"
	"goldsmith/testbed"
)

const (
	testLimit    = 5 * time.Minute // for one smoke test
	loginLimit   = 3 * time.Minute // from the signal to the first login
	journalLimit = 30 * time.Second
	addressLimit = 30 * time.Second
	statusSkip   = 77 // automake's convention: the test does not apply
	maxOutput    = 16 << 10
)

// elementFinder finds an element's directory by name.
type elementFinder interface {
	Find(name string) (*element.Element, error)
}

// sshKeys is the key pair of one attempt.
type sshKeys struct {
	file   string // the private key, readable by its owner only
	public string // as in authorized_keys
	signer ssh.Signer
}

func newSSHKeys(dir string) (*sshKeys, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	k := &sshKeys{file: filepath.Join(dir, "key"), signer: signer,
		public: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(sshPublic)))}
	return k, os.WriteFile(k.file, pem.EncodeToMemory(block), 0o600)
}

// machineSSH is the command that tests run on the machine with. It lies in a
// directory of its own, which is in the tests' PATH: so it is one word,
// whatever the directory is called.
const machineSSH = "machine-ssh"

// login waits until the machine lets us in, and makes the command for tests,
// which are not written in Go. The machine's host key is pinned.
func (d *deployment) login(ctx context.Context, s *testbed.SSH, addr netip.Addr) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loginLimit, fmt.Errorf("not within %s", loginLimit))
	defer cancel()
	if err := s.Wait(ctx); err != nil {
		return err
	}
	known, config := filepath.Join(d.dir, "known_hosts"), filepath.Join(d.dir, "ssh_config")
	// In ssh_config(5) a percent sign begins a token.
	quote := func(p string) string { return `"` + strings.ReplaceAll(p, "%", "%%") + `"` }
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
	}{
		{known, knownhosts.Line([]string{addr.String()}, s.HostKey()) + "\n", 0o600},
		{config, fmt.Sprintf("Host machine\n  HostName %s\n  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n"+
			"  UserKnownHostsFile %s\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  BatchMode yes\n"+
			"  ConnectTimeout 30\n  LogLevel ERROR\n", addr, quote(d.keys.file), quote(known)), 0o600},
		{filepath.Join(d.bin(), machineSSH), "#!/bin/sh\nexec ssh -F " + testbed.Quote(config) + " machine \"$@\"\n", 0o700},
	} {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(f.path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) bin() string { return filepath.Join(d.dir, "bin") }

// runTests runs smoke.d of every element of the image, element by element.
func (d *deployment) runTests(ctx context.Context, elements elementFinder, j *pipeline.Job, network testbed.Network, addr netip.Addr) ([]evidence.Test, error) {
	env := append(os.Environ(), "MACHINE_ADDR="+addr.String(), "MACHINE_SSH="+machineSSH,
		"METADATA_FILE="+d.metadataFile, "PATH="+d.bin()+":"+os.Getenv("PATH"))
	var tests []evidence.Test
	for _, name := range d.elements {
		e, err := elements.Find(name)
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, command.BadInput(fmt.Errorf("element %s: not found, and so its smoke tests are not", name), "give its directory in ELEMENTS_PATH")
		}
		dir := filepath.Join(e.Dir, "smoke.d")
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		files, err := hook.List(dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			t, err := runTest(ctx, network, filepath.Join(dir, f), env, j)
			if err != nil {
				return nil, err
			}
			t.Name, t.Element = f, name
			tests = append(tests, t)
		}
	}
	return tests, nil
}

// runTest runs one executable. An error means that it could not be run or was
// interrupted; whatever it said itself is a result.
func runTest(ctx context.Context, network testbed.Network, path string, env []string, j *pipeline.Job) (evidence.Test, error) {
	label := filepath.Base(filepath.Dir(filepath.Dir(path))) + "/" + filepath.Base(path)
	step := j.Progress.Start("test " + label)
	late := fmt.Errorf("did not end within %s", testLimit)
	testCtx, cancel := context.WithTimeoutCause(ctx, testLimit, late)
	defer cancel()
	var out bytes.Buffer
	started := time.Now()
	err := network.Exec(testCtx, command.Exec{Args: []string{path}, Dir: "/", Env: env, Log: &out})
	t := evidence.Test{Result: evidence.Pass, Seconds: time.Since(started).Seconds(), Output: tail(out.String())}
	fmt.Fprintf(j.Log, "=== %s\n%s", label, out.String())
	ee, exited := errors.AsType[*command.ExitError](err)
	switch {
	case ctx.Err() != nil && !isLate(ctx):
		step.Done(err, "")
		return t, context.Cause(ctx)
	case err == nil:
	case exited && ee.Status == statusSkip:
		t.Result, t.Reason = evidence.Skip, last(ee.Tail)
	case exited:
		t.Result, t.Reason = evidence.Fail, fmt.Sprintf("exit status %d: %s", ee.Status, last(ee.Tail))
	case testCtx.Err() != nil:
		t.Result, t.Reason = evidence.Fail, context.Cause(testCtx).Error()
	default:
		step.Done(err, "")
		return t, fmt.Errorf("smoke test %s: %w", label, err)
	}
	fmt.Fprintf(j.Log, "--- %s: %s %s\n", label, t.Result, t.Reason)
	if t.Result == evidence.Fail {
		step.Done(err, t.Reason)
	} else {
		step.Done(nil, t.Reason)
	}
	return t, nil
}

// last is the last line of a program's output.
func last(lines []string) string {
	if len(lines) == 0 {
		return "it printed nothing"
	}
	return oneLine(lines[len(lines)-1])
}

// maxReason bounds what a machine or a test may say in a line of ours, in
// characters.
const maxReason = 300

// oneLine makes one printable line of what somebody else said: it must not be
// able to look like lines of ours or to command the terminal.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(s))
	if r := []rune(s); len(r) > maxReason {
		s = string(r[:maxReason]) + "…"
	}
	return s
}

// tail is the end of a long text.
func tail(s string) string {
	if len(s) > maxOutput {
		return "…" + strings.ToValidUTF8(s[len(s)-maxOutput:], "")
	}
	return strings.ToValidUTF8(s, "?")
}

// keepJournal saves the machine's journal if the machine can still be asked.
func keepJournal(ctx context.Context, s *testbed.SSH, j *pipeline.Job) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), journalLimit)
	defer cancel()
	text, err := s.Output(ctx, "journalctl -b --no-pager -o short-monotonic")
	if err != nil {
		fmt.Fprintf(j.Log, "the journal could not be had: %v\n", err)
		return
	}
	if err := os.WriteFile(filepath.Join(j.Dir, "journal"), []byte(text), 0o644); err != nil {
		fmt.Fprintf(j.Log, "journal: %v\n", err)
	}
}

// writeJSON writes a private file: what machines are told may be secret.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(slices.Clip(b), '\n'), 0o600)
}
