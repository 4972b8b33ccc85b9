package applycfg

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The record says what of the files that were written is public, so that it can
// be shown when it is about to be replaced. It says nothing of another content
// than it was made of, and nothing once other keys are secret: a record that is
// old, or lost, hides more and shows no more.
const (
	recordName = "public"
	recordNew  = "public.new" // of a run that is not over
	recordHead = "applycfg public 2\n"
)

// Bounds of a record: of one file's secret lines, of the keys of secrets, and of
// all of it in bytes.
const (
	maxHidden = 4096
	maxKeys   = 64 << 10
	maxRecord = 4 << 20
)

// record has a proof for paths below an output directory.
type record struct {
	keys  keySet // whose values were known to be secret
	files map[string]proof
}

// covers says that the record still holds where other keys are secret: all of
// them were when it was made.
func (known *record) covers(keys keySet) bool { return known.keys.has(keys) }

// keySet are short digests of dotted keys, sorted: a key may be a secret, too.
type keySet []uint64

// newKeySet tells those that have a secret from those that a schema has.
func newKeySet(paths, marked []string) keySet {
	set := make(keySet, 0, len(paths)+len(marked))
	add := func(text string) {
		sum := sha256.Sum256([]byte(text))
		set = append(set, binary.BigEndian.Uint64(sum[:]))
	}
	for _, p := range paths {
		add("value " + p)
	}
	for _, m := range marked {
		add("schema " + m)
	}
	slices.Sort(set)
	return slices.Compact(set)
}

// has says that others are all in the set.
func (set keySet) has(others keySet) bool { return len(set.meet(others)) == len(others) }

// meet are those that are in both sets.
func (set keySet) meet(other keySet) keySet {
	var both keySet
	for _, k := range other {
		if _, ok := slices.BinarySearch(set, k); ok {
			both = append(both, k)
		}
	}
	return both
}

// proof tells what of a content is public. The zero value says nothing.
type proof struct {
	sum    string // the content's SHA-256 in hexadecimal
	hidden []int  // lines that are not public, from 1 on, in order
}

func digest(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// prove says what of a content is public, given it as it may be shown: nothing,
// when that has not as many lines.
func prove(body, masked string) proof {
	p := proof{sum: digest(body)}
	if body == masked {
		return p
	}
	for n := 1; body != "" && masked != ""; n++ {
		a, b := line(body), line(masked)
		if a != b {
			p.hidden = append(p.hidden, n)
		}
		body, masked = body[len(a):], masked[len(b):]
	}
	if body != "" || masked != "" || len(p.hidden) > maxHidden {
		return proof{}
	}
	return p
}

// line is the first line of a text, with its end.
func line(text string) string {
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		return text[:i+1]
	}
	return text
}

// and is what two proofs of one content agree about. Of two contents, the first
// counts.
func (p proof) and(other proof) proof {
	if p.sum == other.sum {
		p.hidden = append(slices.Clone(p.hidden), other.hidden...)
		slices.Sort(p.hidden)
		p.hidden = slices.Compact(p.hidden)
	}
	return p
}

// of tells which lines of a content, from 0 on, are public.
func (p proof) of(body string) func(line int) bool {
	if p.sum == "" || p.sum != digest(body) {
		return func(int) bool { return false }
	}
	return func(line int) bool {
		_, no := slices.BinarySearch(p.hidden, line+1)
		return !no
	}
}

// mask masks the other lines.
func (p proof) mask(body string) string {
	public := p.of(body)
	var b strings.Builder
	for i, l := range lines(body) {
		if !public(i) {
			l = stars(l)
		}
		b.WriteString(l)
	}
	return b.String()
}

// readRecord reads the record of an output directory. One that is not there, or
// is none, or another directory's, says nothing.
func readRecord(path string, r *root) *record {
	known := &record{files: map[string]proof{}}
	b, err := readState(path)
	text, ok := strings.CutPrefix(string(b), recordHead+"dir "+quotedDir(r)+"\n")
	if err != nil || !ok || len(b) > maxRecord {
		return known
	}
	keys, text, _ := strings.Cut(text, "\n")
	known.keys, ok = parseKeys(keys)
	for line := range strings.Lines(text) {
		if !ok {
			break
		}
		if count, end := strings.CutPrefix(line, "end "); end {
			if count != strconv.Itoa(len(known.files))+"\n" {
				break
			}
			return known
		}
		var name string
		var p proof
		name, p, ok = parseProof(line)
		known.files[name] = p
	}
	return &record{files: map[string]proof{}}
}

func parseKeys(line string) (keySet, bool) {
	line, ok := strings.CutPrefix(line, "keys")
	var set keySet
	for word := range strings.FieldsSeq(line) {
		k, err := strconv.ParseUint(word, 16, 64)
		if err != nil || len(set) > 0 && k <= set[len(set)-1] {
			return nil, false
		}
		set = append(set, k)
	}
	return set, ok
}

func parseProof(line string) (name string, p proof, ok bool) {
	line, is := strings.CutPrefix(line, "file ")
	sum, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	numbers, rest, _ := strings.Cut(rest, " ")
	name, rest, ok = quoted(rest)
	p.sum, ok = sum, ok && is && rest == "" && len(sum) == 2*sha256.Size
	if numbers == "-" {
		return name, p, ok
	}
	for n := range strings.SplitSeq(numbers, ",") {
		i, err := strconv.Atoi(n)
		ok = ok && err == nil && (len(p.hidden) == 0 || i > p.hidden[len(p.hidden)-1])
		p.hidden = append(p.hidden, i)
	}
	return name, p, ok
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
func (known *record) write(path string, r *root, first []job) error {
	if len(known.keys) > maxKeys {
		known = &record{}
	}
	b := make([]byte, 0, 256+17*len(known.keys)+128*len(known.files))
	b = append(append(append(b, recordHead+"dir "...), quotedDir(r)...), "\nkeys"...)
	for _, k := range known.keys {
		b = fmt.Appendf(b, " %016x", k)
	}
	b = append(b, '\n')
	n := 0
	put := func(name string, p proof) {
		line := append(append(append(b, "file "...), p.sum...), ' ')
		for i, h := range p.hidden {
			if i > 0 {
				line = append(line, ',')
			}
			line = strconv.AppendInt(line, int64(h), 10)
		}
		if p.hidden == nil {
			line = append(line, '-')
		}
		line = append(appendQuoted(append(line, ' '), name), '\n')
		if len(line) <= maxRecord-1024 {
			b = line
			n++
		}
	}
	done := make(map[string]bool, len(first))
	for i := range first {
		name := first[i].path
		if p, ok := known.files[name]; ok && !done[name] {
			done[name] = true
			put(name, p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known.files)) {
		if !done[name] {
			put(name, known.files[name])
		}
	}
	return writeState(path, fmt.Appendf(b, "end %d\n", n))
}

// remember writes the record of the files as they will be. It becomes the
// record when they have their places. Known is what was known of the files as
// they are. Of one that does not change only that stays public which was. When
// other keys are secret than were, nothing is known of other files.
func (s *state) remember(r *root, jobs []job, known *record) error {
	now := record{keysOf(jobs, known.keys), map[string]proof{}}
	if known.covers(now.keys) {
		now.files = maps.Clone(known.files)
	}
	for i := range jobs {
		j := &jobs[i]
		if j.shown == nil && j.action == Unchanged {
			continue
		}
		delete(now.files, j.path)
		if j.shown == nil || len(j.body) == 0 {
			continue
		}
		p := j.shown.prove(string(j.body))
		if j.action == Unchanged {
			p = p.and(known.files[j.path])
		}
		if p.sum != "" {
			now.files[j.path] = p
		}
	}
	return now.write(s.path(recordNew), r, jobs)
}

// outgrown says that another key is secret than when a record was made, so that
// the record says nothing any more.
func outgrown(dir string, r *root, jobs []job) bool {
	for _, name := range []string{recordName, keptRecord} {
		path := filepath.Join(dir, name)
		if !exists(path) {
			continue
		}
		if known := readRecord(path, r); !known.covers(keysOf(jobs, known.keys)) {
			return true
		}
	}
	return false
}

// renew makes the records those of the files as they are, where they are
// outgrown.
func (s *state) renew(r *root, jobs []job) {
	s.renewKept(r, jobs)
	known := readRecord(s.path(recordName), r)
	if s.temporary || known.covers(keysOf(jobs, known.keys)) {
		return
	}
	if err := s.remember(r, jobs, known); err != nil {
		s.forgotten(err)
		return
	}
	s.recordInPlace()
}

// renewKept removes the record of what is kept, if it is outgrown: nothing tells
// what of that is secret now.
func (s *state) renewKept(r *root, jobs []job) {
	if !exists(s.path(keptRecord)) {
		return // and the metadata need not be looked through
	}
	known := readRecord(s.path(keptRecord), r)
	if !known.covers(keysOf(jobs, known.keys)) {
		if err := s.remove(keptRecord); err != nil {
			s.forgotten(err)
		}
	}
}

// recordInPlace gives the new record its place. What is no file is none.
func (s *state) recordInPlace() {
	var st unix.Stat_t
	if unix.Lstat(s.path(recordNew), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	if err := ignore(os.Rename(s.path(recordNew), s.path(recordName)), unix.ENOENT); err != nil {
		_ = s.remove(recordNew)
		s.forgotten(err)
	}
}

// forgotten tells, once, that a record could not be written, which is no reason
// to leave a machine without its configuration: the old one says nothing of the
// new files.
func (s *state) forgotten(err error) {
	if !s.told {
		tellForgotten(s.warn, err)
	}
	s.told = true
}

func tellForgotten(warn func(error), err error) {
	if warn != nil {
		warn(fmt.Errorf("what is public of the files is not remembered, so that --diff hides it: %w", err))
	}
}
