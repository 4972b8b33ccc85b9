package refreshcfg

import (
	"fmt"
	"strings"
	"testing"
)

// heads reads "NAME" and "NAME:AFTER,AFTER" (":" alone: after nothing).
func heads(spec string) (names []string, heads []Header) {
	for word := range strings.FieldsSeq(spec) {
		name, after, ok := strings.Cut(word, ":")
		h := Header{}
		if ok {
			h.After = []string{}
		}
		if after != "" {
			h.After = strings.Split(after, ",")
		}
		names, heads = append(names, name), append(heads, h)
	}
	return names, heads
}

func TestGraph(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"1-a 2-b 3-c", "1-a[] 2-b[1-a] 3-c[2-b]"},
		{"1-a 2-b: 3-c: 4-d", "1-a[]+ 2-b[]+ 3-c[]+ 4-d[1-a 2-b 3-c]"},
		{"1-a 2-b:1-a 3-c:1-a 4-d:2-b,3-c,none", "1-a[] 2-b[1-a]+ 3-c[1-a]+ 4-d[2-b 3-c]"},
		{"1-a:2-b 2-b:", "1-a[2-b] 2-b[]"},
		{"1-a:none", "1-a[]"},
		{"1-a:2-b 2-b", "hooks wait for each other: 1-a after 2-b after 1-a"},
		{"1-a:1-a", "hooks wait for each other: 1-a after 1-a"},
	} {
		names, h := heads(c.spec)
		nodes, err := newGraph("configure", names, h, false)
		var got []string
		if err == nil {
			after := needs(nodes)
			for i, n := range nodes {
				s := fmt.Sprint(n.name, after[i])
				if n.beside {
					s += "+"
				}
				got = append(got, s)
			}
		} else {
			got = append(got, strings.TrimPrefix(err.Error(), "configure: "))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s\nwant %s", c.spec, strings.Join(got, " "), c.want)
		}
	}
}

// In a phase that runs one by one, "after" only moves a hook.
func TestSerialGraph(t *testing.T) {
	names, h := heads("1-a:3-c 2-b: 3-c: 4-d")
	nodes, err := newGraph("migration", names, h, true)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, n := range nodes {
		got = append(got, fmt.Sprintf("%s%v%t", n.name, needs(nodes)[i], n.beside))
	}
	if s := strings.Join(got, " "); s != "1-a[3-c]false 2-b[]false 3-c[2-b]false 4-d[1-a]false" {
		t.Errorf("got %s", s)
	}
}

func TestBadHeaders(t *testing.T) {
	for head, want := range map[string]string{
		`{"after": "x"}`:                           "a string does not belong there",
		`{"timeout": "5"}`:                         "missing unit",
		`{"timeout": "-5s"}`:                       "negative",
		`{"retries": -1}`:                          "from 0 to 1000",
		`{"semaphore": "a b"}`:                     "NAME:COUNT",
		`{"once": "ever"}`:                         `neither "image" nor "machine"`,
		`{"once": "machine"}`:                      "wants either",
		`{"once": "machine", "snapshot": ["x"]}`:   "absolute path",
		`{"once": "machine", "snapshot": ["/"]}`:   "not the root",
		`{"once": "image", "reversible": true}`:    "belong to",
		`{"once": "image", "changed": ["/etc/x"]}`: "exclude each other",
		`{"changed": ["/etc/["]}`:                  "absolute path, a pattern",
		`{"changes": []}`:                          `unknown field "changes"; there are changed, after, timeout,`,
		`{`:                                        "line 2: the JSON object does not end on this line",
		``:                                         "line 2: not a JSON object",
		`[]`:                                       "line 2: not a JSON object",
		`{"Timeout": "5s"}`:                        `unknown field "Timeout"`,
		`{"timeout": []}`:                          `"timeout": a list does not belong there`,
		`{"retries": true}`:                        `"retries": true or false does not belong there`,
		`{"once": "machine", "snapshot": []}`:      "names no path",
		"{}\n## goldsmith: {}":                     "line 3: a second header; line 2 is the first",
		`{} {}`:                                    "more than one",
		`{"once": "machine", "reversible": true, "snapshot": ["/var/x"]}`: "wants either",
	} {
		_, err := run(t, Config{Base: base(t, map[string]string{"configure.d/1-x": "", "configure.d/2-bad": "exit 1\n"}), State: t.TempDir()})
		if err == nil {
			t.Fatal("a hook that fails does not fail the run")
		}
		dir := base(t, map[string]string{"configure.d/1-x": ""})
		writeHook(t, dir+"/configure.d/2-bad", "## goldsmith: "+head+"\n")
		got, err := run(t, Config{Base: dir, State: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "2-bad: header: ") || got != "" {
			t.Errorf("%s: ran %q, %v; want %s and no hook run", head, got, err, want)
		}
	}
}

// Hooks of one phase agree on how many may hold a semaphore.
func TestSemaphoreCounts(t *testing.T) {
	dir := base(t, nil)
	for name, head := range map[string]string{"configure.d/1-a": "s:1", "configure.d/2-b": "s", "post-configure.d/3-c": "s:2"} {
		writeHook(t, dir+"/"+name, `## goldsmith: {"semaphore": "`+head+`"}`+"\n")
	}
	c := Config{Base: dir, State: t.TempDir()}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	writeHook(t, dir+"/configure.d/4-d", `## goldsmith: {"semaphore": "s:2"}`+"\n")
	const want = `configure.d: "semaphore": s is for 1 in 1-a and for 2 in 4-d`
	if _, err := run(t, c); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("run: %v; want %s", err, want)
	}
}

// The directory is named once.
func TestLoopIsNamed(t *testing.T) {
	dir := base(t, nil)
	writeHook(t, dir+"/configure.d/1-a", `## goldsmith: {"after": ["1-a"]}`+"\n")
	want := "configure: " + dir + "/configure.d: hooks wait for each other: 1-a after 1-a"
	if _, err := run(t, Config{Base: dir, State: t.TempDir()}); err == nil || err.Error() != want {
		t.Errorf("run: %v; want %s", err, want)
	}
}
