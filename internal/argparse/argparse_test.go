package argparse

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

// parsePython reads command lines with argparse itself.
const parsePython = `
import argparse, contextlib, io, json, sys
def one(words):
    p = argparse.ArgumentParser(prog="p", add_help=False)
    got = []
    class Note(argparse.Action):
        def __call__(self, parser, namespace, values, name=None):
            got.append(self.dest + " " + (values if isinstance(values, str) else "|".join(values)))
    p.add_argument("-a", "--alpha", action=Note, nargs=0)
    p.add_argument("-b", "--beta", action=Note, nargs=0)
    p.add_argument("-o", "--output", action=Note)
    p.add_argument("--other", action=Note)
    p.add_argument("-m", "--many", action=Note, nargs="*")
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err):
            p.parse_args(words)
    except SystemExit:
        return {"got": [], "err": err.getvalue().split(": error: ", 1)[1].removesuffix("\n")}
    return {"got": got, "err": ""}
print(json.dumps([one(w) for w in json.load(sys.stdin)]))
`

type outcome struct {
	Got []string `json:"got"`
	Err string   `json:"err"`
}

func parse(words []string) outcome {
	o := outcome{Got: []string{}}
	note := func(name string) func([]string) error {
		return func(v []string) error {
			o.Got = append(o.Got, name+" "+strings.Join(v, "|"))
			return nil
		}
	}
	err := Parse([]Option{
		{[]string{"-a", "--alpha"}, 0, note("alpha")}, {[]string{"-b", "--beta"}, 0, note("beta")},
		{[]string{"-o", "--output"}, 1, note("output")}, {[]string{"--other"}, 1, note("other")}, {[]string{"-m", "--many"}, Many, note("many")},
	}, words)
	if err != nil {
		return outcome{[]string{}, err.Error()}
	}
	return o
}

func TestParse(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	from := []string{"-a", "-b", "-ab", "-abo", "-ox", "-o", "--o", "--ou", "--output=", "--output=x=y", "--alp", "--alpha=1", "-a=1", "--other", "--ot",
		"x", "y z", "-", "--", "-1", "-x y", "--none", "-m", "--many=1", "--m", "-z", "-oa", "-mab", "", "-b1", "-a'x", "--beta='\"", `-b\`}
	var cases [][]string
	for range 2000 {
		var words []string
		for range rng.IntN(5) {
			words = append(words, from[rng.IntN(len(from))])
		}
		cases = append(cases, append([]string{}, words...))
	}
	var want []outcome
	testenv.Python(t, parsePython, cases, &want, nil)
	wrong := 0
	for i, words := range cases {
		got := parse(words)
		if d := cmp.Diff(want[i], got); d != "" && wrong < 5 {
			wrong++
			t.Errorf("%q (-argparse +ours):\n%s", words, d)
		}
	}
}

func TestUsage(t *testing.T) {
	got := Usage("prog", []string{"[-h]", fmt.Sprintf("[--one %s]", strings.Repeat("A", 40)), "[--two THE_OTHER_VALUE]"})
	want := "usage: prog [-h] [--one " + strings.Repeat("A", 40) + "]\n            [--two THE_OTHER_VALUE]\n"
	if got != want {
		t.Errorf("Usage = %q; want %q", got, want)
	}
}
