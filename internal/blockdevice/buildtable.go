package blockdevice

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

func (b *builder) partitioning(e *entry) error {
	t := &table{line: e.line, align: mib}
	var err error
	if t.disk, err = b.need(e, "base"); err != nil {
		return err
	}
	if e.partitions == nil {
		return b.bad(e.line, "partitioning: needs partitions")
	}
	switch label, err := b.need(e, "label"); {
	case err != nil:
		return err
	case label != "mbr" && label != "gpt":
		return b.bad(e.at("label"), "partitioning: label %q: want mbr or gpt", label)
	default:
		t.gpt = label == "gpt"
	}
	if e.get("align") != nil {
		if t.align, err = b.size(e, "align"); err != nil {
			return err
		}
		if t.align < 512 {
			return b.bad(e.at("align"), "partitioning: align is less than a sector")
		}
	}
	for _, p := range e.partitions {
		if err := b.partition(p, t); err != nil {
			return err
		}
	}
	b.tables = append(b.tables, t)
	return b.countPartitions(t)
}

// countPartitions checks what concerns a table as a whole.
func (b *builder) countPartitions(t *table) error {
	if t.gpt {
		if len(t.partitions) > gptMax {
			return b.bad(t.line, "partitioning: a gpt has room for %d partitions", gptMax)
		}
		return nil
	}
	primaries, logical := 0, false
	for _, p := range t.partitions {
		switch {
		case !p.primary:
			logical = true
		case logical:
			return b.bad(p.line, "partition %s: all primary partitions must be given first", p.name)
		default:
			primaries++
		}
	}
	if primaries > 4 || primaries == 4 && logical {
		return command.Hint(b.bad(t.line, "partitioning: an mbr has room for four primary partitions, "+
			"or three and logical ones"), "leave out the flag primary, or use label gpt")
	}
	return nil
}

func (b *builder) partition(e *entry, t *table) error {
	b.warnUnknown(e)
	p := &partition{table: t, line: e.line}
	from := []string{t.disk}
	if k := len(t.partitions); k > 0 {
		from = append(from, t.partitions[k-1].name)
	}
	n, err := b.add(e, p, from...)
	if err != nil {
		return err
	}
	p.name = n.name
	if e.get("size") == nil {
		return b.bad(e.line, "partition %s: needs a size", p.name)
	}
	size, err := b.sizeText(e, "size")
	if err != nil {
		return err
	}
	if p.size, err = parseShare(size); err != nil {
		return command.Hint(b.bad(e.at("size"), "partition %s: size: %s", p.name, err), sizeHint+
			", or a part of what is free such as 50%")
	}
	if err := b.flags(e, p); err != nil {
		return err
	}
	if err := b.partitionType(e, p); err != nil {
		return err
	}
	if t.gpt && gptName(p.name) != p.name {
		b.warn(p.line, "partition %s: the table takes %d characters of the name", p.name, gptNameMax)
	}
	t.partitions = append(t.partitions, p)
	return nil
}

func (b *builder) flags(e *entry, p *partition) error {
	flags, err := b.words(e, "flags")
	if err != nil {
		return err
	}
	for _, f := range flags {
		if f != "boot" && f != "primary" {
			return b.bad(e.at("flags"), "partition %s: flag %q: want boot or primary", p.name, f)
		}
	}
	p.boot, p.primary = slices.Contains(flags, "boot"), slices.Contains(flags, "primary")
	if p.primary && p.table.gpt {
		return b.bad(e.at("flags"), "partition %s: a gpt has no primary partitions", p.name)
	}
	return nil
}

// partitionType reads a type as it is written, quoted or not: a number in it
// is hexadecimal.
func (b *builder) partitionType(e *entry, p *partition) error {
	n := e.get("type")
	written := "83"
	if p.table.gpt {
		written = "8300"
	}
	switch {
	case n == nil:
	case n.Kind >= yaml11.List:
		return b.bad(n.Line, "partition %s: type: want text, not %s", p.name, n.Kind)
	default:
		written = n.Text
	}
	if !p.table.gpt {
		hex := strings.TrimPrefix(strings.ToLower(written), "0x")
		if v, err := strconv.ParseUint(hex, 16, 8); err != nil || v == 0 {
			return b.bad(n.Line, "partition %s: type %q: want a number from 0x01 to 0xff", p.name, written)
		}
		p.kind = hex
		return nil
	}
	guid, ok, err := gptType(written)
	if err != nil {
		return b.bad(n.Line, "partition %s: %s", p.name, err)
	}
	if !ok {
		b.warn(n.Line, "partition %s: type %q is not known and means a Linux file system", p.name, written)
	}
	p.kind = guid
	return nil
}

// gptName is as much of a name as a GPT takes.
func gptName(name string) string {
	for len(utf16.Encode([]rune(name))) > gptNameMax {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name
}
