package imagebuild

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/hook"
)

// stepFormat changes when this code makes another result of the same inputs.
const stepFormat = "step/1"

// programFormat stands for imgbuild itself where a hook runs it (bootstrap,
// extract): it changes when these make another tree of the same input.
const programFormat = "imgbuild/2"

// step is a piece of a build whose result can be kept: a hook, or what the
// builder does between phases. Its key names everything that it depends on,
// all steps before it included.
type step struct {
	Name    string  `json:"step"` // such as install.d/10-x
	Element string  `json:"element,omitempty"`
	Key     string  `json:"key"`
	Inputs  []input `json:"inputs"` // sorted
	// Always says why the step runs in every build; empty when its result is
	// kept.
	Always string `json:"always,omitempty"`
}

// input is one thing that a step depends on, and a digest of it.
type input struct {
	Name   string `json:"name"` // "hook", ELEMENT/FILE, "variable NAME", "program NAME"
	Digest string `json:"digest"`
}

// asWhole are variables that say what is built as a whole. They count only for
// steps that speak of them, so that a further element, or another name, does
// not run everything again.
var asWhole = []string{"IMAGE_ELEMENT", "IMAGE_NAME", "IMAGE_VERSION", "DIB_ARGS", "DIB_ENV"}

// pathsToFiles are variables that name files of the build: what is in those
// counts, where a hook speaks of them.
var pathsToFiles = []string{"GOLDSMITH_PACKAGES", "GOLDSMITH_LOCK", "GOLDSMITH_PINS"}

// doors are the words by which a hook, or a program of its element, comes to
// files of other elements: variables that say where they lie, and a script's
// own place. Where a step has one of them, all those files count for it, unless
// its header says which it reads.
var doors = regexp.MustCompile(`ELEMENTS_PATH|IMAGE_ELEMENT_YAML|get_image_element_array|TMP_HOOKS_PATH|in_target\.d|` +
	`GOLDSMITH_BIN[^/\s]*/imgtools|(dirname|realpath|readlink)\b.*\$\{?0\b|\$\{0[%#/]|BASH_SOURCE|__file__|argv\[0\]`)

// peeks are the words by which a script comes to variables that it does not
// name. Where a step has one of them, all variables count for it.
var peeks = regexp.MustCompile(`(?m)\b(printenv|compgen|environ|getenv)\b|\b(declare|typeset|export) -\w*[px]|process\.env\b|[%$]ENV\b|` +
	`\$\{!|\benv\s*($|[|>&;)0-9-])|^\s*set\s*($|[|>])`)

// keyMaker computes the keys of steps.
type keyMaker struct {
	b       *build
	files   []elementFile // of all elements
	snippet []byte        // all of environment.d
	sums    map[string]string
	pins    map[bool]inputs // what is pinned, for root.d and for the other phases
}

// elementFile is a file of an element that hooks may read: neither a hook
// itself nor something for people or tests.
type elementFile struct {
	element *element.Element
	rel     string // in the element
	path    string
	digest  string
	text    []byte // nil when it is too large to be a script
}

// maxScript is how large a file may be that is searched for words.
const maxScript = 256 << 10

func newKeyMaker(b *build) (*keyMaker, error) {
	k := &keyMaker{b: b, sums: map[string]string{}, pins: map[bool]inputs{}}
	for _, p := range []phase{rootPhase, treePhases[0]} {
		var err error
		if k.pins[p == rootPhase], err = b.pinned(p); err != nil {
			return nil, err
		}
	}
	for _, e := range b.elements {
		if err := k.addElement(e); err != nil {
			return nil, fmt.Errorf("element %s: %w", e.Name, err)
		}
	}
	for _, f := range k.files {
		if strings.HasPrefix(f.rel, "environment.d/") {
			k.snippet = append(k.snippet, f.text...)
		}
	}
	return k, nil
}

// addElement reads the files of an element; like MergeHooks, it follows links
// at the first level.
func (k *keyMaker) addElement(e *element.Element) error {
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return err
	}
	for _, d := range entries {
		name := d.Name()
		if forPeople(name) {
			continue
		}
		top, err := filepath.EvalSymlinks(filepath.Join(e.Dir, name))
		if err != nil {
			return err
		}
		err = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel := path.Join(name, filepath.ToSlash(strings.TrimPrefix(p, top)))
			if isHook(rel, p) {
				return nil
			}
			return k.addFile(e, rel, p, d)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// forPeople tells whether nothing below a first-level name of an element is
// for its hooks to read.
func forPeople(name string) bool {
	switch name {
	case "tests", "test-elements", "__pycache__", "smoke.d", "element-deps", "element-provides":
		return true
	}
	return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "README") || strings.HasSuffix(name, ".pyc")
}

// forImage tells whether a file is only copied into the image, and never run
// while it is built.
func forImage(rel string) bool {
	top, _, _ := strings.Cut(rel, "/")
	return top == "static" || top == "os-apply-config" || top == "os-refresh-config"
}

// isHook tells whether a file of an element is a hook of a phase.
func isHook(rel, p string) bool {
	dir, name := path.Split(rel)
	if !slices.ContainsFunc(phases, func(p phase) bool { return p.name+"/" == dir }) || !hook.Name.MatchString(name) {
		return false
	}
	fi, err := os.Stat(p)
	return err == nil && fi.Mode()&0o111 != 0
}

func (k *keyMaker) addFile(e *element.Element, rel, p string, d fs.DirEntry) error {
	f := elementFile{element: e, rel: rel, path: p}
	h := sha256.New()
	if d.Type()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "link %s\x00", target)
	}
	fi, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a link to what is only in the image
	case err != nil:
		return err
	case fi.Mode().IsRegular():
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%o\x00", fi.Mode().Perm()&0o111)
		_, _ = h.Write(content)
		if len(content) <= maxScript {
			f.text = content
		}
	}
	f.digest = hex.EncodeToString(h.Sum(nil))
	k.files = append(k.files, f)
	return nil
}

// hook makes the step of a hook in the hooks tree dir.
func (k *keyMaker) hook(parent string, p phase, dir, name string) (*step, error) {
	file := filepath.Join(dir, p.name, name)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &step{Name: p.name + "/" + name, Element: k.b.ownerOf(dir, filepath.Join(p.name, name))}
	head, err := readHeader(text)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("element %s: %s: %w", s.Element, s.Name, err), `such as ## goldsmith: {"reads": ["package-installs.*"]}`)
	}
	in := inputs{"hook": sum(text)}
	words := [][]byte{text, k.snippet}
	for _, f := range k.files {
		if f.element.Name == s.Element {
			in[f.element.Name+"/"+f.rel] = f.digest
			if !forImage(f.rel) {
				words = append(words, f.text)
			}
		}
	}
	said := mentions(words)
	if slices.ContainsFunc(words, peeks.Match) {
		said = func(string) bool { return true }
	}
	open := slices.ContainsFunc(words, doors.Match)
	for _, f := range k.files {
		if strings.HasPrefix(f.rel, "environment.d/") || open && head.counts(f.rel) {
			in[f.element.Name+"/"+f.rel] = f.digest
		}
	}
	k.environment(in, p, said)
	if err := k.programs(in, words); err != nil {
		return nil, err
	}
	k.seal(s, parent, in)
	return s, nil
}

// own makes the step of something that the builder does itself; everything of
// the elements counts for it when all is set.
func (k *keyMaker) own(parent, name string, all bool, more map[string]string) *step {
	in := inputs{}
	maps.Copy(in, more)
	if all {
		for _, f := range k.files {
			in[f.element.Name+"/"+f.rel] = f.digest
		}
		k.environment(in, diskPhases[0], func(string) bool { return true })
	}
	s := &step{Name: name}
	k.seal(s, parent, in)
	return s
}

// inputs by name.
type inputs map[string]string

func (k *keyMaker) seal(s *step, parent string, in inputs) {
	sha := sha256.New()
	h := digestKey{sha}
	h.list(stepFormat, parent, s.Name)
	for _, name := range slices.Sorted(maps.Keys(in)) {
		s.Inputs = append(s.Inputs, input{name, in[name]})
		h.list(name, in[name])
	}
	s.Key = hex.EncodeToString(sha.Sum(nil))[:32]
}

// environment adds the variables that a hook of the phase sees: those that
// speak of the image as a whole only where they are named, and none that says
// where things lie or how the network is reached.
func (k *keyMaker) environment(in inputs, p phase, said func(string) bool) {
	env := k.b.settings(p)
	env["GOLDSMITH_MIRROR"] = strings.Join(k.b.def.Mirror, "\n")
	if said("GOLDSMITH_PACKAGES") {
		for _, name := range k.b.packages {
			in["package "+name] = "asked for"
		}
	}
	if said("GOLDSMITH_LOCK") {
		maps.Copy(in, k.pins[p == rootPhase])
	}
	for _, name := range pathsToFiles {
		delete(env, name)
	}
	if said("IMAGE_ELEMENT_YAML") || said("get_image_element_array") {
		in["variable IMAGE_ELEMENT"] = sum([]byte(env["IMAGE_ELEMENT"]))
	}
	for name, value := range env {
		switch {
		case slices.Contains(proxies, name), strings.HasPrefix(name, "break"), name == "DIB_OFFLINE":
		case name == "DIB_IMAGE_SIZE" && k.b.layout != nil: // follows from the tree
		case (slices.Contains(asWhole, name) || strings.HasPrefix(name, "GOLDSMITH_")) && !said(name):
		default:
			in["variable "+name] = sum([]byte(value))
		}
	}
}

// programRE finds which of our programs a script uses.
var programRE = regexp.MustCompile(`GOLDSMITH_BIN[^/\s]*/([a-z]+)`)

// programs adds our programs that a step puts into the image or runs.
func (k *keyMaker) programs(in inputs, words [][]byte) error {
	for _, text := range words {
		for _, m := range programRE.FindAllSubmatch(text, -1) {
			name := string(m[1])
			if name == "imgbuild" { // not its bytes, which every commit changes
				in["program imgbuild"] = programFormat
				continue
			}
			digest, err := k.sumFile(filepath.Join(k.b.opts.Bin, name))
			if err != nil && !os.IsNotExist(err) { // the hook will say so
				return err
			}
			in["program "+name] = digest
		}
	}
	return nil
}

func (k *keyMaker) sumFile(file string) (string, error) {
	if s, ok := k.sums[file]; ok {
		return s, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	k.sums[file] = hex.EncodeToString(h.Sum(nil))
	return k.sums[file], nil
}

// mentions searches scripts for a word.
func mentions(texts [][]byte) func(string) bool {
	return func(word string) bool {
		return slices.ContainsFunc(texts, func(t []byte) bool { return bytes.Contains(t, []byte(word)) })
	}
}

// ownerOf names the element whose hook a file of the hooks tree is.
func (b *build) ownerOf(hooks, rel string) string {
	if to, err := os.Readlink(filepath.Join(hooks, rel)); err == nil && !filepath.IsAbs(to) {
		rel = filepath.Join(filepath.Dir(rel), to) // as install-types makes them
	}
	owner := ""
	for _, e := range b.elements {
		if _, err := os.Lstat(filepath.Join(e.Dir, rel)); err == nil {
			owner = e.Name
		}
	}
	return owner
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// digestKey is a digest of lists of words, each framed by its length.
type digestKey struct{ io.Writer }

func (k digestKey) list(words ...string) {
	fmt.Fprintf(k, "%d:", len(words))
	for _, w := range words {
		fmt.Fprintf(k, "%d:%s", len(w), w)
	}
}
