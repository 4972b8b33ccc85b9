package applycfg

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The record says what of the files that were written is public, so that it can
// be shown when it is about to be replaced. It has hashes of what is public
// only, and none of it says anything of another content: a record that is old,
// or lost, hides more and shows no more.
const (
	recordName = "public"
	recordNew  = "public.new" // of a run that is not over
	recordHead = "applycfg public 1\n"
)

// Bounds of a record: of one file's lines, and of all of it in bytes.
const (
	maxPublicLines = 4096
	maxRecord      = 4 << 20
)

// record has a proof for paths below an output directory.
type record map[string]proof

// proof tells what of a file is public. The zero value says nothing.
type proof struct {
	all   string   // the SHA-256 in hexadecimal of a content of which everything is
	lines []string // hashes of lines that are
}

// prove says what of a content is public, given its lines as they may be shown.
func prove(body string, shown []string) proof {
	if strings.Join(shown, "") == body {
		sum := sha256.Sum256([]byte(body))
		return proof{all: hex.EncodeToString(sum[:])}
	}
	var p proof
	seen := map[string]bool{}
	for i, l := range lines(body) {
		h := hashLine(l)
		if l == shown[i] && !seen[h] && len(p.lines) < maxPublicLines {
			seen[h] = true
			p.lines = append(p.lines, h)
		}
	}
	return p
}

// hashLine is eight bytes of a line's SHA-256, in hexadecimal.
func hashLine(line string) string {
	sum := sha256.Sum256([]byte(strings.TrimSuffix(line, "\n")))
	return hex.EncodeToString(sum[:8])
}

// of tells which lines of a content are public.
func (p proof) of(body string) func(line string) bool {
	if p.all != "" {
		sum := sha256.Sum256([]byte(body))
		all := hex.EncodeToString(sum[:]) == p.all
		return func(string) bool { return all }
	}
	known := map[string]bool{}
	for _, h := range p.lines {
		known[h] = true
	}
	return func(line string) bool { return known[hashLine(line)] }
}

// mask masks the other lines.
func (p proof) mask(body string) string {
	public := p.of(body)
	var b strings.Builder
	for l := range strings.Lines(body) {
		if !public(l) {
			l = stars(l)
		}
		b.WriteString(l)
	}
	return b.String()
}

// readRecord reads the record of an output directory. One that is not there, or
// is none, or another directory's, says nothing.
func readRecord(path string, r *root) record {
	known := record{}
	b, err := os.ReadFile(path)
	text, ok := strings.CutPrefix(string(b), recordHead+"dir "+quotedDir(r)+"\n")
	if err != nil || !ok || len(b) > maxRecord {
		return known
	}
	for line := range strings.Lines(text) {
		if line == fmt.Sprintf("end %d\n", len(known)) {
			return known
		}
		what, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		hashes, rest, _ := strings.Cut(rest, " ")
		name, rest, ok := quoted(rest)
		switch {
		case !ok || rest != "":
			return record{}
		case what == "all" && len(hashes) == 2*sha256.Size:
			known[name] = proof{all: hashes}
		case what == "lines":
			known[name] = proof{lines: strings.Split(hashes, ",")}
		default:
			return record{}
		}
	}
	return record{}
}

// quotedDir is the absolute path of the output directory.
func quotedDir(r *root) string {
	dir, err := filepath.Abs(r.name)
	if err != nil {
		dir = r.name
	}
	return string(appendQuoted(nil, dir))
}

// write writes a record: that of the first paths, and of others as long as
// there is room.
func (known record) write(path string, r *root, first []job) error {
	var b bytes.Buffer
	b.WriteString(recordHead + "dir " + quotedDir(r) + "\n")
	n := 0
	done := map[string]bool{}
	put := func(name string) {
		p, ok := known[name]
		if !ok || done[name] {
			return
		}
		done[name] = true
		what, hashes := "all", p.all
		if p.all == "" {
			what, hashes = "lines", strings.Join(p.lines, ",")
		}
		if hashes == "" || b.Len()+len(hashes)+6*len(name) > maxRecord-1024 {
			return
		}
		fmt.Fprintf(&b, "%s %s %s\n", what, hashes, appendQuoted(nil, name))
		n++
	}
	for i := range first {
		put(first[i].path)
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		put(name)
	}
	fmt.Fprintf(&b, "end %d\n", n)
	return os.WriteFile(path, b.Bytes(), 0o600)
}

// remember writes the record of the files as they will be. It becomes the
// record when they have their places. Known is what was known of the files as
// they are; what is remembered of one that does not change stays.
func (s *state) remember(r *root, jobs []job, known record) error {
	for i := range jobs {
		j := &jobs[i]
		_, ok := known[j.path]
		switch {
		case j.action == Unchanged && ok:
		case j.shown == nil || len(j.body) == 0:
			delete(known, j.path)
		default:
			known[j.path] = prove(string(j.body), j.shown.lines(string(j.body)))
		}
	}
	return known.write(s.path(recordNew), r, jobs)
}
