package sourcerepo

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return "(" + errors.Unwrap(err).Error() + ")"
	}
	return string(b)
}

// sh runs shell commands in dir.
func sh(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2024-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2024-01-01T00:00:00Z", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		env        Environment
		want       string // fields with "|", lines with ";", or an error that starts with "!"
	}{
		{"git", "nova git /opt/nova https://h/nova.git stable\n", nil, "nova|git|/opt/nova|https://h/nova.git|stable"},
		{"defaults", "a git /a u://h/a\nb tar /b u://h/b\nc file /c u://h/c\n", nil, "a|git|/a|u://h/a|master;b|tar|/b|u://h/b|*;c|file|/c|u://h/c|"},
		{"the last line without an end", "a git /a loc", nil, "a|git|/a|loc|master"},
		{"comments and blank lines", "# c\n\n  \n   # d\na file /a l # not a reference\n", nil, "a|file|/a|l|"},
		{"variables, quotes, commands", "a git /a \"$BASE\"/$(echo x) ${REF:-main}\n", Environment{"BASE": "u://h"}, "a|git|/a|u://h/x|main"},
		{"no globbing", "a tar /t l *\n", nil, "a|tar|/t|l|*"},
		{"package", "a package\nb package /b\n", nil, "a|package|||;b|package|/b||"},
		{"no destination", "a git u://h/a\n", nil, "a|git||u://h/a|master"},
		{"overrides", "a-b.c git /a l r\n", Environment{"DIB_REPOTYPE_a_b_c": "tar", "DIB_REPOLOCATION_a_b_c": "L", "DIB_REPOREF_a_b_c": "R"}, "a-b.c|tar|/a|L|R"},
		{"a base for git", "a git /a https://h/x/a.git\nb tar /b https://h/b\nc git /c ssh://h/~me/c\nd git /d /local\n", Environment{"DIB_GITREPOBASE": "file:///m/"},
			"a|git|/a|file:///m/x/a.git|master;b|tar|/b|https://h/b|*;c|git|/c|file:///m//c|master;d|git|/d|/local|master"},
		{"a base does not touch what the user says", "a git /a https://h/a\n", Environment{"DIB_GITREPOBASE": "file:///m/", "DIB_REPOLOCATION_a": "https://mine/a"}, "a|git|/a|https://mine/a|master"},
		{"unknown type", "\nx\na svn /a l\n", nil, `!FILE:2: cannot parse "x" as a source repository`},
		{"too many words", "a git /a l r more\n", nil, `!FILE:1: cannot parse "a git /a l r more" as a source repository`},
		{"unset variable", "a git /a l\nb git /b $NONE\n", nil, "!FILE:2: NONE: unbound variable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.env == nil {
				c.env = Environment{}
			}
			c.env["PATH"] = os.Getenv("PATH")
			file := write(t, filepath.Join(t.TempDir(), "source-repository-x"), c.text)
			repos, err := Read(t.Context(), file, c.env)
			var lines []string
			for _, r := range repos {
				lines = append(lines, strings.Join([]string{r.Name, r.Type, r.Dest, r.Location, r.Ref}, "|"))
			}
			got := strings.Join(lines, ";")
			if err != nil {
				got = "!" + strings.ReplaceAll(err.Error(), file, "FILE")
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// What Check refuses, Read refuses with the same words, whatever the
// environment; where a file has nothing to expand, also the other way round.
func TestCheck(t *testing.T) {
	env := Environment{"PATH": os.Getenv("PATH"), "V": "a git /a l", "HOME": "/h"}
	word := rapid.SampledFrom([]string{
		"a", "a", "git", "tar", "svn", "package", "/d", "/d", "l", "h://x/y", "r", "#", "a#b", "*", "x=1", "",
		"\t", "\n", "\n", "#c d\n",
		"$V", "'q r'", "~", "{a,b}", "\\", "`echo a`", "é",
	})
	expanded := regexp.MustCompile("[$'~{\\\\`é]")
	refused, taken := 0, 0
	for seed := range 300 {
		text := strings.Join(rapid.SliceOfN(word, 1, 12).Example(seed), " ")
		file := write(t, filepath.Join(t.TempDir(), "source-repository-x"), text)
		_, want := Read(t.Context(), file, env)
		got := Check(filepath.Dir(file))
		switch {
		case got != nil && want == nil:
			t.Errorf("%q: %v; it can be read", text, got)
		case !expanded.MatchString(text) && fmt.Sprint(got) != fmt.Sprint(want):
			t.Errorf("%q: %v; Read: %v", text, got, want)
		case got != nil:
			refused++
		default:
			taken++
		}
	}
	if refused < 50 || taken < 50 {
		t.Errorf("%d refused, %d taken: this test sees too little", refused, taken)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "source-repository-x~"), "x")
	write(t, filepath.Join(dir, "source-repository-dir/f"), "x")
	if err := Check(dir); err != nil {
		t.Errorf("what is no file of sources: %v", err)
	}
}

// The form divides a line as bash, which has another kind of expressions, does.
func TestFormAgainstBash(t *testing.T) {
	cmd := exec.Command("bash", "-c", `REGEX="^([^ ]+) (git|tar|file|package) ?(/[^ ]+)? ?([^ ]+)? ?([^ ]*)$"
while IFS= read -r line; do
    if [[ $line =~ $REGEX ]]; then printf '%s|' "${BASH_REMATCH[@]:1}"; fi
    echo
done`)
	var lines []string
	word := rapid.SampledFrom([]string{"a", "git", "tar", "package", "gitx", "/d", "/", "loc", "", "*", "//x"})
	for i := range 3000 {
		lines = append(lines, strings.Join(rapid.SliceOfN(word, 1, 7).Example(i), " "))
	}
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	matched := 0
	for i, want := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
		got := ""
		if m := split(lines[i]); m != nil {
			got = strings.Join(m[1:], "|") + "|"
			matched++
		}
		if got != want {
			t.Errorf("%q: %q; bash: %q", lines[i], got, want)
		}
	}
	if matched < 100 {
		t.Errorf("only %d lines have the form", matched)
	}
}

// fixture is a tree, a cache and a server.
type fixture struct {
	*Fetcher
	dir string
	log bytes.Buffer
}

func setup(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{dir: dir}
	f.Fetcher = &Fetcher{
		Root: dir + "/root", Cache: dir + "/cache/source-repositories", Work: dir, Manifest: "/etc/dib-manifests/dib-manifest-git-image",
		Env: Environment{}, Log: &f.log, Delay: time.Millisecond,
	}
	if err := os.Mkdir(f.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.log.String())
		}
	})
	return f
}

// fetch fetches one line.
func (f *fixture) fetch(t *testing.T, line string) error {
	t.Helper()
	env := Environment{"PATH": os.Getenv("PATH")}
	file := write(t, f.dir+"/source-repository-x", line+"\n")
	repos, err := Read(t.Context(), file, env)
	if err != nil {
		return err
	}
	return f.Fetch(t.Context(), repos)
}

// upstream is a Git repository with a branch, a tag and a hidden reference.
func upstream(t *testing.T, dir string) string {
	t.Helper()
	testenv.Need(t, "git")
	return sh(t, dir, `mkdir up; cd up; git init -q -b master; echo 1 >f; git add f; git commit -qm one; git tag v1
git branch stable; echo 2 >f; git commit -qam two; git checkout -q --detach; echo 3 >f; git commit -qam three; git update-ref refs/changes/1 HEAD; git checkout -q master
git rev-parse v1`)
}

func TestGit(t *testing.T) {
	f := setup(t)
	first := upstream(t, f.dir)
	url := "file://" + f.dir + "/up"
	for _, c := range []struct{ line, file, content string }{
		{"a git /opt/a " + url, "/opt/a/f", "2\n"},
		{"a git /opt/tag " + url + " v1", "/opt/tag/f", "1\n"},
		{"a git /opt/branch " + url + " stable", "/opt/branch/f", "1\n"},
		{"a git /opt/hidden " + url + " refs/changes/1", "/opt/hidden/f", "3\n"},
		{"a git /opt/sha " + url + " " + first, "/opt/sha/f", "1\n"},
		{"a git /opt/all " + url + " *", "/opt/all/f", "2\n"},
	} {
		if err := f.fetch(t, c.line); err != nil {
			t.Fatalf("%s: %v", c.line, err)
		}
		if got := read(t, f.Root+c.file); got != c.content {
			t.Errorf("%s: %q; want %q", c.line, got, c.content)
		}
	}
	want := "/opt/a\n/opt/tag\n/opt/branch\n/opt/hidden\n/opt/sha\n/opt/all\n"
	if got := read(t, f.Root+listing); got != want {
		t.Errorf("list of destinations: %q; want %q", got, want)
	}
	if m := read(t, f.Root+f.Manifest); strings.Count(m, "\n") != 6 || !strings.Contains(m, "a git /opt/tag "+url+" "+first+"\n") {
		t.Errorf("manifest: %s", m)
	}
	if got := sh(t, f.Root+"/opt/a", "git branch --list 'fetch_*' | tr -d ' *'; git status --porcelain; git config remote.origin.url"); got != "fetch_master\n"+url {
		t.Errorf("the clone: %s", got)
	}
	if got := sh(t, f.Root+"/opt/all", "git branch --list | tr -d ' *'; git tag"); got != "master\nstable\nv1" {
		t.Errorf("all branches and tags: %s", got)
	}
	// Nothing of this machine: neither paths nor a log with times.
	if got := sh(t, f.Root, "grep -rl -e "+f.Cache+" . || true; find . -name logs -o -name index -newermt now"); got != "" {
		t.Errorf("the clone names the cache or keeps a log: %s", got)
	}
	// Files of the cache are not shared: a hook may change owners and modes.
	if got := sh(t, f.Root, "find . -type f -links +1"); got != "" {
		t.Errorf("shared with the cache: %s", got)
	}
}

func TestGitTwiceTheSame(t *testing.T) {
	f := setup(t)
	upstream(t, f.dir)
	for _, root := range []string{"/r1", "/r2"} {
		f.Root = f.dir + root
		if err := f.fetch(t, "a git /a file://"+f.dir+"/up"); err != nil {
			t.Fatal(err)
		}
	}
	if d := sh(t, f.dir, "diff -r r1 r2 || true"); d != "" {
		t.Errorf("two clones differ:\n%s", d)
	}
}

func TestGitCache(t *testing.T) {
	f := setup(t)
	upstream(t, f.dir)
	line := func(dest, ref string) string { return "a git " + dest + " file://" + f.dir + "/up " + ref }
	if err := f.fetch(t, line("/1", "master")); err != nil {
		t.Fatal(err)
	}
	sh(t, f.dir+"/up", "echo new >f; git commit -qam new; git tag v9")
	if err := f.fetch(t, line("/2", "master")); err != nil || read(t, f.Root+"/2/f") != "new\n" {
		t.Errorf("the cache was not brought up to date: %v, %s", err, read(t, f.Root+"/2/f"))
	}
	// A cache that diskimage-builder made has the same name and is taken.
	name := sh(t, f.dir, "echo git_file://"+f.dir+"/up | sha1sum | cut -d' ' -f1")
	if _, err := os.Stat(f.Cache + "/a_" + name + "/.git"); err != nil {
		t.Error(err)
	}
	// A killed clone is no cache.
	sh(t, f.Cache, "mv a_"+name+" a_"+name+".tmp")
	if err := f.fetch(t, line("/3", "stable")); err != nil {
		t.Error(err)
	}
	if err := os.Rename(f.dir+"/up", f.dir+"/gone"); err != nil {
		t.Fatal(err)
	}
	f.Offline = true
	if err := f.fetch(t, line("/4", "v9")); err != nil || read(t, f.Root+"/4/f") != "new\n" {
		t.Errorf("offline: %v", err)
	}
	f.Offline = false
	if err := f.fetch(t, line("/5", "v9")); err == nil || strings.Count(f.log.String(), "trying again") != tries-1 {
		t.Errorf("gone: %v", err)
	}
}

func TestGitErrors(t *testing.T) {
	f := setup(t)
	upstream(t, f.dir)
	url := "file://" + f.dir + "/up"
	sh(t, f.dir, "cp -r up other")
	if err := f.fetch(t, "a git /a "+url+" stable"); err != nil {
		t.Fatal(err)
	}
	if err := f.fetch(t, "b git /a "+url+" stable"); err != nil {
		t.Errorf("the same again: %v", err)
	}
	for _, c := range []struct {
		line, want string
		offline    bool
	}{
		{"a git /a " + url + " v1", "holds another reference than v1", false},
		{"a git /a file://" + f.dir + "/other stable", "holds something else already", false},
		{"a git /b " + url + " none", "has no none", false},
		{"a git " + url, "has no destination", false},
		{"a git /", "has no destination", false},
		{"a git /a", "has no location", false},
		{"a git /x --upload-pack=touch", "cannot begin with a dash", false},
		{"a git /x " + url + " --all", "cannot begin with a dash", false},
		{"a git /x https://user:secret@h/a", "https://h/a is not in the cache", true},
	} {
		f.Offline = c.offline
		err := f.fetch(t, c.line)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "source-repository-x:1: a: ") {
			t.Errorf("%s: %v; want %q", c.line, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("tells the password: %v", err)
		}
	}
	if _, err := os.Stat(f.Root + "/b"); err == nil {
		t.Error("left a clone without its commit")
	}
}

// A password in a URL reaches neither log nor error nor image.
func TestGitKeepsSecrets(t *testing.T) {
	testenv.Need(t, "git")
	f := setup(t)
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	err := f.fetch(t, "a git /a "+strings.Replace(s.URL, "http://", "http://user:secret@", 1)+"/x")
	if err == nil || strings.Contains(err.Error()+f.log.String(), "secret") {
		t.Errorf("%v\n%s", err, f.log.String())
	}
}

// tarball is app-1.0/{f,sub/g}, other/h and top.
func tarball(t *testing.T, dir string) []byte {
	t.Helper()
	sh(t, dir, `mkdir -p t/app-1.0/sub t/other; cd t; echo f >app-1.0/f; echo g >app-1.0/sub/g; echo h >other/h; echo top >top; ln -s /etc app-1.0/out; tar -czf ../t.tgz *`)
	b, err := os.ReadFile(dir + "/t.tgz")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTarAndFile(t *testing.T) {
	f := setup(t)
	ball := tarball(t, f.dir)
	broken := 0 // how many answers are
	requests := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		body := ball
		if broken > 0 {
			broken--
			body = ball[:len(ball)/2]
		}
		http.ServeContent(w, r, "", time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), bytes.NewReader(body))
	}))
	defer s.Close()
	for _, c := range []struct{ ref, want string }{
		{"*", "f out sub sub/g h"},
		{".", "app-1.0 app-1.0/f app-1.0/out app-1.0/sub app-1.0/sub/g other other/h top"},
		{"app-1.0", "f out sub sub/g"},
		{"app-1.0/sub", "g"},
		{"none", `!no directory "none"`},
		{"top", `!no directory "top"`},
		{"app-1.0/out", `!no directory "app-1.0/out"`},
		{"../x", `!"../x" is no part of a tarball`},
	} {
		_ = os.RemoveAll(f.Root + "/opt")
		err := f.fetch(t, "a tar /opt/a "+s.URL+"/t.tgz "+c.ref)
		words := strings.Fields(sh(t, f.Root, "mkdir -p opt/a; cd opt/a; find . -mindepth 1 -printf '%P\n'"))
		slices.Sort(words)
		got, want := strings.Join(words, " "), c.want
		if err != nil {
			got = "!" + err.Error()
			if strings.HasPrefix(want, "!") && strings.Contains(got, want[1:]) {
				continue
			}
		}
		w := strings.Fields(want)
		slices.Sort(w)
		if got != strings.Join(w, " ") {
			t.Errorf("%s: %s; want %s", c.ref, got, want)
		}
	}

	// One broken download does not stay in the cache, not even with a server
	// that says it is as new as its own.
	broken = 1
	_ = os.RemoveAll(f.Cache)
	if err := f.fetch(t, "a tar /mended "+s.URL+"/t.tgz *"); err != nil || read(t, f.Root+"/mended/f") != "f\n" {
		t.Errorf("a broken download: %v", err)
	}
	broken = 2
	_ = os.RemoveAll(f.Cache)
	if err := f.fetch(t, "a tar /broken "+s.URL+"/t.tgz *"); err == nil || !strings.Contains(err.Error(), "no tarball, or a broken one") {
		t.Errorf("always broken: %v", err)
	}
	if err := f.fetch(t, "a tar /after "+s.URL+"/t.tgz *"); err != nil {
		t.Errorf("after a broken one: %v", err)
	}

	if err := f.fetch(t, "a file /etc/app/ball "+s.URL+"/t.tgz"); err != nil || read(t, f.Root+"/etc/app/ball") != string(ball) {
		t.Errorf("a file: %v", err)
	}
	if fi, err := os.Stat(f.Root + "/etc/app/ball"); err != nil || fi.Mode() != 0o644 {
		t.Errorf("a file's mode: %v, %v", fi.Mode(), err)
	}
	if err := f.fetch(t, "a file /etc/app "+s.URL+"/t.tgz"); err == nil || !strings.Contains(err.Error(), "/etc/app is there and no file") {
		t.Errorf("a file over a directory: %v", err)
	}
	requests, f.Offline = 0, true
	if err := f.fetch(t, "a file /offline "+s.URL+"/t.tgz"); err != nil || requests != 0 {
		t.Errorf("offline: %v, %d requests", err, requests)
	}
	if err := f.fetch(t, "a tar /offline2 "+s.URL+"/t.tgz\n"); err != nil || requests != 0 {
		t.Errorf("offline: %v, %d requests", err, requests)
	}
	if err := f.fetch(t, "a tar /none "+s.URL+"/other"); command.Status(err) != command.StatusMissing {
		t.Errorf("offline and not in the cache: %v", err)
	}
	if entries, _ := filepath.Glob(f.Work + "/source*[0-9]"); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// What is not to be installed from source, and packages, are left out.
func TestInstallTypes(t *testing.T) {
	f := setup(t)
	f.Env = Environment{"DIB_INSTALLTYPE_a_b": "package", "DIB_DEFAULT_INSTALLTYPE": "source"}
	for _, line := range []string{"a-b git /a none", "c package", "c package /x"} {
		if err := f.fetch(t, line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	f.Env = Environment{"DIB_DEFAULT_INSTALLTYPE": "package", "DIB_INSTALLTYPE_c": "source"}
	if err := f.fetch(t, "a git /a none"); err != nil {
		t.Error(err)
	}
	if err := f.fetch(t, "c file /a ftp://h/f"); err == nil {
		t.Error("c was left out")
	}
	if _, err := os.Stat(f.Root + listing); err == nil {
		t.Error("what was left out is in the list")
	}
}

// A destination never leads out of the tree, whatever links there are in it.
func TestStaysInTheTree(t *testing.T) {
	f := setup(t)
	src := write(t, f.dir+"/src", "x")
	outside := f.dir + "/outside"
	sh(t, f.dir, "mkdir outside; cd root; ln -s "+outside+" abs; ln -s ../../../../../"+outside+" rel; ln -s loop loop; ln -s /opt/real var; ln -s "+outside+"/f link")
	for dest, want := range map[string]string{
		"/abs/f":       outside + "/f",
		"/rel/f":       "/outside/f",
		"/var/f":       "/opt/real/f",
		"/../../../f2": "/f2",
	} {
		if err := f.fetch(t, "a file "+dest+" file://"+src); err != nil {
			t.Errorf("%s: %v", dest, err)
		}
		if _, err := os.Stat(f.Root + want); err != nil && dest != "/rel/f" {
			t.Errorf("%s: %v", dest, err)
		}
	}
	if err := f.fetch(t, "a file /loop/f file://"+src); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	if err := f.fetch(t, "a file /link file://"+src); err != nil {
		t.Errorf("a link to a file outside: %v", err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("written outside: %v", entries)
	}
}

func TestLock(t *testing.T) {
	f := setup(t)
	file := write(t, f.Cache+"/repositories_flock", "")
	held, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	f.LockWait = time.Millisecond
	if err := f.fetch(t, "c package"); command.Status(err) != command.StatusBusy {
		t.Errorf("a locked cache: %v", err)
	}
}

func TestPublic(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@h/x": "https://h/x", "git@h:x": "git@h:x", "/a": "/a", "ssh://git@h/x": "ssh://git@h/x", "ssh://git:p@h/x": "ssh://h/x", "https://token@h/x": "https://h/x", "http://h/x": "http://h/x",
	} {
		if got := Public(in); got != want {
			t.Errorf("Public(%q) = %q; want %q", in, got, want)
		}
	}
	if d := cmp.Diff("fatal: http://h/x", secrets([]string{"http://u:p@h/x"}).Replace("fatal: http://u:p@h/x")); d != "" {
		t.Error(d)
	}
}

// Lines of any form are read or refused, and what is read stays in the tree.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a git /a l r", "a tar /../.. l", "a file //x l", "a package", "a git /a -x"} {
		f.Add(s)
	}
	root := f.TempDir()
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parse("f", 1, line)
		if err != nil || r.check() != nil {
			return
		}
		in, err := within(root, r.Dest)
		if err != nil || !filepath.IsLocal(strings.TrimPrefix(in, "/")) || strings.HasPrefix(r.Location, "-") {
			t.Errorf("%q leads to %q, %v", line, in, err)
		}
	})
}
