package lint

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"goldsmith/internal/element"
	"goldsmith/internal/pkginstall"
	"goldsmith/internal/pkgmap"
	"goldsmith/internal/svcmap"
	"goldsmith/internal/yaml11"
)

var (
	setE        = regexp.MustCompile(`^set -[^ ]*e`)
	setU        = regexp.MustCompile(`^set -[^ ]*u`)
	pipefail    = regexp.MustCompile(`^set (.* )?-[a-z]*o pipefail`)
	pipefailDIB = regexp.MustCompile(`^set -o pipefail`)
	debugTrace  = regexp.MustCompile(`DIB_DEBUG_TRACE`)
	setX        = regexp.MustCompile(`set -x`)
	hidden      = regexp.MustCompile(`export .*\$\(`)
	anyBash     = regexp.MustCompile(`^#!.*bash`)
	python      = regexp.MustCompile(`^#!.*python`)
	indent      = regexp.MustCompile(`^( {4})* {1,3}[^ ]`)
	tab         = regexp.MustCompile("^ *\t")
	onHost      = regexp.MustCompile(`root\.d|extra-data\.d|block-device\.d|finalise\.d|cleanup\.d`)
	hooks       = regexp.MustCompile(`(^|/)(libexec/goldsmith/(health|quiesce)\.d|os-refresh-config/[a-z-]+\.d)$`)
	safe        = regexp.MustCompile(`dib-lint: safe_sudo|^#|install-packages|` +
		`TARGET_ROOT|IMAGE_BLOCK_DEVICE|TMP_MOUNT_PATH|TMP_IMAGE_PATH`)
	notWhich = regexp.MustCompile(`dib-lint: which|^#`)
)

// script checks what may be a script, or a list.
func (s *source) script(name string) {
	if strings.Contains(name, "source-repository-") && s.text != "" && !strings.HasSuffix(s.text, "\n") {
		s.report(len(s.lines), "newline", "the last line has no end, and may not be read")
	}
	if name == "element-deps" {
		s.sorted()
	}
	if strings.HasPrefix(s.first, "#!") {
		if !s.executable {
			s.report(1, "executable", "begins with #! and is not executable")
		}
		if !python.MatchString(s.first) {
			s.each(indent, "indent", "is not indented by multiples of four blanks")
		}
	}
	if anyBash.MatchString(s.first) && s.first != "#!/bin/bash" {
		s.report(1, "shebang", "bash scripts begin with #!/bin/bash")
	}
	if strings.Contains(s.first, "#!/bin/bash") {
		s.options()
	}
	if strings.Contains(s.path, "environment.d") {
		s.environment()
	}
	s.each(hidden, "export", "export hides the failure of the command: assign first, then export")
	if onHost.MatchString(filepath.Dir(s.path)) {
		s.logical(func(n int, line string) {
			if strings.Contains(line, "sudo ") && !safe.MatchString(line) {
				s.report(n, "safe_sudo", "sudo on the build host that does not name the image's tree: %s", line)
			}
		})
	}
	s.logical(func(n int, line string) {
		if strings.Contains(line, "which ") && !notWhich.MatchString(line) {
			s.report(n, "which", "which is not everywhere; use type -p or command -v: %s", line)
		}
	})
}

// each reports every line that matches.
func (s *source) each(re *regexp.Regexp, rule, msg string) {
	for i, l := range s.lines {
		if re.MatchString(l) {
			s.report(i+1, rule, "%s", msg)
		}
	}
}

// logical calls f for every line as the shell's read gives it: without blanks
// around it, and as one with the next where a backslash ends it.
func (s *source) logical(f func(n int, line string)) {
	start, joined := 0, ""
	for i, l := range s.lines {
		if joined == "" {
			start = i + 1
		}
		body := strings.TrimRight(l, `\`)
		if (len(l)-len(body))%2 == 1 && i+1 < len(s.lines) {
			joined += body + " "
			continue
		}
		f(start, strings.TrimSpace(joined+l))
		joined = ""
	}
}

func (s *source) sorted() {
	before := ""
	for i, l := range s.lines {
		if l == "" || l[0] == '#' {
			continue
		}
		if l < before {
			s.report(i+1, "sorted", "%s stands behind %s: dependencies are sorted", l, before)
		}
		before = l
	}
}

// options looks for what makes bash stop at errors.
func (s *source) options() {
	want := []struct {
		rule, msg string
		re        *regexp.Regexp
	}{
		{"sete", "is not set -e: goes on after a failure", setE},
		{"setu", "is not set -u: takes a variable that is not set for an empty one", setU},
		{"setpipefail", "is not set -o pipefail: does not see a failure inside a pipe", pipefail},
	}
	if s.opts.DIB {
		want[2].re = pipefailDIB
		want = append(want, struct {
			rule, msg string
			re        *regexp.Regexp
		}{"dibdebugtrace", "does not follow DIB_DEBUG_TRACE", debugTrace})
	}
	for _, w := range want {
		if s.line(w.re) == 0 {
			s.report(1, w.rule, "%s", w.msg)
		}
	}
}

// environment checks what is sourced.
func (s *source) environment() {
	if n := s.line(setX); n > 0 {
		s.report(n, "environment", "sets tracing, for all hooks and all secrets")
	}
	if s.executable {
		s.report(1, "environment", "is executable; it is sourced, not run")
	}
}

// layout checks what every text is checked for.
func (s *source) layout() {
	s.each(tab, "tabindent", "is indented by a tab")
	if s.text != "" && !strings.HasSuffix(s.text, "\n") {
		s.report(len(s.lines), "newline", "the last line has no end")
	}
}

// read reads a file as a build does. The rule is the one that an error breaks.
func read(e *element.Element, name, path string, executable bool) (rule string, warnings []string, err error) {
	switch {
	case name == "package-installs.yaml", name == "package-installs.json":
		warnings, err = pkginstall.Check(e)
		return "package-installs", warnings, err
	case strings.HasPrefix(name, "block-device-") && strings.HasSuffix(name, ".yaml"):
		return "block-device", nil, blockDevice(path)
	case strings.HasSuffix(name, ".yaml"):
		_, err = yaml11.Read(path)
		return "yaml", nil, err
	case name == "pkg-map" && !executable:
		_, err = pkgmap.Read(path)
		return "pkg-map", nil, err
	case name == "svc-map" && !executable:
		_, err = svcmap.Merge([]*element.Element{e}, "debian")
		return "svc-map", nil, err
	}
	return "", nil, nil
}

// blockDevice checks the outer form: a list of mappings with one key each.
func blockDevice(path string) error {
	root, err := yaml11.Read(path)
	if err != nil {
		return err
	}
	if root.Kind != yaml11.List {
		return fmt.Errorf("%s:%d: expected a list of block devices, found %v", path, root.Line, root.Kind)
	}
	for _, item := range root.Items {
		if item.Kind != yaml11.Mapping || len(item.Pairs) != 1 {
			return fmt.Errorf("%s:%d: expected one kind of block device, such as local_loop, found %v",
				path, item.Line, item.Kind)
		}
	}
	return nil
}
