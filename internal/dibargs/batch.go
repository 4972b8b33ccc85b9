package dibargs

import (
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

// Command is one build that a file of diskimage-builder asks for: a command
// line of disk-image-create or ramdisk-image-create.
type Command struct {
	Program     string // DiskImageCreate or RamdiskImageCreate
	Args        []string
	Environment []Variable // in the order of the file
}

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// String is the command as a shell would take it.
func (c Command) String() string {
	var words []string
	for _, v := range c.Environment {
		words = append(words, v.Name+"="+quote(v.Value))
	}
	words = append(words, c.Program)
	for _, a := range c.Args {
		words = append(words, quote(a))
	}
	return strings.Join(words, " ")
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote makes one word of s for a shell, as Python's shlex.quote does.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'"
}

// kind is what a property's value must be.
type kind int

const (
	text kind = iota
	number
	flag
	texts    // a list
	mapping  // of text
	switchOf // a flag that is no argument
)

// property is one key of an entry, and the argument that it becomes.
type property struct {
	key  string
	kind kind
	arg  string   // "" for none
	enum []string // of the value, or of a list's items; nil means any
}

// properties in the order in which they become arguments.
var properties = []property{
	{key: "imagename", arg: "-o"},
	{key: "arch", arg: "-a", enum: strings.Fields("aarch64 amd64 arm64 armhf powerpc ppc64 ppc64el ppc64le s390x x86_64")},
	{key: "types", kind: texts, arg: "-t", enum: strings.Fields("qcow2 tar tgz squashfs vhd docker aci raw")},
	{key: "environment", kind: mapping},
	{key: "ramdisk", kind: switchOf},
	{key: "debug-trace", kind: number, arg: "-x"},
	{key: "uncompressed", kind: flag, arg: "-u"},
	{key: "clear", kind: flag, arg: "-c"},
	{key: "logfile", arg: "--logfile"},
	{key: "checksum", kind: flag, arg: "--checksum"},
	{key: "image-size", kind: number, arg: "--image-size"},
	{key: "image-extra-size", kind: number, arg: "--image-extra-size"},
	{key: "image-cache", arg: "--image-cache"},
	{key: "max-online-resize", kind: number, arg: "--max-online-resize"},
	{key: "min-tmpfs", kind: number, arg: "--min-tmpfs"},
	{key: "mkfs-journal-size", kind: number, arg: "--mkfs-journal-size"},
	{key: "mkfs-options", arg: "--mkfs-options"},
	{key: "no-tmpfs", kind: flag, arg: "--no-tmpfs"},
	{key: "offline", kind: flag, arg: "--offline"},
	{key: "qemu-img-options", kind: mapping, arg: "--qemu-img-options"},
	{key: "root-label", arg: "--root-label"},
	{key: "ramdisk-element", arg: "--ramdisk-element"},
	{key: "install-type", arg: "--install-type", enum: []string{"source", "package"}},
	{key: "docker-target", arg: "--docker-target"},
	{key: "packages", kind: texts, arg: "-p"},
	{key: "skip-base", kind: flag, arg: "-n"},
	{key: "elements", kind: texts},
}

// batchFile is one file of definitions.
type batchFile struct{ name string }

func (f batchFile) bad(n *yaml11.Node, format string, args ...any) error {
	return command.BadInput(fmt.Errorf("%s:%d: %s", f.name, n.Line, fmt.Sprintf(format, args...)),
		"a definition is a list of images; 'diskimage-builder --help' lists their keys")
}

// value is what an entry says of one property.
type value struct {
	text  string
	on    bool
	list  []string
	pairs []Variable
}

// entry is one image: its values by key.
type entry map[string]*value

// Batch reads diskimage-builder's files, which together make one list.
// Entries of the same image name, or without one, add up: lists grow, mappings
// are updated, other values replaced. Errors are bad input that names file and
// line.
func Batch(files []string) ([]Command, error) {
	var order []string
	images := map[string]entry{}
	name := "image"
	for _, path := range files {
		root, err := yaml11.Read(path)
		if err != nil {
			return nil, err
		}
		f := batchFile{path}
		if root.Kind != yaml11.List {
			return nil, f.bad(root, "expected a list of images, not %s", root.Kind)
		}
		for _, n := range root.Items {
			e, err := f.entry(n)
			if err != nil {
				return nil, err
			}
			if e["imagename"] != nil {
				name = e["imagename"].text
			}
			if images[name] == nil {
				order = append(order, name)
				images[name] = entry{}
			}
			images[name].merge(e)
		}
	}
	var out []Command
	for _, name := range order {
		out = append(out, images[name].command())
	}
	return out, nil
}

func (f batchFile) entry(n *yaml11.Node) (entry, error) {
	if n.Kind != yaml11.Mapping {
		return nil, f.bad(n, "expected an image, a mapping, not %s", n.Kind)
	}
	e := entry{}
	for _, kv := range n.Pairs {
		i := slices.IndexFunc(properties, func(p property) bool { return kv.Key.Kind == yaml11.Text && p.key == kv.Key.Text })
		if i < 0 {
			return nil, f.bad(kv.Key, "key %q is not known", kv.Key)
		}
		v, err := f.value(properties[i], kv.Value)
		if err != nil {
			return nil, err
		}
		e[properties[i].key] = v
	}
	return e, nil
}

func (f batchFile) value(p property, n *yaml11.Node) (*value, error) {
	v := &value{}
	wrong := func(want string) error { return f.bad(n, "%s: expected %s, not %s", p.key, want, n.Kind) }
	switch p.kind {
	case text:
		if n.Kind != yaml11.Text {
			return nil, wrong("text")
		}
		v.text = n.Text
		return v, f.allowed(p, n)
	case number:
		if n.Kind != yaml11.Int {
			return nil, wrong("a whole number")
		}
		least, most := big.NewInt(1), (*big.Int)(nil)
		if p.key == "debug-trace" {
			least, most = big.NewInt(0), big.NewInt(2)
		}
		if n.Int.Cmp(least) < 0 || most != nil && n.Int.Cmp(most) > 0 {
			return nil, f.bad(n, "%s: %s is out of range", p.key, n.Int)
		}
		v.text = n.Int.String()
	case flag, switchOf:
		if n.Kind != yaml11.Bool {
			return nil, wrong("true or false")
		}
		v.on = n.Bool
	case texts:
		if n.Kind != yaml11.List {
			return nil, wrong("a list")
		}
		for _, i := range n.Items {
			if i.Kind != yaml11.Text {
				return nil, f.bad(i, "%s: expected text, not %s", p.key, i.Kind)
			}
			if err := f.allowed(p, i); err != nil {
				return nil, err
			}
			v.list = append(v.list, i.Text)
		}
	case mapping:
		if n.Kind != yaml11.Mapping {
			return nil, wrong("a mapping")
		}
		for _, kv := range n.Pairs {
			if kv.Key.Kind != yaml11.Text || kv.Value.Kind != yaml11.Text {
				return nil, f.bad(kv.Value, "%s: %s must be text; quote it", p.key, kv.Key)
			}
			v.pairs = append(v.pairs, Variable{kv.Key.Text, kv.Value.Text})
		}
	}
	return v, nil
}

func (f batchFile) allowed(p property, n *yaml11.Node) error {
	if p.enum != nil && !slices.Contains(p.enum, n.Text) {
		return f.bad(n, "%s: %q is none of %s", p.key, n.Text, strings.Join(p.enum, ", "))
	}
	return nil
}

// merge adds what another entry of the same image says.
func (e entry) merge(more entry) {
	for k, v := range maps.Clone(more) {
		old := e[k]
		if old == nil {
			e[k] = v
			continue
		}
		old.list = append(old.list, v.list...)
		old.text, old.on = v.text, v.on
		for _, pair := range v.pairs {
			i := slices.IndexFunc(old.pairs, func(o Variable) bool { return o.Name == pair.Name })
			if i < 0 {
				old.pairs = append(old.pairs, pair)
			} else {
				old.pairs[i] = pair
			}
		}
	}
}

// command makes the command line.
func (e entry) command() Command {
	c := Command{Program: DiskImageCreate}
	for _, p := range properties {
		v := e[p.key]
		switch {
		case v == nil:
		case p.key == "environment":
			c.Environment = v.pairs
		case p.key == "ramdisk" && v.on:
			c.Program = RamdiskImageCreate
		case p.key == "debug-trace":
			times, _ := strconv.Atoi(v.text) // 0, 1 or 2: it was checked
			c.Args = append(c.Args, slices.Repeat([]string{p.arg}, times)...)
		case p.key == "elements":
			c.Args = append(c.Args, v.list...)
		case p.kind == flag && v.on:
			c.Args = append(c.Args, p.arg)
		case p.kind == texts && len(v.list) > 0:
			c.Args = append(c.Args, p.arg, strings.Join(v.list, ","))
		case p.kind == mapping && len(v.pairs) > 0:
			var words []string
			for _, pair := range v.pairs {
				words = append(words, pair.Name+"="+pair.Value)
			}
			c.Args = append(c.Args, p.arg, strings.Join(words, ","))
		case (p.kind == text || p.kind == number) && v.text != "":
			c.Args = append(c.Args, p.arg, v.text)
		}
	}
	return c
}

// BatchUsage is the help of diskimage-builder.
func BatchUsage() string {
	var b strings.Builder
	b.WriteString(`Usage: diskimage-builder [--dry-run] [--stop-on-failure] FILE.yaml...

Builds the images that YAML files describe: each is a list of mappings. Entries
of the same imagename, or without one, add up. This is imgbuild, which takes the
files of diskimage-builder.

  --dry-run          print the commands and build nothing
  --stop-on-failure  end with the first build that fails
  -h, --help         print this help

Keys of an image:
`)
	what := map[kind]string{
		text: "text", number: "a whole number", flag: "true or false", switchOf: "true or false",
		texts: "a list of text", mapping: "a mapping of text",
	}
	for _, p := range properties {
		words := what[p.kind]
		if p.enum != nil {
			words += ": " + strings.Join(p.enum, ", ")
		}
		fmt.Fprintf(&b, "  %-18s %s\n", p.key, words)
	}
	b.WriteString("\nExample:\n  diskimage-builder --dry-run images.yaml\n")
	return b.String()
}
