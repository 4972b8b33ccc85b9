package testenv

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Original is Debian's package of the programs that ours are compared with.
const Original = "python3-diskimage-builder"

// Matters are the rows of the table in docs/compatibility.md, in its order.
// Each is the matter of exactly one test.
func Matters() []string {
	return []string{
		"resolution, all elements: single, with every operating system, random sets",
		"resolution, made elements",
		"merged hook trees, all elements",
		"merged hook trees, made elements",
		"run-parts order and selection, hook directories of all elements",
		"run-parts order and selection, made directories",
		"environment.d of all elements: what hooks inherit",
		"environment.d, made snippets",
		"variables of the driver's hooks, in and out of the image",
		"block devices: fixtures and elements' files, two root file systems",
		"block devices, generated",
		"sizes",
		"command lines of disk-image-create and ramdisk-image-create: 21 variables and status",
		"getopt(1): words, order, messages, generated",
		"dib-lint, all elements",
		"dib-lint, made elements",
		"package-installs, all elements: entries over all environments",
		"package-installs, cases by hand",
		"pkg-map: all maps, every distribution and release",
		"svc-map, cases by hand",
		"svc-map, generated merges",
		"YAML 1.1, cases by hand",
		"YAML 1.1, generated scalars",
		"YAML 1.1, generated documents",
		"arguments and statuses of the tools",
		"dib-run-parts of python3-dib-utils: generated directories and command lines",
		"os-refresh-config: generated trees of hooks, output, order and statuses",
		"os-refresh-config: command lines, locks and time limits",
		"os-apply-config: templates, generated",
		"os-apply-config: command lines and keys, cases by hand",
		"os-apply-config: this repository's templates, each key with each kind of value",
		"os-apply-config: generated trees, documents and existing files",
		"os-collect-config: settings, generated files and command lines",
		"os-collect-config: output, statuses, files and requests, cases by hand",
	}
}

// Row is what comparing one matter with the original came to. Its cases are
// the sum of what became of them.
type Row struct {
	Matter    string       // one of Matters
	Equal     int          // cases in which both do the same
	Refused   int          // cases that both refuse, where they are counted apart
	Different []Difference // on purpose
	Note      string       // more for the last column; may be empty
	// Sample says that the figures are of a part of the cases, and not those
	// of the table.
	Sample bool `json:"-"`
}

// Difference counts cases in which ours differs for a reason. One of no cases
// is not shown.
type Difference struct {
	Cases int
	Why   string
}

// String is the row as Markdown.
func (r Row) String() string {
	cases := r.Equal + r.Refused
	var why []string
	for _, d := range r.Different {
		if cases += d.Cases; d.Cases > 0 {
			why = append(why, thousands(d.Cases)+": "+d.Why)
		}
	}
	if len(why) == 0 {
		why = []string{"none"}
	}
	last := strings.Join(why, "; ")
	if r.Note != "" {
		last += ". " + r.Note
	}
	refused := ""
	if r.Refused > 0 {
		refused = thousands(r.Refused)
	}
	return strings.Join([]string{"", " " + r.Matter + " ", " " + thousands(cases) + " ", " " + thousands(r.Equal) + " ",
		" " + refused + " ", " " + last + " ", ""}, "|")
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Proof says what a comparison came to. With GOLDSMITH_PROOF in the
// environment it adds the row, as a line of JSON, to the file of that name:
// "make proof" makes the table of such lines. Without, figures that are
// complete are held to the table, as far as it was made with the original that
// is installed. A test that failed has no figures.
func Proof(t testing.TB, r Row) {
	t.Helper()
	t.Log(r)
	if !slices.Contains(Matters(), r.Matter) {
		t.Errorf("%q is no matter of the table in docs/compatibility.md", r.Matter)
	}
	if t.Failed() {
		return
	}
	file := os.Getenv("GOLDSMITH_PROOF")
	if file == "" {
		if !r.Sample {
			compareTable(t, r)
		}
		return
	}
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(append(line, '\n')) // in one piece: packages are tested at the same time
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// compareTable fails the test when the table says something else.
func compareTable(t testing.TB, r Row) {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == "/" {
			t.Fatal("no go.mod above the working directory")
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "docs/compatibility.md"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), Compared(t)) && !strings.Contains(string(text), "\n"+r.String()+"\n") {
		t.Errorf("the table in docs/compatibility.md says something else: run 'make proof'\nwant %s", r)
	}
}

// Compared is the sentence above the table: what the comparison is with.
func Compared(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", Original).Output()
	if err != nil {
		Missing(t, Original+" is not installed: run ci/install-deps.sh")
	}
	return fmt.Sprintf("Compared with Debian's %s %s.", Original, out)
}
