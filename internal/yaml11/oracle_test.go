package yaml11

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

// oracle is PyYAML: a list of documents in, of canonical values or "error" out.
const oracle = `
import datetime, json, sys, yaml
def canon(v):
    if v is None: return "null"
    if isinstance(v, bool): return "bool:" + str(v).lower()
    if isinstance(v, int): return "int:%d" % v
    if isinstance(v, float): return "float:" + str(v)
    if isinstance(v, str): return "str:" + v
    if isinstance(v, bytes): return "bin:" + v.hex()
    if isinstance(v, (datetime.date, datetime.datetime)): return "date"
    if isinstance(v, list): return ["list"] + [canon(i) for i in v]
    return ["map"] + [[canon(k), canon(w)] for k, w in v.items()]
out = []
for d in json.load(sys.stdin):
    try: out.append(canon(yaml.safe_load(d)))
    except Exception as e: out.append("error")
json.dump(out, sys.stdout)
`

func pyYAML(t *testing.T, docs []string) []any {
	t.Helper()
	testenv.NeedFile(t, "/usr/lib/python3/dist-packages/yaml")
	var out []any
	testenv.Python(t, oracle, docs, &out, nil)
	return out
}

// onPurpose is where ours reads what the original refuses.
var onPurpose = map[string]bool{"k: =": true, "k: <<": true}

func compare(t *testing.T, matter string, docs []string) {
	t.Helper()
	equal, refused, differ := 0, 0, 0
	for i, want := range pyYAML(t, docs) {
		var got any = "error"
		n, err := Parse("f", []byte(docs[i]))
		if err == nil {
			b, err := json.Marshal(canon(n))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case fmt.Sprint(got) == fmt.Sprint(want) && want == "error":
			refused++
		case fmt.Sprint(got) == fmt.Sprint(want):
			equal++
		case onPurpose[docs[i]]:
			differ++
		default:
			t.Errorf("%q:\n   ours %v (%v)\nPyYAML %v", docs[i], got, err, want)
		}
	}
	testenv.Proof(t, testenv.Row{Matter: matter, Equal: equal, Refused: refused, Different: []testenv.Difference{
		{Cases: differ, Why: "plain = and << as values are text; PyYAML refuses them"},
	}})
}

func TestOracleTables(t *testing.T) {
	var docs []string
	for _, c := range scalars {
		docs = append(docs, "k: "+c.in)
	}
	for _, d := range documents {
		docs = append(docs, d.in)
	}
	docs = append(docs, "k: 2020-13-01", "k: 2020-02-30", "k: 2020-01-01 25:00:00", "k: 0000-01-01", "k: 0b_", "k: 0x_", "k: 0_", "[1]: 2", "<<: 1", "k: !!int x")
	compare(t, "YAML 1.1, cases by hand", docs)
}

// Scalars made of the characters that decide.
func TestOracleScalars(t *testing.T) {
	piece := rapid.OneOf(
		rapid.SampledFrom(strings.Split("0 1 2 6 7 8 9 00 10 59 60 _ . : + - e E 0x 0b 0o f G % ~ 12 2020 -01 -1 T Z e+ E-", " ")),
		rapid.SampledFrom([]string{"yes", "No", "on", "true", "null", ".inf", ".nan", "inf", "y", "=", "<<", "x"}),
	)
	scalar := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(piece, 1, 5).Draw(t, "pieces"), "")
	})
	var docs []string
	for seed := range 6000 {
		s := scalar.Example(seed)
		if s == "-" || strings.HasSuffix(s, ":") || strings.HasPrefix(s, "%") {
			continue // not a plain scalar
		}
		docs = append(docs, "k: "+s)
	}
	compare(t, "YAML 1.1, generated scalars", docs)
}

// Structures with anchors, aliases, merges and equal keys.
func TestOracleDocuments(t *testing.T) {
	key := rapid.SampledFrom([]string{"a", "b", "c", "1", "yes", "1.0", "true", "'1'", "0x1", "~", "2020-01-01"})
	leaf := rapid.SampledFrom([]string{"0755", "x", "'q'", "no", "1e3", "08", "[]", "{}", "~", "1:30", `"\x41"`})
	doc := rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		var anchors []string // of mappings
		for i := range rapid.IntRange(1, 5).Draw(t, "entries") {
			name := fmt.Sprintf("m%d", i)
			fmt.Fprintf(&b, "%s: &%s\n", name, name)
			for range rapid.IntRange(1, 5).Draw(t, "pairs") {
				k := key.Draw(t, "key")
				if len(anchors) == 0 {
					fmt.Fprintf(&b, "  %s: %s\n", k, leaf.Draw(t, "leaf"))
					continue
				}
				to := "*" + rapid.SampledFrom(anchors).Draw(t, "to")
				switch rapid.IntRange(0, 5).Draw(t, "form") {
				case 0:
					fmt.Fprintf(&b, "  %s: %s\n", k, to)
				case 1:
					fmt.Fprintf(&b, "  <<: %s\n", to)
				case 2:
					fmt.Fprintf(&b, "  <<: [%s, *%s, {%s: 9}]\n", to, anchors[0], k)
				case 3:
					fmt.Fprintf(&b, "  %s:\n  - %s\n  - {%s: %s}\n", k, to, k, leaf.Draw(t, "leaf"))
				default:
					fmt.Fprintf(&b, "  %s: %s\n", k, leaf.Draw(t, "leaf"))
				}
			}
			anchors = append(anchors, name)
		}
		return b.String()
	})
	var docs []string
	for seed := range 400 {
		docs = append(docs, doc.Example(seed))
	}
	compare(t, "YAML 1.1, generated documents", docs)
}
