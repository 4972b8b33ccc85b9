package command

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// shells are those that a completion script can be had for.
var shells = []string{"bash", "zsh", "fish"}

// complete prints a completion script: commands first, then the flags of the
// chosen command, and what its words and the value of a flag may be; file names
// otherwise. For "man" it is the manual page: a package makes both when it is
// built. That is in no help, since the page says nothing that --help does not.
func (p *Program) complete(w io.Writer, shell string) error {
	var b strings.Builder
	switch shell {
	case "bash":
		p.completeBash(&b)
	case "zsh":
		// zsh reads bash completions through its own emulation.
		fmt.Fprintf(&b, "#compdef %s\nautoload -U +X bashcompinit && bashcompinit\n", p.Name)
		p.completeBash(&b)
	case "fish":
		p.completeFish(&b)
	case "man":
		p.man(&b)
	default:
		return Usage(fmt.Sprintf("no completion for shell %q", shell), "bash, zsh or fish")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Program) completeBash(b *strings.Builder) {
	fn := "_" + strings.ReplaceAll(p.Name, "-", "_")
	fmt.Fprintf(b, "%s() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words=''\n", fn)
	var first []string
	if p.Root != nil {
		first = slices.Concat(flagNames(p.Root.flagSet()), p.Root.Words)
		fmt.Fprintf(b, "  %s\n", p.Root.bashWords())
	}
	fmt.Fprint(b, "  case ${COMP_WORDS[1]} in\n")
	for _, c := range p.Commands {
		first = append(first, c.Name)
		fmt.Fprintf(b, "  %s) %s ;;\n", c.Name, c.bashWords())
	}
	if p.Root == nil {
		first = append(first, "help")
	}
	first = append(first, "completion")
	fmt.Fprintf(b, "  completion) words='%s' ;;\n", strings.Join(shells, " "))
	fmt.Fprintf(b, "  esac\n  if [ \"$COMP_CWORD\" -eq 1 ]; then words='%s'; fi\n", strings.Join(first, " "))
	fmt.Fprint(b, "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n")
	fmt.Fprintf(b, "}\ncomplete -o default -F %s %s\n", fn, p.Name)
}

// bashWords sets words for a command.
func (c *Command) bashWords() string {
	set := "words='" + strings.Join(slices.Concat(flagNames(c.flagSet()), c.Words), " ") + "'"
	if len(c.Values) == 0 {
		return set
	}
	set += "; case ${COMP_WORDS[COMP_CWORD-1]} in"
	for _, name := range slices.Sorted(maps.Keys(c.Values)) {
		set += " " + dashes(name) + ") words='" + strings.Join(c.Values[name], " ") + "' ;;"
	}
	return set + " esac"
}

func (p *Program) completeFish(b *strings.Builder) {
	const first = "-n __fish_use_subcommand "
	if p.Root != nil {
		cond := ""
		if len(p.Commands) > 0 {
			cond = first
		}
		p.fishWords(b, p.Root, cond)
	}
	completion := &Command{Name: "completion", Short: completionShort, Words: shells}
	for _, c := range slices.Concat(p.Commands, []*Command{completion}) {
		fmt.Fprintf(b, "complete -c %s %s-a %s -d '%s'\n", p.Name, first, c.Name, strings.ReplaceAll(c.Short, "'", ""))
		p.fishWords(b, c, "-n '__fish_seen_subcommand_from "+c.Name+"' ")
	}
}

// fishWords completes a command's flags and words where a condition holds.
func (p *Program) fishWords(b *strings.Builder, c *Command, cond string) {
	for _, f := range flagNames(c.flagSet()) {
		opt, name := "-l", strings.TrimLeft(f, "-")
		if !strings.HasPrefix(f, "--") {
			opt = "-s"
		}
		fmt.Fprintf(b, "complete -c %s %s%s %s", p.Name, cond, opt, name)
		if values := c.Values[name]; values != nil {
			fmt.Fprintf(b, " -x -a '%s'", strings.Join(values, " "))
		}
		fmt.Fprintln(b)
	}
	if c.Words != nil {
		fmt.Fprintf(b, "complete -c %s %s-a '%s'\n", p.Name, cond, strings.Join(c.Words, " "))
	}
}
