package element

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare with the original over many more cases than the sample")

const (
	dibElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"
	dibLib      = "/usr/lib/python3/dist-packages/diskimage_builder/lib"
)

// resolverScript calls the original once for each case. An error is a word.
const resolverScript = `
import json, logging, sys
import diskimage_builder.element_dependencies as d
logging.disable(logging.CRITICAL)
kinds = {d.MissingElementException: "!missing", d.AlreadyProvidedException: "!provided", d.MissingOSException: "!os"}
results, read = [], {}
for path, wanted in json.load(sys.stdin):
    if path not in read: read[path] = d._find_all_elements(path)
    try:
        results.append(" ".join(sorted(e.name for e in d._expand_element_dependencies(wanted, read[path]))))
    except Exception as e:
        results.append(kinds.get(type(e), repr(e)))
json.dump(results, sys.stdout)
`

type resolveCase struct {
	path   string
	wanted []string
}

func (c resolveCase) MarshalJSON() ([]byte, error) { return json.Marshal([]any{c.path, c.wanted}) }

// originals runs the original over all cases with several seeds for the order
// of its sets: results by case, then seed.
func originals(t *testing.T, cases []resolveCase, seeds int) [][]string {
	t.Helper()
	testenv.NeedFile(t, dibElements)
	out := make([][]string, len(cases))
	for seed := range seeds {
		var results []string
		testenv.Python(t, resolverScript, cases, &results, []string{fmt.Sprintf("PYTHONHASHSEED=%d", seed+1)})
		for i, r := range results {
			out[i] = append(out[i], r)
		}
	}
	return out
}

// resolved is what ours makes of a case, in the original's words.
func resolved(c resolveCase) string {
	els, err := Path{c.path}.Resolve(c.wanted)
	if err == nil {
		return Names(els)
	}
	for part, word := range map[string]string{
		"not found": "!missing", "already provided by": "!provided", "no element provides": "!os", "provides its own name": "!itself", "not a valid name": "!missing",
	} {
		if strings.Contains(err.Error(), part) {
			return word
		}
	}
	return err.Error()
}

// tally counts outcomes of comparisons.
type tally struct {
	equal, itself, twice, reasons int
	differ                        []string
}

func compareResolved(t *testing.T, cases []resolveCase) tally {
	t.Helper()
	var n tally
	for i, want := range originals(t, cases, 6) {
		got := resolved(cases[i])
		distinct := slices.Compact(slices.Sorted(slices.Values(want)))
		switch {
		case len(distinct) > 1:
			n.itself++ // the original's answer depends on the seed
		case distinct[0] == got:
			n.equal++
		case distinct[0] == "!provided" && repeated(cases[i].wanted):
			n.twice++ // the original takes an element that is named twice for another provider
		case distinct[0][0] == '!' && got[0] == '!':
			n.reasons++ // both refuse, and name another one of several reasons
		default:
			n.differ = append(n.differ, fmt.Sprintf("%v: original %s; ours %s", cases[i].wanted, distinct[0], got))
		}
	}
	return n
}

func repeated(words []string) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(words)))) < len(words)
}

func (n tally) row(matter string) testenv.Row {
	return testenv.Row{Matter: matter, Equal: n.equal, Sample: !*exhaustive, Different: []testenv.Difference{
		{Cases: n.reasons, Why: "both refuse, for another of several reasons"},
		{Cases: n.twice, Why: "an element is named twice, which only the original refuses"},
		{Cases: n.itself, Why: "the original differs with itself by hash seed"},
	}}
}

func elementDirs(t *testing.T) (all, systems []string) {
	t.Helper()
	testenv.NeedFile(t, dibElements)
	for _, n := range (Path{dibElements}).Names() {
		if n == "__pycache__" {
			continue
		}
		all = append(all, n)
		e, err := Path{dibElements}.Find(n)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(e.Provides, OperatingSystem) {
			systems = append(systems, n)
		}
	}
	return all, systems
}

// Every element of diskimage-builder, every one with every operating system,
// and random sets, resolve to the same elements or the same kind of error.
func TestOracleResolve(t *testing.T) {
	all, systems := elementDirs(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var cases []resolveCase
	for _, e := range all {
		cases = append(cases, resolveCase{dibElements, []string{e}})
		for _, s := range systems {
			cases = append(cases, resolveCase{dibElements, []string{s, e}})
		}
	}
	triples := 400
	if *exhaustive {
		triples = 20000
	}
	for range triples {
		c := resolveCase{dibElements, []string{systems[rng.IntN(len(systems))]}}
		for range 2 + rng.IntN(3) {
			c.wanted = append(c.wanted, all[rng.IntN(len(all))])
		}
		rng.Shuffle(len(c.wanted), func(i, j int) { c.wanted[i], c.wanted[j] = c.wanted[j], c.wanted[i] })
		cases = append(cases, c)
	}
	n := compareResolved(t, cases)
	for _, d := range n.differ {
		t.Error(d)
	}
	testenv.Proof(t, n.row("resolution, all elements: single, with every operating system, random sets"))
}

// Made elements that provide for each other in all ways: where the original's
// answer does not depend on a seed, ours is the same, or leaves out what was
// pulled in only by a name that another element provides.
func TestOracleResolveMade(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	worlds := 150
	if *exhaustive {
		worlds = 5000
	}
	names := []string{"a", "b", "c", "d", "e", "v", "w"}
	some := func(n int) string {
		var out []string
		for range rng.IntN(n + 1) {
			out = append(out, names[rng.IntN(len(names))])
		}
		return strings.Join(out, " ")
	}
	top := t.TempDir()
	var cases []resolveCase
	for i := range worlds {
		els := map[string][2]string{"os": {some(1), "operating-system"}}
		for _, n := range names[:5] {
			provides := ""
			if rng.IntN(4) == 0 {
				if p := names[rng.IntN(len(names))]; p != n { // of its own name: TestErrors
					provides = p
				}
			}
			els[n] = [2]string{some(2), provides}
		}
		if rng.IntN(2) == 0 {
			els["v"] = [2]string{some(1), ""} // a directory of a name that may be provided
		}
		dir := fmt.Sprintf("%s/%d", top, i)
		write(t, dir, els)
		for range 4 {
			cases = append(cases, resolveCase{dir, append(strings.Fields(some(3)), "os")})
		}
	}
	n := compareResolved(t, cases)
	fewer, more := 0, 0
	for _, d := range n.differ {
		_, rest, _ := strings.Cut(d, ": original ")
		theirs, ours, _ := strings.Cut(rest, "; ours ")
		switch {
		case theirs[0] != '!' && ours[0] != '!' && subset(strings.Fields(ours), strings.Fields(theirs)):
			fewer++
		case theirs == "!missing" && ours[0] != '!':
			more++ // the name is provided by an element that the original sees too late
		default:
			t.Error(d)
		}
	}
	row := n.row("resolution, made elements")
	row.Different = append(row.Different,
		testenv.Difference{Cases: fewer, Why: "ours leaves out what only a provided name pulled in"},
		testenv.Difference{Cases: more, Why: "the original does not see the provider"})
	testenv.Proof(t, row)
}

func subset(of, in []string) bool {
	return !slices.ContainsFunc(of, func(w string) bool { return !slices.Contains(in, w) })
}
