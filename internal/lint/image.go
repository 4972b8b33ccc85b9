package lint

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/filelist"
)

// Image is what of an image is looked at: whether what it installs writes only
// where a machine may, whose root is read-only and whose /etc is the image's
// at every start.
type Image struct {
	Files []filelist.File          // sorted by path
	Text  func(path string) []byte // content of the files that Reads names; nil for others
	// State are the directories that machines keep, and what they keep of /etc,
	// as internal/disk.CheckState has them.
	State []string
}

// Write is something that writes, or is meant to, where a machine has nothing
// that stays.
type Write struct {
	Package string `json:"package,omitempty"` // empty: of no package, but of an element
	Path    string `json:"path"`              // what is written
	From    string `json:"from"`              // file, and line, that says so
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

func (w Write) String() string {
	return fmt.Sprintf("%s: %s: %s (%s; %s)", cmp.Or(w.Package, "no package"), w.Path, w.Message, w.From, w.Remedy)
}

var (
	tmpfiles = regexp.MustCompile(`^/(usr/lib|etc)/tmpfiles\.d/[^/]+\.conf$`)
	units    = regexp.MustCompile(`^/(usr/lib|etc)/systemd/system/([^/]+\.d/[^/]+\.conf|[^/]+\.service)$`)
	lists    = regexp.MustCompile(`^/var/lib/dpkg/info/([^/:]+)(:[^/]+)?\.list$`)
)

const passwd = "/etc/passwd"

// Reads says which files' content is looked at, by their path from the root.
func Reads(p string) bool {
	return p == passwd || tmpfiles.MatchString(p) || units.MatchString(p) || lists.MatchString(p)
}

// Writes returns what it finds, sorted by package and path.
func (i Image) Writes() []Write {
	w := &writes{Image: i, files: map[string]*filelist.File{}}
	for n := range i.Files {
		w.files[i.Files[n].Path] = &i.Files[n]
	}
	for n := range i.Files {
		switch f := &i.Files[n]; {
		case tmpfiles.MatchString(f.Path):
			w.lines(f, w.tmpfile)
		case units.MatchString(f.Path):
			w.lines(f, w.unit)
		case f.Path == passwd:
			w.lines(f, w.home)
		case f.Type == "dir":
			w.directory(f)
		}
	}
	w.packages()
	slices.SortStableFunc(w.found, func(a, b Write) int {
		return cmp.Or(strings.Compare(a.Package, b.Package), strings.Compare(a.Path, b.Path))
	})
	return slices.CompactFunc(w.found, func(a, b Write) bool { return a.Package == b.Package && a.Path == b.Path })
}

type writes struct {
	Image
	files map[string]*filelist.File
	found []Write
}

// writable says that a machine may write a path, and what stays of it.
func (w *writes) writable(p string) bool {
	for _, dir := range []string{"/run", "/tmp", "/dev", "/proc", "/sys", "/var/run", "/var/lock"} {
		if below(p, dir) {
			return true
		}
	}
	for q := p; q != "/" && q != "."; q = path.Dir(q) {
		for _, pattern := range w.State {
			if ok, _ := filepath.Match(pattern, q); ok {
				return true
			}
		}
	}
	return false
}

func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// report adds a path, unless a machine may write it.
func (w *writes) report(pkg, p, from, message string) {
	p = path.Clean(p)
	if w.writable(p) || p == "/etc" { // hostnamed and others, which name no file of it
		return
	}
	remedy := "declare it as state in the image definition, or configure another place"
	if below(p, "/etc") {
		remedy = "make it from a template, or declare it in /usr/share/goldsmith/state.d"
	} else if below(p, "/usr") {
		remedy = "configure another place: /usr cannot be state"
	}
	w.found = append(w.found, Write{pkg, p, from, message, remedy})
}

// lines calls f for every line that says something.
func (w *writes) lines(f *filelist.File, each func(f *filelist.File, from, line string)) {
	n := 0
	for line := range strings.Lines(string(w.Text(f.Path))) {
		n++
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
			each(f, f.Path+":"+strconv.Itoa(n), line)
		}
	}
}

// specifiers of systemd that stand for directories.
var specifiers = strings.NewReplacer("%S", "/var/lib", "%C", "/var/cache", "%L", "/var/log", "%t", "/run", "%T", "/tmp",
	"%V", "/var/tmp", "%h", "/root", "%E", "/etc", "%%", "%")

// tmpfile reads a line of tmpfiles.d(5). What the image has already is not
// made again, and what is below /etc is made at every start.
func (w *writes) tmpfile(f *filelist.File, from, line string) {
	words := strings.Fields(line)
	if len(words) < 2 {
		return
	}
	kind, p := words[0][:1], specifiers.Replace(strings.Trim(words[1], `"`))
	is := w.files[path.Clean(p)]
	switch {
	case !strings.Contains("fFwdDevqQpLCbc", kind), below(p, "/etc"):
		return
	case is != nil && (kind != "w" && kind != "F" && kind != "D"):
		return
	}
	w.report(f.Package, p, from, "systemd-tmpfiles cannot make it")
}

// places are units' settings that name directories to write to, and below what.
var places = map[string]string{
	"ReadWritePaths": "/", "ReadWriteDirectories": "/", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache",
	"LogsDirectory": "/var/log", "ConfigurationDirectory": "/etc",
}

// unit reads a line of a unit.
func (w *writes) unit(f *filelist.File, from, line string) {
	name, value, ok := strings.Cut(line, "=")
	under, known := places[strings.TrimSpace(name)]
	if !ok || !known {
		return
	}
	for word := range strings.FieldsSeq(value) {
		word = strings.TrimLeft(strings.Trim(word, `"`), "-+")
		word, _, _ = strings.Cut(word, ":")
		if word = specifiers.Replace(word); under == "/" && !strings.HasPrefix(word, "/") {
			continue
		}
		w.report(f.Package, path.Join(under, word), from, "a service writes there")
	}
}

// home reads a line of passwd(5). Accounts that nobody logs in to need no home.
func (w *writes) home(f *filelist.File, from, line string) {
	field := strings.Split(line, ":")
	if len(field) != 7 {
		return
	}
	dir, shell := field[5], path.Base(field[6])
	if shell == "nologin" || shell == "false" || shell == "sync" || !strings.HasPrefix(dir, "/") {
		return
	}
	w.report("", dir, from, "the home of "+field[0])
}

// directory looks at a directory that others than root may write to.
func (w *writes) directory(f *filelist.File) {
	mode, err := strconv.ParseUint(f.Mode, 8, 32)
	if err != nil {
		return
	}
	who := ""
	switch {
	case f.UID != 0 && mode&0o200 != 0:
		who = "the user " + strconv.Itoa(int(f.UID))
	case f.GID != 0 && mode&0o020 != 0:
		who = "the group " + strconv.Itoa(int(f.GID))
	case mode&0o002 != 0:
		who = "everybody"
	default:
		return
	}
	w.report("", f.Path, f.Path, who+" is meant to write there")
}

// packages finds whose the directories are, by dpkg's lists: those of the first
// package by name.
func (w *writes) packages() {
	want := map[string][]int{}
	for n, x := range w.found {
		if x.Package == "" && x.From == x.Path {
			want[x.Path] = append(want[x.Path], n)
		}
	}
	if len(want) == 0 {
		return
	}
	for n := range w.Files { // in the order of names
		m := lists.FindStringSubmatch(w.Files[n].Path)
		if m == nil {
			continue
		}
		for line := range strings.Lines(string(w.Text(w.Files[n].Path))) {
			for _, n := range want[path.Clean(strings.TrimSpace(line))] {
				w.found[n].Package = cmp.Or(w.found[n].Package, m[1])
			}
		}
	}
}
