package yaml11

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
)

// ReadJSONFirst reads a file that may hold JSON or YAML. It is tried as JSON
// first, whatever its name; in JSON 1e3 is a number. When it is neither, the
// error is about what the name promises.
func ReadJSONFirst(path string) (*Node, error) {
	b, err := content(path)
	if err != nil {
		return nil, err
	}
	return ParseJSONFirst(path, b)
}

// ParseJSONFirst is ReadJSONFirst for content that is already in memory.
func ParseJSONFirst(name string, content []byte) (*Node, error) {
	n, asJSON := parseJSON(name, content)
	if asJSON == nil {
		return n, nil
	}
	n, err := Parse(name, content)
	if err != nil && filepath.Ext(name) == ".json" {
		return nil, asJSON
	}
	return n, err
}

func parseJSON(name string, content []byte) (*Node, error) {
	if len(content) > maxSize {
		return nil, command.BadInput(fmt.Errorf("%s: larger than %d MiB", name, maxSize>>20), "")
	}
	p := &jsonParser{dec: json.NewDecoder(bytes.NewReader(content)), content: content}
	p.dec.UseNumber()
	n, err := p.value()
	if err == nil {
		end := p.line()
		if _, more := p.dec.Token(); !errors.Is(more, io.EOF) {
			err = at(end, "something follows the JSON value", "")
		}
	}
	if err == nil {
		return n, nil
	}
	line, msg := p.line(), err.Error()
	if f, ok := errors.AsType[*fault](err); ok {
		line, msg = f.line, f.msg
	}
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		line = 1 + bytes.Count(content[:min(int(s.Offset), len(content))], []byte("\n"))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		msg = "the JSON value is not complete"
	}
	return nil, command.BadInput(fmt.Errorf("%s:%d: %s", name, line, msg), "expected one JSON value")
}

type jsonParser struct {
	dec      *json.Decoder
	content  []byte
	counted  int // how far lines have been counted
	newlines int
	depth    int
}

// maxDepth bounds how deep JSON nests, as the YAML library bounds YAML.
const maxDepth = 1000

// line is where the last token ended.
func (p *jsonParser) line() int {
	if to := min(int(p.dec.InputOffset()), len(p.content)); to > p.counted {
		p.newlines += bytes.Count(p.content[p.counted:to], []byte("\n"))
		p.counted = to
	}
	return p.newlines + 1
}

func (p *jsonParser) value() (*Node, error) {
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	return p.from(tok)
}

func (p *jsonParser) from(tok json.Token) (*Node, error) {
	line := p.line()
	switch t := tok.(type) {
	case nil:
		return &Node{Kind: Null, Line: line, size: 1}, nil
	case bool:
		return &Node{Kind: Bool, Line: line, Text: fmt.Sprint(t), Bool: t, size: 1}, nil
	case string:
		return &Node{Kind: Text, Line: line, Text: t, size: 1}, nil
	case json.Number:
		return p.number(string(t), line)
	case json.Delim:
		if p.depth++; p.depth > maxDepth {
			return nil, at(line, fmt.Sprintf("nested more than %d deep", maxDepth), "")
		}
		defer func() { p.depth-- }()
		if t == '[' {
			return p.list(line)
		}
		return p.object(line)
	}
	return nil, at(line, fmt.Sprintf("unexpected %v", tok), "")
}

func (p *jsonParser) number(s string, line int) (*Node, error) {
	if !strings.ContainsAny(s, ".eE") {
		n, ok := new(big.Int), len(s) <= maxDigits
		if ok {
			n, ok = n.SetString(s, 10)
		}
		if !ok {
			return nil, at(line, "not a whole number", "")
		}
		return &Node{Kind: Int, Line: line, Text: s, Int: n, size: 1}, nil
	}
	f, ok := parseFloat(s)
	if !ok {
		return nil, at(line, "not a number", "")
	}
	return &Node{Kind: Float, Line: line, Text: s, Float: f, size: 1}, nil
}

func (p *jsonParser) list(line int) (*Node, error) {
	out := &Node{Kind: List, Line: line, size: 1}
	for p.dec.More() {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, v)
		out.size = sum(out.size, v.size)
	}
	_, err := p.dec.Token() // the closing bracket
	return out, err
}

func (p *jsonParser) object(line int) (*Node, error) {
	out := &Node{Kind: Mapping, Line: line, index: map[string]int{}, size: 1}
	for p.dec.More() {
		key, err := p.value() // the decoder lets only strings be keys
		if err != nil {
			return nil, err
		}
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		out.put(Pair{key, v})
	}
	_, err := p.dec.Token()
	return out, err
}
