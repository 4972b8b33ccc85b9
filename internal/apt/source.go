package apt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
)

// Source is where packages come from: one "deb" line of sources.list(5).
type Source struct {
	URI        string // with http, https or file
	Suite      string // bookworm; with a slash at its end a directory, then without components
	Components []string
	Options    map[string]string // signed-by, arch, trusted, check-valid-until; may be nil
}

// String is the line as in sources.list(5), the options sorted.
func (s Source) String() string {
	words := []string{"deb"}
	var opts []string
	for name, value := range s.Options {
		opts = append(opts, name+"="+value)
	}
	slices.Sort(opts)
	if len(opts) > 0 {
		words = append(words, "["+strings.Join(opts, " ")+"]")
	}
	return strings.Join(append(append(words, s.URI, s.Suite), s.Components...), " ")
}

const sourceForm = "expected http://…, https://…, file:///… or a line as in sources.list(5)"

// ParseSources reads sources of packages for a suite: each line a URI, which
// stands for the suite's component main there, or a line as in
// sources.list(5). Lines of source packages and those for other architectures
// are left out.
func ParseSources(lines []string, suite, arch string) ([]Source, error) {
	var out []Source
	for _, line := range lines {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		s, use, err := parseLine(line, suite, arch)
		if err != nil {
			return nil, command.BadInput(fmt.Errorf("package source %q: %w", line, err), sourceForm)
		}
		if use {
			out = append(out, s)
		}
	}
	return out, nil
}

func parseLine(line, suite, arch string) (s Source, use bool, err error) {
	words := strings.Fields(line)
	switch words[0] {
	case "deb":
	case "deb-src":
		return s, false, nil
	default:
		if len(words) > 1 {
			return s, false, errors.New("neither a URI nor a line that begins with deb")
		}
		s = Source{URI: strings.TrimRight(words[0], "/"), Suite: suite, Components: []string{"main"}}
		return s, true, s.check()
	}
	rest := strings.TrimSpace(strings.TrimPrefix(line, "deb"))
	if strings.HasPrefix(rest, "[") {
		opts, after, closed := strings.Cut(rest[1:], "]")
		if !closed {
			return s, false, errors.New("[ without ]")
		}
		if s.Options, err = parseOptions(opts); err != nil {
			return s, false, err
		}
		rest = after
	}
	words = strings.Fields(rest)
	if len(words) < 2 {
		return s, false, errors.New("no suite")
	}
	s.URI, s.Suite, s.Components = strings.TrimRight(words[0], "/"), words[1], words[2:]
	if strings.HasSuffix(s.Suite, "/") != (len(s.Components) == 0) {
		return s, false, errors.New("a suite needs components, a directory with a slash at its end has none")
	}
	if a := s.Options["arch"]; a != "" && !slices.Contains(strings.Split(a, ","), arch) {
		return s, false, nil
	}
	return s, true, s.check()
}

func parseOptions(text string) (map[string]string, error) {
	opts := map[string]string{}
	for word := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(word, "=")
		name = strings.ToLower(name)
		switch name {
		case "arch", "trusted", "check-valid-until":
		case "signed-by":
			for f := range strings.SplitSeq(value, ",") {
				if !filepath.IsAbs(f) {
					return nil, fmt.Errorf("signed-by %q is not the absolute path of a keyring", f)
				}
			}
		case "lang", "target", "pdiffs", "by-hash", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure":
			return nil, fmt.Errorf("option %s is not supported", name)
		default:
			return nil, fmt.Errorf("option %s is not known", name)
		}
		opts[name] = value
	}
	return opts, nil
}

// check refuses what would lead out of the archive or the file of sources.
func (s Source) check() error {
	scheme, rest, _ := strings.Cut(s.URI, ":")
	switch {
	case scheme != "http" && scheme != "https" && scheme != "file":
		return fmt.Errorf("scheme %q is not supported", scheme)
	case strings.Trim(rest, "/") == "" && scheme != "file":
		return errors.New("no host")
	}
	for _, p := range append([]string{strings.TrimSuffix(s.Suite, "/")}, s.Components...) {
		if p != "." && p != "" && !filepath.IsLocal(p) {
			return fmt.Errorf("%q leaves the archive", p)
		}
	}
	return nil
}

// set tells whether an option says yes or no; def is what it says when it is
// not there.
func (s Source) set(option string, def bool) bool {
	switch s.Options[option] {
	case "":
		return def
	case "yes", "true", "with", "on", "enable", "1":
		return true
	}
	return false
}

// HostSources returns the archives of a distribution that the build host's own
// apt uses, for the given suite: where the host's are for its release X,
// X-updates and X-security, they are for SUITE, SUITE-updates and
// SUITE-security. Of their components those that are part of the distribution
// are taken. root is where the host's /etc is.
func HostSources(root, suite string) ([]Source, error) {
	text, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if err != nil {
		return nil, command.Missing(fmt.Errorf("no mirror is given: %w", err), mirrorRemedy)
	}
	codename := ""
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			codename = strings.Trim(value, `"'`)
		}
	}
	dir := filepath.Join(root, "etc/apt")
	lists, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	var out []Source
	for _, f := range append([]string{filepath.Join(dir, "sources.list")}, lists...) {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		var found []Source
		switch filepath.Ext(f) {
		case ".list":
			found = hostLines(string(text))
		case ".sources":
			found = hostStanzas(string(text))
		}
		for _, s := range found {
			if s, ok := s.forSuite(codename, suite); ok && !slices.ContainsFunc(out, s.same) {
				out = append(out, s)
			}
		}
	}
	if len(out) == 0 {
		return nil, command.Missing(fmt.Errorf("no mirror is given, and %s has none of a release", dir), mirrorRemedy)
	}
	slices.SortStableFunc(out, func(a, b Source) int { return pocket(a.Suite) - pocket(b.Suite) })
	return out, nil
}

const mirrorRemedy = "name a mirror, such as mirror: URI in the definition"

func (s Source) same(t Source) bool { return s.String() == t.String() }

// pocket puts a release before its updates, as every other bootstrapper does.
func pocket(suite string) int {
	switch {
	case strings.HasSuffix(suite, "-updates"):
		return 1
	case strings.HasSuffix(suite, "-security"):
		return 2
	}
	return 0
}

func (s Source) forSuite(codename, suite string) (Source, bool) {
	rest, ok := strings.CutPrefix(s.Suite, codename)
	if !ok || codename == "" || rest != "" && rest != "-updates" && rest != "-security" {
		return s, false
	}
	var components []string
	for _, c := range s.Components {
		if (c == "main" || c == "universe") && !slices.Contains(components, c) {
			components = append(components, c)
		}
	}
	if suite == "sid" || suite == "unstable" || suite == "experimental" {
		ok = rest == ""
	}
	return Source{URI: strings.TrimRight(s.URI, "/"), Suite: suite + rest, Components: components},
		ok && len(components) > 0 && s.check() == nil
}

func hostLines(text string) []Source {
	var out []Source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if i, j := strings.Index(line, "["), strings.Index(line, "]"); i >= 0 && j > i {
			line = line[:i] + line[j+1:]
		}
		if w := strings.Fields(line); len(w) > 3 && w[0] == "deb" {
			out = append(out, Source{URI: w[1], Suite: w[2], Components: w[3:]})
		}
	}
	return out
}

// hostStanzas reads the deb822 form, without continuation lines.
func hostStanzas(text string) []Source {
	var out []Source
	for stanza := range strings.SplitSeq(text, "\n\n") {
		field := map[string][]string{}
		for line := range strings.Lines(stanza) {
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
				field[strings.ToLower(name)] = strings.Fields(value)
			}
		}
		if !slices.Contains(field["types"], "deb") || slices.Contains(field["enabled"], "no") {
			continue
		}
		for _, uri := range field["uris"] {
			for _, suite := range field["suites"] {
				out = append(out, Source{URI: uri, Suite: suite, Components: field["components"]})
			}
		}
	}
	return out
}
