// Package yaml11 reads YAML the way Python's PyYAML does, by the scalar rules
// of YAML 1.1: 0755 is the number 493, yes is true, 1:30 is 90, and 1e3, 8E00
// or 08 are text. Files written for diskimage-builder rely on it.
//
// [Parse] returns a tree of [Node] values that keep their line and source
// text, so that whoever reads a file can say where it is wrong. Anchors,
// aliases and merge keys are resolved; of equal keys the last one counts. The
// tree may share nodes where the file has aliases, and is not to be changed.
//
// It refuses what cannot be meant: more than one document, a list or mapping
// as a key, an alias inside its own anchor, files that aliases blow up, and
// tags of programming languages.
package yaml11

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"sort"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/command"
)

// Kind is what a node is.
type Kind int

// The kinds of nodes. Date is a date or a time with one; what it means is in
// its Text.
const (
	Null Kind = iota
	Bool
	Int
	Float
	Text
	Date
	Binary
	List
	Mapping
)

// String is the kind in words for messages.
func (k Kind) String() string {
	return [...]string{"nothing", "true or false", "a whole number", "a number", "text", "a date", "binary data", "a list", "a mapping"}[k]
}

// Node is one value of a file.
type Node struct {
	Kind Kind
	Line int // counted from 1
	// Text is a scalar as the file has it, quotes and escapes removed; of
	// Binary, the decoded bytes.
	Text  string
	Bool  bool
	Int   *big.Int // of Int, never nil then
	Float float64
	Items []*Node // of List
	Pairs []Pair  // of Mapping, each key once, in the order of the file

	index map[string]int // key's identity → position in Pairs
	size  int            // how many values it stands for, aliases expanded
}

// Pair is one entry of a mapping. Keys are scalars.
type Pair struct{ Key, Value *Node }

// Get returns the value at a text key, or nil. It may be called on nil and on
// any kind of node.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	if i, ok := n.index[(&Node{Kind: Text, Text: key}).identity()]; ok {
		return n.Pairs[i].Value
	}
	return nil
}

// Limits of a file that a person wrote.
const (
	maxSize   = 4 << 20 // bytes
	maxValues = 1 << 20 // values with every alias expanded
)

// Read parses the file at path. See [Parse].
func Read(path string) (*Node, error) {
	b, err := content(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, b)
}

func content(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxSize {
		return nil, command.BadInput(fmt.Errorf("%s: not a YAML file", path), "expected a text file of at most 4 MiB")
	}
	return os.ReadFile(path)
}

// Parse reads one document. An empty one is a Null node. Errors are bad input
// errors that begin with "name:line: ".
func Parse(name string, content []byte) (*Node, error) {
	if len(content) > maxSize {
		return nil, command.BadInput(fmt.Errorf("%s: larger than %d MiB", name, maxSize>>20), "")
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		if second := dec.Decode(&more); second == nil {
			err = at(more.Line, "a second document begins", "keep the first one only")
		} else if !errors.Is(second, io.EOF) {
			err = second
		}
	}
	if errors.Is(err, io.EOF) {
		return &Node{Kind: Null, Line: 1, size: 1}, nil
	}
	var root *Node
	if err == nil {
		root, err = newConverter().node(doc.Content[0])
	}
	if err != nil {
		return nil, located(name, content, err)
	}
	return root, nil
}

// fault is an error in a file whose name is not known yet.
type fault struct {
	line      int
	msg, hint string
}

func (f *fault) Error() string { return fmt.Sprintf("line %d: %s", f.line, f.msg) }

func at(line int, msg, hint string) error { return &fault{line, msg, hint} }

var libraryError = compileLater(`^yaml: (?:line (\d+): )?(.*)`)

// LibraryError is the line, from 1, and the message of an error that
// gopkg.in/yaml.v3 has about content. The line is 0 where the library does not
// say it and it cannot be found.
func LibraryError(err error, content []byte) (line int, msg string) {
	m := libraryError().FindStringSubmatch(err.Error())
	if m == nil {
		return 0, err.Error()
	}
	if a := unknownAnchor().FindStringSubmatch(m[2]); a != nil {
		return aliasLine(a[1], m[2], content), m[2]
	}
	return libraryLine(m[1], m[2], content), m[2]
}

var unknownAnchor = compileLater(`^unknown anchor '(.+)' referenced$`)

// aliasLine is the line of the alias that has no anchor: the first one with
// which the content up to it has the same error.
func aliasLine(anchor, msg string, content []byte) int {
	var ends, lines []int // of the lines that may hold it
	end := 0
	for i, line := range bytes.SplitAfter(content, []byte("\n")) {
		end += len(line)
		if bytes.Contains(line, []byte("*"+anchor)) {
			ends, lines = append(ends, end), append(lines, i+1)
		}
	}
	i := sort.Search(len(ends), func(i int) bool {
		err := yaml.Unmarshal(content[:ends[i]], new(yaml.Node))
		return err != nil && strings.Contains(err.Error(), msg)
	})
	if i == len(lines) {
		return 0
	}
	return lines[i]
}

// libraryLine is the line, from 1, of an error of the library's. Its parser
// counts from 0, unlike its scanner, and leaves a 0 out; the end of the file
// counts as its last line.
func libraryLine(number, msg string, content []byte) int {
	line, _ := strconv.Atoi(number)
	if strings.HasPrefix(msg, "did not find expected") {
		line++
	} else if line == 0 && strings.HasPrefix(msg, "found ") {
		line = 1
	}
	return min(line, 1+bytes.Count(bytes.TrimRight(content, "\n"), []byte("\n")))
}

// located names the file in an error, and the line in the library's errors.
func located(name string, content []byte, err error) error {
	if f, ok := errors.AsType[*fault](err); ok {
		return command.BadInput(fmt.Errorf("%s:%d: %s", name, f.line, f.msg), f.hint)
	}
	where := name
	line, msg := LibraryError(err, content)
	if line > 0 {
		where += fmt.Sprintf(":%d", line)
	}
	return command.BadInput(fmt.Errorf("%s: %s", where, msg), "this is not valid YAML; quote text that holds special characters")
}
