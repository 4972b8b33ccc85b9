package applycfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// Of random templates, partials, programs and metadata, no secret is in the
// difference of what they make, whether the old metadata had it or the new ones
// have, and none in that of going back; what was kept before, or written by
// hand, included.
func TestDiffHidesSecrets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	t.Chdir(dir)
	for i := range 150 {
		diffHidesSecrets(t, rnd, fmt.Sprintf("%s/%d", dir, i))
	}
}

func diffHidesSecrets(t *testing.T, rnd *rand.Rand, dir string) {
	t.Helper()
	out := Output{Dir: dir + "/out", State: dir + "/state", Create: true}
	var secrets []string
	var now *Secrets
	render := func(mark string) []File {
		program := "run*"
		if rnd.IntN(4) > 0 {
			program = "norun"
		}
		write(t, dir, map[string]string{"t" + mark + "/f": randomTemplate(rnd, 3),
			"t" + mark + "/g": randomTemplate(rnd, 2), "../p.mustache": randomTemplate(rnd, 1),
			"t" + mark + "/" + program: "#!/bin/sh\nsed 's/\\\\n/ x\\n  /g; s/a/b/g'\n"})
		text, values := randomMetadata(rnd, mark)
		secrets = append(secrets, values...)
		tree := Templates{Dir: dir + "/t" + mark}
		now = tree.FindSecrets(doc(t, text))
		files, err := tree.Render(t.Context(), doc(t, text))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	check := func(what string, changes []Change, err error) {
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			for _, s := range secrets {
				if strings.Contains(c.Diff, s) {
					t.Fatalf("%s: %s %s shows %q:\n%s", dir, what, c.Path, s, c.Diff)
				}
			}
		}
	}
	dry := out
	dry.DryRun, dry.Diff = true, true
	for n, mark := range []string{"AAA", "BBB", "CCC"} {
		files := render(mark)
		if n == 0 && rnd.IntN(2) == 0 { // somebody else wrote it
			for _, f := range files {
				write(t, dir, map[string]string{"out/" + f.Path: string(f.Body)})
			}
			continue
		}
		if exists(out.Dir) {
			changes, err := dry.Apply(t.Context(), files)
			check("apply", changes, err)
		}
		out.Keep = n > 0
		if _, err := out.Apply(t.Context(), files); err != nil {
			t.Fatal(err)
		}
	}
	dry.Secrets = now
	changes, err := dry.Rollback(t.Context())
	check("rollback", changes, err)
	if _, err := out.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	changes, err = dry.Apply(t.Context(), render("DDD"))
	check("apply after rollback", changes, err)
}

// Keys become secret and stay it, at random, and values change, also in the same
// run. No value that such a key ever had is shown from then on.
func TestDiffHidesLaterSecrets(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	dir := t.TempDir()
	for i := range 50 {
		laterSecrets(t, rnd, fmt.Sprintf("%s/%d", dir, i))
	}
}

func laterSecrets(t *testing.T, rnd *rand.Rand, dir string) {
	keys := []string{"a", "b", "c"}
	write(t, dir, map[string]string{"t/f": "a {{a}}\nb {{b}}\nfixed\n", "t/g": "c {{c}}\n", "t/h": "{{.}}\n"})
	out := Output{Dir: dir + "/out", State: dir + "/state", Create: true}
	dry := out
	dry.DryRun, dry.Diff = true, true
	secret, value, had := map[string]bool{}, map[string]string{}, map[string][]string{}
	for run := range 6 {
		k := keys[rnd.IntN(len(keys))]
		if run > 0 && rnd.IntN(2) == 0 {
			secret[k] = true
		}
		for _, k := range keys {
			if run == 0 || rnd.IntN(3) == 0 {
				value[k] = fmt.Sprintf("value%d%s", run, k)
			}
			had[k] = append(had[k], value[k])
		}
		tree := Templates{Dir: dir + "/t", Secret: func(k string) bool { return secret[k] }}
		metadata := doc(t, fmt.Sprintf(`{"a": %q, "b": %q, "c": %q}`, value["a"], value["b"], value["c"]))
		files, err := tree.Render(t.Context(), metadata)
		if err != nil {
			t.Fatal(err)
		}
		dry.Secrets = tree.FindSecrets(metadata)
		var shown strings.Builder
		for _, plan := range []func() ([]Change, error){
			func() ([]Change, error) { return dry.Apply(t.Context(), files) },
			func() ([]Change, error) { return dry.Rollback(t.Context()) },
		} {
			if !exists(out.Dir) {
				break
			}
			changes, err := plan()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range changes {
				shown.WriteString(c.Diff)
			}
		}
		for k := range secret {
			for _, v := range had[k] {
				if strings.Contains(shown.String(), v) {
					t.Fatalf("%s run %d: %q of %s is shown:\n%s", dir, run, v, k, shown.String())
				}
			}
		}
		out.Keep = rnd.IntN(2) == 0
		if rnd.IntN(4) > 0 {
			if _, err := out.Apply(t.Context(), files); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a record says: only of the content that it was made of, and not of its
// secrets.
func FuzzRecord(f *testing.F) {
	f.Add("port 1\npassword hunter2\n", "hunter2", "port 2\npassword old\nport 1")
	f.Add("a\n\nb", "", "a\n\nb")
	f.Add("", "", "keys 1 2\nfile 00 1,2 \"a\"\nend 1\n")
	f.Fuzz(func(t *testing.T, body, secret, other string) {
		r := &root{name: "/x"}
		masked := newWords(spellings(secret)).mask(body)
		path := t.TempDir() + "/public"
		known := &record{newKeySet([]string{secret, "b"}, []string{other}), map[string]proof{"a b": prove(body, masked)}}
		if err := known.write(path, r, nil); err != nil {
			t.Fatal(err)
		}
		read := readRecord(path, r)
		if !slices.Equal(read.keys, known.keys) || !read.covers(newKeySet([]string{"b"}, nil)) || read.covers(newKeySet([]string{"c"}, nil)) && secret != "c" {
			t.Errorf("keys %x became %x", known.keys, read.keys)
		}
		was := read.files["a b"]
		if got := was.mask(other); other != body && got != stars(other) {
			t.Errorf("%q proves %q of %q", body, got, other)
		}
		a, b := lines(was.mask(body)), lines(masked)
		for i, l := range lines(body) {
			if a[i] != l && a[i] != stars(l) || l != b[i] && a[i] == l {
				t.Errorf("%q without %q proves %q of itself", body, secret, a[i])
			}
		}
		if err := os.WriteFile(path, []byte(recordHead+"dir \"/x\"\n"+other), 0o600); err != nil {
			t.Fatal(err)
		}
		readRecord(path, r)
	})
}

func randomTemplate(rnd *rand.Rand, depth int) string {
	var b strings.Builder
	for range 1 + rnd.IntN(6) {
		switch n := rnd.IntN(10); {
		case n < 3:
			b.WriteString([]string{"port ", "k=", " x", "\n", "\n", ": ", "auth = none", "end\n"}[rnd.IntN(8)])
		case n == 3 && depth > 1:
			b.WriteString("{{>p}}")
		case n < 7 || depth == 0:
			fmt.Fprintf(&b, "{{%s}}", []string{"o.password", "o.user", "o.port", "tls.private_key", "token", "user", ".", "o", "l"}[rnd.IntN(9)])
		default:
			key := []string{"o.password", "o", "l", "tls.on", "token", "o.port", "none"}[rnd.IntN(7)]
			fmt.Fprintf(&b, "{{%c%s}}%s{{/%s}}", "#^"[rnd.IntN(2)], key, randomTemplate(rnd, depth-1), key)
		}
	}
	return b.String()
}

// randomMetadata also returns the secrets in it, line by line.
func randomMetadata(rnd *rand.Rand, mark string) (text string, secrets []string) {
	n := 0
	secret := func() string {
		var list []string
		for range 1 + rnd.IntN(2) {
			n++
			list = append(list, []string{"", "", "port "}[rnd.IntN(3)]+fmt.Sprintf("%s%dqq", mark, n))
		}
		secrets = append(secrets, list...)
		text, _ := json.Marshal(strings.Join(list, "\n"))
		return string(text)
	}
	maybe := func(of string) string {
		if rnd.IntN(3) == 0 {
			return "null"
		}
		return of
	}
	text = fmt.Sprintf(`{"o": %s, "tls": {"on": %v, "private_key": %s}, "l": %s, "token": %s}`,
		maybe(fmt.Sprintf(`{"password": %s, "user": "u%d", "port": %d}`, maybe(secret()), rnd.IntN(3), rnd.IntN(3))),
		rnd.IntN(2) == 0, maybe(secret()),
		maybe(fmt.Sprintf(`[{"user": "a", "token": %s}, {"user": "b\nc", "password": %s}]`, secret(), secret())),
		maybe(fmt.Sprintf(`[%s, %s]`, secret(), secret())))
	return text, secrets
}

// Of a line of which only the end is known nothing is shown, however short that
// is without blanks: a secret may have begun before it.
func TestHidesCutLines(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("0123456789", 21) + "87654321"
	write(t, dir, map[string]string{
		"first": strings.Repeat("f", 64<<10), "then": long + strings.Repeat(" ", 3950), // one write
		"t/run*": "#!/bin/sh\nexec >&2\ncat " + dir + "/first\ncat " + dir + "/then\necho\necho second\necho " + long + "\nexit 1\n",
	})
	_, err := Templates{Dir: dir + "/t"}.Render(t.Context(), doc(t, `{"token": "`+long+`"}`))
	e, ok := errors.AsType[*command.ExitError](err)
	if !ok || len(e.Tail) != 3 || strings.ContainsAny(e.Tail[0], long) || e.Tail[1] != "second" || e.Tail[2] != hidden {
		t.Errorf("shown is …%s", err.Error()[max(0, len(err.Error())-500):])
	}
}

// A secret is not shown where it is in a JSON text inside JSON inside JSON, nor
// is a line of one.
func TestHidesNestedJSON(t *testing.T) {
	for _, c := range []struct{ secret, part string }{
		{`p@ss "wörd\`, `p@ss "wörd\`},
		{"first line\n  \"sécond\" line \nthird", `"sécond" line`},
	} {
		secrets := Templates{}.FindSecrets(doc(t, `{"token": `+metadata.JSON(c.secret)+`}`))
		ascii := metadata.JSON
		utf8 := func(v any) string {
			var b strings.Builder
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			if err := e.Encode(v); err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(b.String())
		}
		texts := []string{c.part}
		for range 3 {
			var next []string
			for _, text := range texts {
				if got := secrets.hide("a " + text + " b"); strings.Trim(got, `a b"\*`) != "" {
					t.Errorf("%s is shown as %s", text, got)
				}
				next = append(next, ascii(text), utf8(text))
			}
			texts = next
		}
	}
}

// What is kept to find a secret is no more than twice the secret, and a line
// is read in parts.
func TestSecretsTakeNoMemory(t *testing.T) {
	v := strings.Repeat("a \"quoted\" line & \\ <é>\n", 100_000)
	size, list := 0, spellings(v)
	for _, s := range list {
		size += len(s)
	}
	if size > 3*len(v) || len(list) > 100_002 {
		t.Errorf("%d bytes are looked for in %d words of %d", len(v), len(list), size)
	}
	l, w := newLayer(maxNested), newWords(list)
	found := 0
	l.find(metadata.JSON(metadata.JSON(v)), w, func(int, int) { found++ })
	if found == 0 {
		t.Error("no word is found")
	}
	for ; l != nil; l = l.next {
		if cap(l.text) > 4*chunk || cap(l.at) > 4*chunk {
			t.Errorf("%d bytes are kept of a line", cap(l.text))
		}
	}
}
