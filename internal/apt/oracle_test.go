package apt

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

var (
	oracle     = flag.Bool("apt", false, "compare with the real apt on the build host's archive (network)")
	oracleSets = flag.Int("sets", 60, "with -apt: how many random sets of packages")
	oracleSeed = flag.Uint64("seed", 1, "with -apt: of the random sets")
)

// realApt is apt with a root of its own.
type realApt struct {
	dir    string
	config string
}

func newRealApt(t *testing.T, sources []Source) *realApt {
	t.Helper()
	testenv.Need(t, "apt-get", "gpgv", "xz")
	a := &realApt{dir: t.TempDir()}
	for _, d := range []string{
		"etc/apt/preferences.d", "etc/apt/apt.conf.d", "state/lists/partial", "cache/archives/partial",
	} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var list bytes.Buffer
	for _, s := range sources {
		fmt.Fprintln(&list, s)
	}
	a.config = filepath.Join(a.dir, "apt.conf")
	a.write(t, "sources.list", list.String())
	a.write(t, "status", "")
	a.write(t, "apt.conf", fmt.Sprintf(`Dir "%[1]s/"; Dir::Etc "%[1]s/etc/apt"; Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::trusted "/etc/apt/trusted.gpg"; Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::State "%[1]s/state"; Dir::State::status "%[1]s/status"; Dir::Cache "%[1]s/cache";
APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Install-Recommends "false"; Acquire::Languages "none";
APT::Get::Assume-Yes "true"; APT::Sandbox::User "root"; Acquire::Check-Valid-Until "false";
pkgCacheGen::ForceEssential ","; Debug::NoLocking "true";
`, a.dir))
	if out, err := a.run("update"); err != nil {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	return a
}

func (a *realApt) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (a *realApt) run(args ...string) (string, error) {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var inst = regexp.MustCompile(`(?m)^(Inst|Remv) (\S+) (?:\[\S+\] ?)?\(?(\S*)`)

// install is what apt would install and remove: name → version, "" for removed.
func (a *realApt) install(names []string) (map[string]string, error) {
	out, err := a.run(append([]string{"-s", "install"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	got := map[string]string{}
	for _, m := range inst.FindAllStringSubmatch(out, -1) {
		got[m[2]] = map[bool]string{true: m[3], false: ""}[m[1] == "Inst"]
	}
	return got, nil
}

// The sets are those of the real apt, for random packages of the archive.
func TestResolveAsApt(t *testing.T) {
	if !*oracle {
		t.Skip("needs an archive: go test ./internal/apt -run AsApt -apt")
	}
	sources, err := HostSources("/", "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	a := newRealApt(t, sources)
	o := Options{Suite: "bookworm", Arch: "amd64", Sources: sources, Keyrings: DefaultKeyrings(), Cache: t.TempDir()}
	indexes, err := fetchIndexes(t.Context(), newStore(o.Cache, false, nil), o)
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() *universe {
		u, err := newUniverse(indexes, sources, o.Arch)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	u := fresh()
	var essential, required, all []string
	for name, p := range u.packages {
		switch {
		case p.cand.essential:
			essential = append(essential, name)
		case p.cand.priority == 1 || name == "apt":
			required = append(required, name)
		default:
			all = append(all, name)
		}
	}
	slices.Sort(all)
	slices.SortFunc(required, func(a, b string) int { return u.number(a) - u.number(b) })
	base, err := a.install(essential)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, "status", status(u, indexes, base))
	r := rand.New(rand.NewPCG(*oracleSeed, 0))
	agree, refused := 0, 0
	for i := range *oracleSets {
		asked := []string{}
		for range i % 8 {
			asked = append(asked, all[r.IntN(len(all))])
		}
		want, aptErr := a.install(append(slices.Clone(asked), required...))
		o.Packages = asked
		plan, err := fresh().plan(o)
		if err != nil || aptErr != nil {
			if (err == nil) != (aptErr == nil) {
				t.Errorf("%q: %v; apt says %v", asked, err, aptErr)
			}
			refused++
			continue
		}
		for name, v := range base {
			if _, touched := want[name]; !touched {
				want[name] = v
			}
		}
		got := map[string]string{}
		for _, k := range plan.Packages {
			got[k.Name] = k.Version
		}
		for name, v := range want {
			if v == "" {
				delete(want, name)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-apt +ours):\n%s", asked, d)
			continue
		}
		agree++
	}
	t.Logf("%d sets are the same, %d refused by both", agree, refused)
}

// status makes a database in which packages are installed.
func status(u *universe, indexes [][]index, names map[string]string) string {
	var b strings.Builder
	for _, list := range indexes {
		for _, x := range list {
			for stanza := range strings.SplitSeq(x.text, "\n\n") {
				v, err := parseVersion(stanza)
				if err == nil && names[v.name] == v.version {
					name, rest, _ := strings.Cut(stanza, "\n")
					fmt.Fprintf(&b, "%s\nStatus: install ok installed\n%s\n\n", name, strings.TrimSpace(rest))
					names[v.name] = v.version
				}
			}
		}
	}
	return b.String()
}
