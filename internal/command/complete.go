package command

import (
	"fmt"
	"io"
	"strings"
)

// complete prints a completion script: commands first, then the flags of the
// chosen command, file names otherwise.
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
		first = flagNames(p.Root.flagSet())
		fmt.Fprintf(b, "  words='%s'\n", strings.Join(first, " "))
	}
	if len(p.Commands) > 0 {
		fmt.Fprint(b, "  case ${COMP_WORDS[1]} in\n")
		for _, c := range p.Commands {
			first = append(first, c.Name)
			fmt.Fprintf(b, "  %s) words='%s' ;;\n", c.Name, strings.Join(flagNames(c.flagSet()), " "))
		}
		if p.Root == nil {
			first = append(first, "help")
		}
		first = append(first, "completion")
		fmt.Fprintf(b, "  esac\n  if [ \"$COMP_CWORD\" -eq 1 ]; then words='%s'; fi\n", strings.Join(first, " "))
	}
	fmt.Fprint(b, "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n")
	fmt.Fprintf(b, "}\ncomplete -o default -F %s %s\n", fn, p.Name)
}

func (p *Program) completeFish(b *strings.Builder) {
	flags := func(c *Command, cond string) {
		for _, f := range flagNames(c.flagSet()) {
			opt := "-l"
			if !strings.HasPrefix(f, "--") {
				opt = "-s"
			}
			fmt.Fprintf(b, "complete -c %s %s%s %s\n", p.Name, cond, opt, strings.TrimLeft(f, "-"))
		}
	}
	if p.Root != nil && len(p.Commands) > 0 {
		flags(p.Root, "-n __fish_use_subcommand ")
	} else if p.Root != nil {
		flags(p.Root, "")
	}
	for _, c := range p.Commands {
		fmt.Fprintf(b, "complete -c %s -n __fish_use_subcommand -a %s -d '%s'\n", p.Name, c.Name, strings.ReplaceAll(c.Short, "'", ""))
		flags(c, "-n '__fish_seen_subcommand_from "+c.Name+"' ")
	}
}
