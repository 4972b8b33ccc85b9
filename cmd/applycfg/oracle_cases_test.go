package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

// fixtures are in the shape of os-apply-config's own: its tests' trees are not
// in the package.
var fixtures = []entry{
	{path: "m.json", mode: 0o644, text: `{"x": "foo", "y": false, "z": null, "btrue": true, "bfalse": false,
		"database": {"url": "sqlite:///blah"}, "l": [1, 2, null, {"a": "b"}], "f": 1e3, "big": 12345678901234567890123, "u": "\u00e9\ud83d\ude00",
		"s": "two\n", "half": "\ud800", "d": "mysql+pymysql://u:p@10.0.0.1/db?charset=utf8", "sw": "r1z1-10.0.0.1:%PORT%/d1,r1z٣-h:%PORT%/d2",
		"OpenStack::Config": {"x": "foo", "database": {"url": "sqlite:///blah"}}, "e": "", "zero": 0, "nan": NaN}`},
	{path: "t/etc/glance/script.conf", mode: 0o755, text: "#!/bin/sh\nsed 's/.*\"x\": \"\\([a-z]*\\)\".*/\\1/'\n"},
	{path: "t/etc/keystone/keystone.conf", mode: 0o644, text: "[{{x}}]\ndatabase = {{database.url}}\n"},
	{path: "t/etc/control/empty", mode: 0o644, text: "{{x}}\n"}, {path: "t/etc/control/empty.oac", mode: 0o644},
	{path: "t/etc/control/allow_empty", mode: 0o644, text: ""},
	{path: "t/etc/control/allow_empty.oac", mode: 0o644, text: "allow_empty: false\n"},
	{path: "t/etc/control/mode", mode: 0o644, text: "lorem modus\n"}, {path: "t/etc/control/mode.oac", mode: 0o644,
		text: "mode: 0755\n"},
	{path: "t/owner.uid", mode: 0o644, text: "lorem uido\n"}, {path: "t/owner.uid.oac", mode: 0o644,
		text: "owner: 0\n"},
	{path: "t/owner.name", mode: 0o644, text: "namo uido\n"}, {path: "t/owner.name.oac", mode: 0o644,
		text: "owner: daemon\n"},
	{path: "t/group.gid", mode: 0o644, text: "lorem gido\n"}, {path: "t/group.gid.oac", mode: 0o644,
		text: "group: 1\n"},
	{path: "t/group.name", mode: 0o644, text: "namo gido\n"}, {path: "t/group.name.oac", mode: 0o644,
		text: "group: root\n"},
	{path: "t/deep/linked", target: "../owner.uid"}, {path: "t/linkdir", target: "etc"},
	{path: "list.json", mode: 0o644, text: `["m.json", "", "none.json"]`}, {path: "object.json", mode: 0o644,
		text: `{}`},
	{path: "broken.json", mode: 0o644, text: `{"a": 1,}`}, {path: "empty.json", mode: 0o644, text: ``},
	{path: "out/etc/control/allow_empty", mode: 0o600, text: "is to go\n"}, {path: "out/etc/keystone/keystone.conf",
		mode: 0o640, text: "old\n"},
}

func TestOracleFixtures(t *testing.T) {
	testenv.NeedRoot(t) // for owners
	var cases []*testCase
	var documents []entry
	for _, f := range fixtures {
		if strings.HasSuffix(f.path, ".json") {
			documents = append(documents, f)
		}
	}
	add := func(line string, env ...string) {
		c := &testCase{files: fixtures, env: map[string]string{}}
		if strings.Contains(line, "-key") {
			c.files = documents
		}
		for _, e := range env {
			k, v, _ := strings.Cut(e, "=")
			c.env[k] = v
		}
		for word := range strings.FieldsSeq(line) {
			if word == "''" {
				word = ""
			}
			c.args = append(c.args, strings.ReplaceAll(word, "_", " "))
		}
		cases = append(cases, c)
	}
	for _, line := range []string{
		"-t t -o out -m m.json", "-t t -o out -m m.json -v", "-t t/ -o out/ -m m.json", "-t none -o out -m m.json",
		"-t '' -o out", "-t m.json -o out",
		"-t t -o new/dir -m m.json", "-t t -o out -m none.json", "-t t -o out -m broken.json",
		"-t t -o out -m object.json",
		"-t t -o out -m m.json broken.json", "-t t -o out -m broken.json -m m.json",
		"-t t -o out -m m.json -s OpenStack::Config",
		"-t t -o out -m m.json -s database", "-t t -o out -m m.json -s x", "-t t -o out -m m.json -s database.url",
		"-t t -o out -m m.json -s ''",
		"-tt -oout -mm.json", "-t=t -o=out -m=m.json", "--templ t --out=out --meta m.json", "-vt t -o out -m m.json",
		"-t t -o out -m empty.json",
		"--os-config-files list.json -t t -o out", "--os list.json --key x", "--os-config-files m.json --key x",
		"--os-config-files broken.json --key x",
		"--os-config-files '' --key x --key-default d", "--os-config-files empty.json --key x",
		"--fallback-metadata m.json --key x",
		"--fallback-metadata m.json -m object.json --key x", "--fallback m.json none.json -t t -o out",
		"--fallback-metadata --key x --key-default y",
		"--print-templates", "-t x --print-t", "--version", "--ver", "--help", "-h", "--help --nonsense",
		"--nonsense --help", "-o --help", "--nonsense",
		"stray", "-m m.json -- stray", "--", "-m m.json --", "-t", "-t -- x", "-v=x", "-vx", "--validate=x", "--k x",
		"--key", "--key=x -m m.json", "--key= -m m.json",
		"-m m.json -o=-- --key x", "-m=-- --key x --key-default q", "-1", "-m m.json --key -1 --key-default neg",
		"-m m.json --key --key-default", "-",
		"-m - --key x --key-default d", "-m m.json --boolean-key btrue --key x", "--boolean-key=btrue -mm.json",
		"--boolean b -m m.json",
		"-m a_b --key x --key-default d", "-m -a_b --key x --key-default d", "--key x --key-default -m m.json",
		"--type",
	} {
		add(line)
	}
	for _, env := range []string{"OS_CONFIG_FILES=m.json", "OS_CONFIG_FILES=",
		"OS_CONFIG_FILES=none:m.json:object.json", "OS_CONFIG_FILES=broken.json",
		"OS_CONFIG_FILES_PATH=list.json", "OS_CONFIG_FILES_PATH=none.json", "OS_CONFIG_FILES_PATH=", "OS_CONFIG_APPLIER_TEMPLATES=t", "OS_CONFIG_APPLIER_TEMPLATES="} {
		add("--key x", env)
		add("-t t -o out", env)
		add("-o out -m", env)
		add("--os-config-files list.json --key x", env)
		add("--print-templates", env)
	}
	keys := []string{"x", "y", "z", "btrue", "bfalse", "database", "database.url", "database.url.x", "l", "l.0", "l.1",
		"l.2", "l.3.a", "l.-1", "l.-1.a", "l.4", "l.-5", "l.x",
		"l.+1", "l._1", "l.0_1", "l.0x", "l.", ".x", "f", "big", "u", "s", "half", "d", "sw", "e", "zero", "nan", "none", "none.x", "does.not.exist", ".", "l.0.0", "OpenStack::Config.x"}
	for _, key := range keys {
		key = strings.ReplaceAll(key, "_", "\u2009") // no blank of add's
		for _, typ := range []string{"raw", "default", "int", "netaddress", "netdevice", "username", "dsn",
			"swiftdevices", "nonsense"} {
			add("-m m.json --key " + key + " --type " + typ)
		}
		add("-m m.json --key " + key + " --key-default ''")
		add("-m m.json --key " + key + " --key-default not__-_a.type --type int")
		add("-m m.json --boolean-key " + key)
	}
	startOriginal(t).compareAll(t, "os-apply-config: command lines and keys, cases by hand", cases)
}

// The trees of this repository, with metadata that give each key that a
// template reads each kind of value.
func TestOracleTemplates(t *testing.T) {
	testenv.NeedRoot(t)
	trees, err := filepath.Glob("../../templates/*")
	if err != nil || len(trees) == 0 {
		t.Fatal(trees, err)
	}
	var cases []*testCase
	for _, root := range trees {
		cases = append(cases, treeCases(t, root)...)
	}
	startOriginal(t).compareAll(t, "os-apply-config: this repository's templates, each key with each kind of value",
		cases)
}

func treeCases(t *testing.T, root string) []*testCase {
	var files []entry
	keys := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		text := string(b)
		if strings.HasSuffix(rel, ".oac") { // only root is on every machine
			text = strings.NewReplacer("owner: redis", "owner: daemon", "group: redis", "group: daemon").Replace(text)
		}
		files = append(files, entry{path: "t/" + rel, text: text, mode: fi.Mode().Perm()})
		for piece := range strings.SplitSeq(text, "{{") {
			if key, _, ok := strings.Cut(piece, "}}"); ok {
				keys[strings.Trim(key, "{}#^/& ")] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	values := []string{`null`, `""`, `"text"`, `"<&\">\n"`, `0`, `6380`, `1.50`, `true`, `false`, `[]`, `["a", "b"]`,
		`[{"name": "n", "address": "a"}, 2]`, `{}`, `{"a": {"b": 1}}`}
	docs := []string{`{}`}
	names := []string{}
	for key := range keys {
		names = append(names, key)
	}
	slices.Sort(names)
	for _, key := range names {
		for _, v := range values {
			docs = append(docs, nested(key, v))
		}
	}
	for i := range values { // all keys at once
		var all []string
		for j, key := range names {
			all = append(all, nested(key, values[(i+j)%len(values)]))
		}
		docs = append(docs, strings.Join(all, "\x00"))
	}
	var cases []*testCase
	for _, doc := range docs {
		c := &testCase{files: slices.Clone(files), args: []string{"-t", "t", "-o", "out", "-m"},
			env: map[string]string{}}
		for i, d := range strings.Split(doc, "\x00") {
			name := fmt.Sprintf("m%d.json", i)
			c.files = append(c.files, entry{path: name, text: d, mode: 0o644})
			c.args = append(c.args, name)
		}
		cases = append(cases, c)
	}
	return cases
}

// nested is an object with a value at a dotted key.
func nested(key, value string) string {
	parts := strings.Split(key, ".")
	for _, p := range slices.Backward(parts) {
		value = fmt.Sprintf(`{%q: %s}`, p, value)
	}
	return value
}

// one is one of several texts.
func one(r *rand.Rand, texts ...string) string { return texts[r.IntN(len(texts))] }

// generated is a template tree, an output directory, documents and a command
// line, all at random.
func generated(r *rand.Rand) *testCase {
	c := &testCase{args: []string{"-t", "t", "-o", "out"}, env: map[string]string{}}
	taken := map[string]bool{}
	for range 1 + r.IntN(4) {
		path := one(r, "a", "b", "etc/c", "etc/d.d/e", "etc/d.d/f g", "etc/\u00e9", "etc/.h", "x/y/z/w")
		if taken[path] {
			continue
		}
		taken[path] = true
		f := entry{path: "t/" + path, mode: 0o644, text: body(r)}
		if r.IntN(8) == 0 {
			f.mode = fs.FileMode([]int{0o755, 0o100, 0o711}[r.IntN(3)])
			f.text = one(r, "#!/bin/sh\ncat\n", "#!/bin/sh\nprintf 'x\\r\\ny'\n", "#!/bin/sh\ntrue\n",
				"#!/bin/sh\necho e >&2; echo o\n",
				"#!/bin/sh\nexit 3\n", "#!/bin/sh\nprintf '\\377'\n", "no shebang\n", "#!/nowhere\n", "#!/bin/sh\npwd | grep -o '[^/]*$' | tr -d a-z; echo $0\n")
		}
		c.files = append(c.files, f)
		if r.IntN(3) == 0 {
			c.files = append(c.files, entry{path: "t/" + path + ".oac", mode: 0o644, text: oac(r)})
		}
		switch r.IntN(8) {
		case 0, 1, 2:
			c.files = append(c.files, entry{path: "out/" + path, mode: fs.FileMode([]int{0o644, 0o600, 0o751,
				0o400}[r.IntN(4)]), text: one(r, "old", "a", "")})
		case 3:
			c.files = append(c.files, entry{path: "out/" + path, target: one(r, "nowhere", "there", "dir")},
				entry{path: filepath.Dir("out/"+path) + "/there", mode: 0o604,
					text: "there"}, entry{path: filepath.Dir("out/"+path) + "/dir", text: "/"})
		case 4:
			if r.IntN(4) == 0 {
				c.files = append(c.files, entry{path: "out/" + path + one(r, "", "/x"), mode: 0o644, text: one(r, "/",
					"x")})
			}
		}
	}
	for i := range r.IntN(4) {
		name := fmt.Sprintf("m%d.json", i)
		c.files = append(c.files, entry{path: name, mode: 0o644, text: document(r)})
		if i == 0 {
			c.args = append(c.args, "-m")
		}
		c.args = append(c.args, name)
	}
	if r.IntN(12) == 0 {
		c.args = append(c.args, "-s", one(r, "o", "o.p", "l", "none", "", "o.null"))
	}
	seen := map[string]bool{}
	c.files = slices.DeleteFunc(c.files, func(f entry) bool { // what two templates brought
		again := seen[f.path]
		seen[f.path] = true
		return again
	})
	return c
}

func body(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(6) {
		b.WriteString(one(r, "text\n", "{{s}}", "{{ n }}\n", "{{o.p.q}}", "{{{l}}}\r\n", "{{o}}", "\r",
			"{{#l}}\n- {{.}}\n{{/l}}\n", "{{^none}}\nx\n{{/none}}\n",
			"{{#o}}{{k}} {{#p}}{{q}}{{k}}{{/p}}{{/o}}", "{{! c }}\n", "{{>p}}", "{{=<% %>=}}<%s%>",
			"{{f}} {{big}} {{t}}", "\u00e9\u2028", "{{u}}"))
	}
	if r.IntN(30) == 0 {
		b.WriteString(one(r, "{{#l}}", "{{/l}}", "{{}}", "{{", "\xff", "{{#l}}{{/o}}", "{{= =}}", "\x00"))
	}
	return b.String()
}

func oac(r *rand.Rand) string {
	if r.IntN(2) == 0 {
		return one(r, "mode: 0600\nallow_empty: no\n", "owner: daemon\ngroup: 1\n",
			"mode: 0b11\nallow_empty: off\nset: x\n", "group: root\nmode: 0\n", "", "{}", "[]", "0")
	}
	if r.IntN(4) == 0 {
		return one(r, "", "[]", "{}", "0", "foo", "- a", "~", "# c\n", "false", "a: [", "\t", "1: x", "--- \n", "''",
			"0.0", "{mode: 0600}", "\xff", "--- {}\n--- {}")
	}
	var b strings.Builder
	for range 1 + r.IntN(2) {
		b.WriteString(one(r, "mode: "+one(r, "0600", "0", "0o644", "'0644'", "640", "0777", "01000", "-1", "0x1ff",
			"0b11", "0_644", "~", "yes", "1.0", "4:10", "[0644]", "+0600"),
			"owner: "+one(r, "root", "0", "'0'", "daemon", "1", "nosuch", "4242", "[a]", "~", "1.0", "true", "-1",
				"99999999999", "''"),
			"group: "+one(r, "root", "daemon", "1", "'1'", "nosuch", "4242", "~"),
			"allow_empty: "+one(r, "true", "no", "no", "false", "false", "off", "on", "0", "''", "~", "'no'", "[]",
				"n"),
			one(r, "set: x", "body: x", "bogus: 1", "self: 1", "? x", "allow_empty: no")) + "\n")
	}
	return b.String()
}

func document(r *rand.Rand) string {
	if r.IntN(25) == 0 {
		return one(r, "", "[]", "null", "{", "3", "\"x\"", "{\"a\": 01}", "\ufeff{}", "{\"a\": \"\xff\"}",
			"[{\"s\": 1}]", "{\"a\": \"\\ud800\", \"s\": \"\\udfff\"}", "NaN", "{}x", "{'a': 1}")
	}
	var pairs []string
	for _, key := range []string{"s", "n", "l", "o", "f", "big", "t", "u", "k", "none"} {
		if r.IntN(2) == 0 {
			pairs = append(pairs, fmt.Sprintf("%q: %s", key, one(r, `"<é&>"`, `5`, `0`, `-0`, `1e3`, `1E400`, `NaN`,
				`null`, `true`, `false`, `""`, `[]`, `{}`, `[1, "x", null, [2.50]]`,
				`{"k": "in", "null": null, "p": {"q": "deep"}}`, `{"p": {"r": 1}, "k": [0]}`, `{"p": 1}`,
				`[{"k": 1}, {"s": "\\u0041\\n\\ud83d\\ude00"}]`, `123456789012345678901`, `1.0e-7`)))
		}
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

func TestOracleGenerated(t *testing.T) {
	testenv.NeedRoot(t)
	var cases []*testCase
	for i := range uint64(1200) {
		cases = append(cases, generated(rand.New(rand.NewPCG(i, 3))))
	}
	startOriginal(t).compareAll(t, "os-apply-config: generated trees, documents and existing files", cases)
}

// FuzzOracle does so with any seed.
func FuzzOracle(f *testing.F) {
	testenv.NeedRoot(f)
	o := startOriginal(f)
	f.Fuzz(func(t *testing.T, a, b uint64) { o.compare(t, generated(rand.New(rand.NewPCG(a, b)))) })
}
