package step

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/evidence"
	"goldsmith/internal/hook"
	"goldsmith/internal/registry"
	"goldsmith/testbed"
	"goldsmith/testbed/machinetest"
)

const (
	loginLimit   = 3 * time.Minute // from the signal to the first login
	addressLimit = 30 * time.Second
	journalLimit = 30 * time.Second
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
func (s *subject) login(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loginLimit, fmt.Errorf("not within %s", loginLimit))
	defer cancel()
	if err := s.shell.Wait(ctx); err != nil {
		return err
	}
	if s.local() {
		var err error
		if s.relay == nil {
			s.relay, err = startRelay(s.shell, s.over, filepath.Join(s.dir, "relay"), filepath.Join(s.bin(), machineSSH))
		}
		return err
	}
	known, config := filepath.Join(s.dir, "known_hosts"), filepath.Join(s.dir, "ssh_config")
	// In ssh_config(5) a percent sign begins a token.
	quote := func(p string) string { return `"` + strings.ReplaceAll(p, "%", "%%") + `"` }
	for _, f := range []struct {
		path, text string
		mode       os.FileMode
	}{
		{known, knownhosts.Line([]string{s.addr.String()}, s.ssh.HostKey()) + "\n", 0o600},
		{config, fmt.Sprintf("Host machine\n  HostName %s\n  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n"+
			"  UserKnownHostsFile %s\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  BatchMode yes\n"+
			"  ConnectTimeout 30\n  LogLevel ERROR\n", s.addr, quote(s.keys.file), quote(known)), 0o600},
		{filepath.Join(s.bin(), machineSSH), "#!/bin/sh\nexec ssh -F " + testbed.Quote(config) + " machine \"$@\"\n", 0o700},
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

func (s *subject) bin() string { return filepath.Join(s.dir, "bin") }

// smoke is the suite that every image passes first.
type smoke struct{}

func (smoke) run(ctx context.Context, s *subject) ([]evidence.Test, error) {
	if err := s.install(ctx, s.job.Image); err != nil {
		return nil, err
	}
	return s.prove(ctx)
}

// prove starts the machine and returns what can be said about the image that it
// was installed with.
func (s *subject) prove(ctx context.Context) ([]evidence.Test, error) {
	configured, err := s.boot(ctx)
	if err != nil {
		return nil, err
	}
	tests := []evidence.Test{configured}
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	if configured.Result != evidence.Pass {
		s.keepJournal(ctx)
		return tests, nil
	}
	more, err := s.runTests(ctx, s.img, "tests", s.renew)
	if s.number == 0 { // the first machine's is kept when the next takes its place
		s.keepJournal(ctx)
	}
	return append(tests, more...), err
}

// runTests logs in and runs smoke.d of every element of the image, as far as the
// stage wants them. What they leave goes to dir, in the attempt's directory.
// renew makes machines for tests that have one of their own; nil: those are
// skipped.
func (s *subject) runTests(ctx context.Context, img *registry.Image, dir string,
	renew func(context.Context, *machinetest.Test) error) ([]evidence.Test, error) {
	if err := s.login(ctx); err != nil {
		return []evidence.Test{{Name: "login", Element: "ssh-server", Result: evidence.Fail, Reason: machinetest.OneLine(err.Error()),
			Class: evidence.Unknown, Because: "nobody can be asked on the machine"}}, nil
	}
	tests, err := findTests(s.env.Elements, img.Elements)
	if err != nil {
		return nil, err
	}
	chosen, skipped := machinetest.Selection{Platform: s.driver, Tags: s.wanted.Tags, Without: s.wanted.Not}.Select(tests)
	if renew != nil && s.wanted.Tags != nil && len(chosen) == 0 {
		return nil, command.BadInput(fmt.Errorf("with.tests.tags: none of the image's %d tests has one of %s", len(tests), strings.Join(s.wanted.Tags, ", ")),
			"a test's tags are in its header: ## goldsmith: {tags: [...]}")
	}
	r := s.runner(dir)
	if renew != nil {
		r.Renew = func(ctx context.Context, t *machinetest.Test) error {
			err := renew(ctx, t)
			if s.m != nil { // else there is none, and err says why
				r.Shell, r.Console = s.shell, s.m.Console()
			}
			return err
		}
	}
	results, err := r.Run(ctx, chosen)
	late := err != nil && isLate(ctx)
	if results = inOrder(tests, results, skipped); late {
		results = append(results, evidence.Test{Name: "time", Element: "stage", Result: evidence.Fail, Class: evidence.Unknown,
			Reason: machinetest.OneLine(err.Error()), Because: "the stage's time is over"})
		err = nil
	}
	return results, err
}

// runner runs tests on the subject's machine, whichever it is at the time.
func (s *subject) runner(dir string) *machinetest.Runner {
	return &machinetest.Runner{
		Shell: s.shell, Console: s.m.Console(), Platform: s.driver, Dir: filepath.Join(s.job.Dir, dir), Progress: s.job.Progress,
		Snoozes: s.snoozes, Again: s.again, Retries: 1, Revive: s.revive, Patience: s.patience,
		Host: func(ctx context.Context, path string, more []string, out io.Writer) error {
			addr := ""
			if s.addr.IsValid() {
				addr = s.addr.String()
			}
			env := []string{"MACHINE_ADDR=" + addr, "MACHINE_SSH=" + machineSSH,
				"METADATA_FILE=" + s.metadataFile, "PATH=" + s.bin() + ":" + os.Getenv("PATH")}
			return s.bench.network().Exec(ctx, command.Exec{Args: []string{path}, Dir: "/", Env: slices.Concat(os.Environ(), env, more),
				Log: io.MultiWriter(out, s.job.Log)})
		},
	}
}

// inOrder puts the results of tests that were run and of those that were not in
// the order of the tests, whatever machine they ran on.
func inOrder(tests []*machinetest.Test, results []evidence.Test, skipped map[*machinetest.Test]string) []evidence.Test {
	var list []evidence.Test
	for _, t := range tests {
		if why, ok := skipped[t]; ok {
			list = append(list, evidence.Test{Name: t.Name, Element: t.Element, Result: evidence.Skip, Reason: why})
		} else if len(results) > 0 && results[0].Element == t.Element && results[0].Name == t.Name {
			list, results = append(list, results[0]), results[1:]
		}
	}
	return list
}

// findTests reads the tests of smoke.d of every element, element by element.
func findTests(elements elementFinder, names []string) ([]*machinetest.Test, error) {
	var tests []*machinetest.Test
	for _, name := range names {
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
			t, err := machinetest.Read(filepath.Join(dir, f))
			if err != nil {
				return nil, err
			}
			t.Element = name
			tests = append(tests, t)
		}
	}
	return tests, nil
}

// writeJSON writes a private file: what machines are told may be secret.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(slices.Clip(b), '\n'), 0o600)
}
