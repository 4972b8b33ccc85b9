// Package oslo reads command lines and configuration files as oslo.config does,
// the library behind os-collect-config's settings.
//
// Every option can stand in an INI file, on the command line and in the
// environment. What is read later wins, whichever of the two it is: a file
// counts where --config-file stands on the command line, and a machine's own
// files count before it. Options that hold a list grow instead. Values may name
// other options: $cachedir, ${local.path}; "$$" and "\$" are a dollar.
//
// Formats: oslo_config/cfg.py and iniparser.py of oslo.config 9.0, and
// Python's argparse.
package oslo

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kind is what values of an option are.
type Kind int

// Kinds of options. Multi is a list of texts.
const (
	Text Kind = iota
	Multi
	Float
	Bool
)

// Option is one setting. In a file it stands in the section Group.
type Option struct {
	Group   string // empty: DEFAULT
	Name    string // on the command line, after the group: "metadata-url"
	Dest    string // in a file; empty: Name with "_" for "-"
	Short   string // a letter for the command line
	Aliases []string
	Kind    Kind
	Default []string // text; one value unless Multi
	Words   bool     // Multi: takes the words of the command line and has no flag
	Value   string   // what to call the value in a help text
	Help    string
}

func (o *Option) dest() string {
	if o.Dest != "" {
		return o.Dest
	}
	return strings.ReplaceAll(o.Name, "-", "_")
}

func (o *Option) key() key { return key{strings.ToLower(o.Group), o.dest()} }

// Flag is the option's name on the command line, without dashes.
func (o *Option) Flag() string {
	if o.Group == "" {
		return o.Name
	}
	return o.Group + "-" + o.Name
}

// key names an option: its group in lower case, empty for DEFAULT, and its
// name in files.
type key struct{ group, dest string }

func (k key) String() string {
	if k.group == "" {
		return k.dest
	}
	return k.group + "." + k.dest
}

// Parser is what a program takes. Options is required.
type Parser struct {
	Options []Option
	// Files and Dirs are read when the command line names none: files, and the
	// files NAME.conf of directories.
	Files, Dirs []string
	Home        string                      // what "~/" stands for at the beginning of a path
	Getenv      func(string) (string, bool) // nil: no environment
	// Lenient takes "-" for "_" in the names of files' settings, and leaves
	// what looks like a reference to an option and is none as it is.
	Lenient bool
}

// ErrHelp and ErrVersion say that the command line asks for that only.
var (
	ErrHelp    = errors.New("help")
	ErrVersion = errors.New("version")
)

// UsageError says that the command line is wrong.
type UsageError struct{ Problem string }

func (e *UsageError) Error() string { return e.Problem }

// ValueError says that a flag or an environment variable has a wrong value.
type ValueError struct{ Problem string }

func (e *ValueError) Error() string { return e.Problem }

// FileError says that a file is wrong. Line is 0 for the whole file.
type FileError struct {
	Path    string
	Line    int
	Problem string
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.Path + ": " + e.Problem
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Problem)
}

// Settings are what was read.
type Settings struct {
	// Read are the files that were read, in order. Files are those among them
	// that are no part of a directory.
	Read, Files []string

	missing error // the first file that is not there: told when the command line is right
	options map[key]*Option
	parser  *Parser
	values  map[key]value
	file    map[key][]string // values of lists that stand in files, in order

	references int // how many the value being read has had replaced
}

// value is what was last said about an option, by a file or the command line.
type value struct {
	text   []string
	origin string // a file and line for messages; empty: the command line
	inFile bool   // some file has it
}

// Parse reads the files and the command line. Every value is checked.
func (p *Parser) Parse(args []string) (*Settings, error) {
	s := &Settings{options: map[key]*Option{}, parser: p, values: map[key]value{}, file: map[key][]string{}}
	for i := range p.Options {
		s.options[p.Options[i].key()] = &p.Options[i]
	}
	if !names(args, "--config-file") {
		for _, f := range p.Files {
			if err := s.readFile(f); err != nil {
				return nil, err
			}
		}
		s.Files = slices.Clone(s.Read)
	}
	if !names(args, "--config-dir") {
		for _, d := range p.Dirs {
			if err := s.readDir(d); err != nil {
				return nil, err
			}
		}
	}
	if err := s.commandLine(args); err != nil {
		return nil, err
	}
	if s.missing != nil {
		return nil, s.missing
	}
	return s, s.check()
}

// names says that the command line has the flag, not shortened.
func names(args []string, flag string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
}

func (s *Settings) readDir(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil {
		return err
	}
	for _, f := range files { // sorted
		if err := s.readFile(f); err != nil {
			return err
		}
	}
	return nil
}

// set notes what a file or the command line says.
func (s *Settings) set(o *Option, text []string, origin string) {
	k := o.key()
	v := s.values[k]
	if o.Kind == Multi {
		text = append(slices.Clone(v.text), text...)
	}
	s.values[k] = value{text, origin, v.inFile || origin != ""}
}

// get returns an option's value, its references replaced; ok is false when
// it has none.
func (s *Settings) get(k key, depth int) (text []string, ok bool, err error) {
	o, v := s.options[k], s.values[k]
	text, origin := v.text, v.origin
	if o.Words && len(text) == 0 {
		text = s.file[k]
	}
	if s.parser.Getenv != nil && (text == nil || v.inFile) {
		if e, ok := s.parser.Getenv(environmentName(k)); ok {
			text, origin = []string{e}, "environment variable "+environmentName(k)
		}
	}
	if text == nil {
		text = o.Default
	}
	if len(text) == 0 {
		return nil, false, nil
	}
	text = slices.Clone(text)
	if depth == 0 {
		s.references = 0
	}
	for i := range text {
		text[i], err = s.substitute(text[i], k.group, depth)
		switch {
		case err != nil && depth == 0:
			return nil, false, describe(o, origin, err.Error())
		case err != nil:
			return nil, false, err
		}
	}
	return text, true, nil
}

func environmentName(k key) string {
	group := k.group
	if group == "" {
		group = "default"
	}
	return "OS_" + strings.ToUpper(group) + "__" + strings.ToUpper(k.dest)
}

// describe says where a wrong value comes from.
func describe(o *Option, origin, problem string) error {
	if origin == "" {
		return &ValueError{"--" + o.Flag() + ": " + problem}
	}
	if path, line, ok := strings.Cut(origin, "\x00"); ok {
		n, _ := strconv.Atoi(line)
		return &FileError{path, n, o.dest() + ": " + problem}
	}
	return &ValueError{origin + ": " + problem}
}

// check converts every value, so that a wrong one is an error however late it
// would be used.
func (s *Settings) check() error {
	for _, k := range slices.SortedFunc(maps.Keys(s.options), func(a, b key) int {
		return strings.Compare(a.String(), b.String())
	}) {
		text, ok, err := s.get(k, 0)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		o, last := s.options[k], text[len(text)-1]
		switch o.Kind {
		case Bool:
			_, err = truth(last)
		case Float:
			_, err = number(last)
		}
		if err != nil {
			return describe(o, s.values[k].origin, err.Error())
		}
	}
	return nil
}

// Text returns the value of an option, named "option" or "group.option" as in
// files; ok is false when it has none.
func (s *Settings) Text(name string) (text string, ok bool) {
	l := s.List(name)
	if len(l) == 0 {
		return "", false
	}
	return l[len(l)-1], true
}

// List returns the values of a Multi option.
func (s *Settings) List(name string) []string {
	l, _, _ := s.get(s.known(name), 0) // checked by Parse
	return l
}

// Float returns the number an option has; ok is false when it has none.
func (s *Settings) Float(name string) (f float64, ok bool) {
	t, _ := s.Text(name)
	f, err := number(t)
	return f, err == nil && t != ""
}

// Bool returns an option's truth.
func (s *Settings) Bool(name string) bool {
	t, _ := s.Text(name)
	b, _ := truth(t)
	return b
}

// known is the option's key. A name that is no option's is the program's own
// mistake.
func (s *Settings) known(name string) key {
	group, dest, ok := strings.Cut(name, ".")
	if !ok {
		group, dest = "", name
	}
	k := key{group, dest}
	if s.options[k] == nil {
		panic("oslo: no option " + name)
	}
	return k
}

func truth(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true", "yes", "on":
		return true, nil
	case "0", "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// number reads a number as Python's float does, as far as anybody writes one.
// Nothing is no number, which is no error.
func number(s string) (float64, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f != f {
		return 0, fmt.Errorf("%q is no number", s)
	}
	return f, nil
}
