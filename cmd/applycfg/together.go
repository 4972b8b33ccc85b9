package main

import (
	"flag"
	"fmt"
	"slices"

	"goldsmith/internal/command"
)

// deed is a flag that says what to do, and the flags that mean something
// beside it.
type deed struct {
	flag string // empty: files are written
	with []string
}

// writing are the flags of a run that writes files. What asks such a run for its
// templates adds --print-templates, as collectcfg does.
var writing = []string{"dry-run", "diff", "json", "strict", "subhash", "rollback-on-failure"}

// deeds are what the program can do, of which one may be asked for. Flags that
// are nowhere here say where something is, and go with every deed.
var deeds = []deed{
	{"print-templates", writing},
	{"key", []string{"type", "key-default"}},
	{"boolean-key", nil},
	{"rollback", []string{"dry-run", "diff", "json", "subhash"}},
	{"mark-good", nil},
	{"recover", nil},
	{"validate", []string{"strict", "subhash", "rollback-on-failure"}},
	{"", writing},
}

// refuse refuses flags that mean nothing together.
func refuse(given []string) error {
	chosen := deeds[len(deeds)-1]
	for _, d := range deeds {
		switch {
		case !slices.Contains(given, d.flag):
		case chosen.flag != "":
			return apart(chosen.flag, d.flag)
		default:
			chosen = d
		}
	}
	for _, name := range given {
		i := slices.IndexFunc(deeds, func(d deed) bool { return slices.Contains(d.with, name) })
		switch {
		case i < 0 || slices.Contains(chosen.with, name):
		case chosen.flag == "":
			return needs(name, deeds[i].flag)
		default:
			return apart(name, chosen.flag)
		}
	}
	if chosen.flag != "print-templates" && slices.Contains(given, "diff") && !slices.Contains(given, "dry-run") {
		return needs("diff", "dry-run")
	}
	return nil
}

// given are the flags of a command line by their long names, without those that
// are said to be false.
func given(fs *flag.FlagSet) []string {
	var names []string
	fs.Visit(func(f *flag.Flag) {
		name := f.Name
		fs.VisitAll(func(long *flag.Flag) {
			if f.Usage == "short for --"+long.Name {
				name = long.Name
			}
		})
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() && f.Value.String() == "false" {
			return
		}
		names = append(names, name)
	})
	return names
}

func apart(a, b string) error {
	return command.Usage(fmt.Sprintf("--%s does not go with --%s", a, b), "leave one of them out")
}

func needs(a, b string) error {
	return command.Usage(fmt.Sprintf("--%s is for --%s", a, b), "give that, too")
}
