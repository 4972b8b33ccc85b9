package command

import (
	"flag"
	"fmt"
	"strings"
)

// man writes the program's manual page, in man(7)'s macros: what the help of
// all its commands says.
func (p *Program) man(b *strings.Builder) {
	m := &manual{b}
	short, long := p.Short, p.Long
	if p.Root != nil {
		short, long = p.Root.Short, p.Root.Long
	}
	m.macro("TH", strings.ToUpper(p.Name), "1", "", "goldsmith", "goldsmith")
	m.macro("SH", "NAME")
	m.line(p.Name + " - " + short)
	m.macro("SH", "SYNOPSIS")
	if p.Root != nil {
		m.synopsis(p, p.Root)
	}
	for _, c := range p.Commands {
		m.synopsis(p, c)
	}
	m.macro("SH", "DESCRIPTION")
	m.text(long)
	if p.Root != nil {
		m.flags(p.Root, "SH", "OPTIONS")
		m.example(p.Root, "SH", "EXAMPLES")
	}
	if len(p.Commands) > 0 {
		m.macro("SH", "COMMANDS")
	}
	for _, c := range p.Commands {
		m.macro("SS", p.path(c))
		m.line(strings.ToUpper(c.Short[:1]) + c.Short[1:] + ".")
		m.macro("PP")
		m.text(c.Long)
		m.flags(c, "PP", "")
		m.example(c, "PP", "")
	}
	m.macro("SH", "EXIT STATUS")
	m.line(statusText + ".")
}

// manual is a page being written.
type manual struct{ b *strings.Builder }

// macro writes a request with its arguments.
func (m *manual) macro(name string, args ...string) {
	m.b.WriteString("." + name)
	for _, a := range args {
		m.b.WriteString(` "` + strings.ReplaceAll(escape(a), `"`, `\(dq`) + `"`)
	}
	m.b.WriteByte('\n')
}

// line writes a line of text.
func (m *manual) line(text string) {
	text = escape(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	m.b.WriteString(text + "\n")
}

// escape is text as roff takes it: what is typed stays what it is.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`).Replace(text)
}

// text writes paragraphs; lines that are indented stay lines.
func (m *manual) text(text string) {
	literal := false
	for l := range strings.Lines(strings.TrimSpace(text)) {
		l = strings.TrimRight(l, "\n ")
		if indented := strings.HasPrefix(l, " ") || strings.HasPrefix(l, "\t"); indented != literal && l != "" {
			literal = indented
			m.macro(map[bool]string{true: "nf", false: "fi"}[literal])
		}
		if l == "" && !literal {
			m.macro("PP")
			continue
		}
		m.line(l)
	}
	if literal {
		m.macro("fi")
	}
}

func (m *manual) synopsis(p *Program, c *Command) {
	m.b.WriteString(`\fB` + escape(p.path(c)) + `\fR`)
	if len(flagNames(c.flagSet())) > 0 {
		m.b.WriteString(" [flags]")
	}
	m.b.WriteString(strings.TrimRight(" "+escape(c.Args), " ") + "\n")
	m.macro("br")
}

// flags lists a command's flags, under a heading where it has one of its own.
func (m *manual) flags(c *Command, macro, heading string) {
	fs := c.flagSet()
	if len(flagNames(fs)) == 0 {
		return
	}
	m.heading(macro, heading)
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flagUsage(f)
		m.macro("TP")
		fmt.Fprintf(m.b, "\\fB%s\\fR", escape(dashes(f.Name)))
		if value != "" {
			fmt.Fprintf(m.b, " \\fI%s\\fR", escape(value))
		}
		m.b.WriteByte('\n')
		m.line(usage)
	})
}

func (m *manual) heading(macro, heading string) {
	if heading == "" {
		m.macro(macro)
		return
	}
	m.macro(macro, heading)
}

// example shows a command's example.
func (m *manual) example(c *Command, macro, heading string) {
	if c.Example == "" {
		return
	}
	m.heading(macro, heading)
	m.macro("nf")
	m.macro("RS")
	for l := range strings.Lines(strings.TrimSpace(c.Example)) {
		m.line(strings.TrimRight(l, "\n"))
	}
	m.macro("RE")
	m.macro("fi")
}
