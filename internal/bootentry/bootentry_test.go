package bootentry

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

func TestFile(t *testing.T) {
	for name, want := range map[string]Entry{
		"demo_1.efi":                {ID: "demo_1"},
		"demo_1.2~rc1_x-3.efi":      {ID: "demo_1.2~rc1_x-3"},
		"demo_2+3.efi":              {ID: "demo_2", Counted: true, Left: 3},
		"demo_2+2-1.efi":            {ID: "demo_2", Counted: true, Left: 2, Done: 1},
		"demo_2+0-3.efi":            {ID: "demo_2", Counted: true, Done: 3},
		"demo_2+0.efi":              {ID: "demo_2", Counted: true},
		"a.b-c_2+10-2147483647.efi": {ID: "a.b-c_2", Counted: true, Left: 10, Done: 1<<31 - 1},
	} {
		got, ok := ParseFile(name)
		if !ok || got != want || got.File() != name {
			t.Errorf("ParseFile(%q) = %+v, %v; want %+v", name, got, ok, want)
		}
	}
	for _, name := range []string{
		"", ".efi", "demo.efi", "demo_1", "demo_1.EFI", "demo_1+.efi", "demo_1+03.efi", "demo_1+3-.efi", "demo_1+3-0.efi",
		"demo_1+3-01.efi", "demo_1+-1.efi", "demo_1+3+3.efi", "demo_1+x.efi", "demo_1+99999999999.efi", "../x_1.efi",
		"demo_.efi", "_1.efi", "demo_1 .efi", "demo_1+3-1-1.efi", "-demo_1.efi",
	} {
		if e, ok := ParseFile(name); ok {
			t.Errorf("ParseFile(%q) = %+v", name, e)
		}
	}
	if n, v, ok := SplitID(ID("a-b", "1_2")); n != "a-b" || v != "1_2" || !ok {
		t.Errorf("SplitID: %q, %q, %v", n, v, ok)
	}
	if _, _, ok := SplitID("ab"); ok {
		t.Error("SplitID takes an ID without a version")
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add("demo_2+2-1.efi")
	f.Add("demo_2.efi")
	f.Fuzz(func(t *testing.T, name string) {
		if e, ok := ParseFile(name); ok && e.File() != name {
			t.Errorf("%q becomes %q", name, e.File())
		}
	})
}

// versions has the specification's examples and what images are called.
var versions = []struct{ a, sign, b string }{
	{"11", "=", "11"}, {"systemd-123", "=", "systemd-123"}, {"bar-123", "<", "foo-123"},
	{"123a", ">", "123"}, {"123.a", ">", "123"}, {"123.a", "<", "123.b"}, {"123a", ">", "123.a"},
	{"11α", "=", "11β"}, {"A", "<", "a"}, {"", "<", "0"}, {"0.", ">", "0"}, {"0.0", ">", "0"},
	{"0", ">", "~"}, {"", ">", "~"}, {"1_", "=", "1"}, {"_1", "=", "1"}, {"_1", "<", "1.2"},
	{"1_2_3", ">", "1.3.3"}, {"1+", "=", "1"}, {"+1", "=", "1"}, {"+1", "<", "1.2"}, {"1+2+3", ">", "1.3.3"},
	{"1.0~rc1", "<", "1.0"}, {"1.0~rc1", "<", "1.0~rc2"}, {"1.0^20", ">", "1.0"}, {"1.0^20", "<", "1.0.1"},
	{"123-9", "<", "123.1-1"}, {"2", "<", "10"}, {"007", "=", "7"}, {"20261122.1", ">", "20261121.9"},
	{"99999999999999999999999", "<", "100000000000000000000000"}, {"1.", "<", "1.0"}, {"1-", "<", "1-1"},
}

func sign(n int) string { return []string{"<", "=", ">"}[max(-1, min(n, 1))+1] }

func TestCompareVersions(t *testing.T) {
	for _, c := range versions {
		if got := sign(CompareVersions(c.a, c.b)); got != c.sign {
			t.Errorf("%q %s %q; want %s", c.a, got, c.b, c.sign)
		}
		if got := sign(-CompareVersions(c.b, c.a)); got != c.sign {
			t.Errorf("the other way round: %q %s %q; want %s", c.a, got, c.b, c.sign)
		}
	}
}

// systemd has the same order.
func TestCompareVersionsSystemd(t *testing.T) {
	testenv.Need(t, "systemd-analyze")
	for _, c := range versions {
		cmd := exec.Command("systemd-analyze", "compare-versions", c.a, c.b)
		_ = cmd.Run() // the status says how they compare
		if got := map[int]string{0: "=", 11: ">", 12: "<"}[cmd.ProcessState.ExitCode()]; got != c.sign {
			t.Errorf("systemd: %q %s %q; the table says %s", c.a, got, c.b, c.sign)
		}
	}
}

func TestCompareVersionsIsAnOrder(t *testing.T) {
	v := rapid.StringMatching(`[a0-1.~^_-]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := v.Draw(t, "a"), v.Draw(t, "b"), v.Draw(t, "c")
		if sign(CompareVersions(a, b)) != sign(-CompareVersions(b, a)) {
			t.Fatalf("%q and %q", a, b)
		}
		if CompareVersions(a, a) != 0 {
			t.Fatalf("%q is not equal to itself", a)
		}
		if CompareVersions(a, b) <= 0 && CompareVersions(b, c) <= 0 && CompareVersions(a, c) > 0 {
			t.Fatalf("%q <= %q <= %q", a, b, c)
		}
	})
}

func TestEnv(t *testing.T) {
	e := Env{EnvGood: "demo_1", EnvTry: "demo_2~rc.1", EnvLeft: "3", "odd": `a\b=c #`}
	b, err := e.Bytes()
	if err != nil || len(b) != EnvSize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	got, err := ParseEnv(b)
	if diff := cmp.Diff(e, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for name, e := range map[string]Env{
		"line break": {"a": "b\nc"}, "no name": {"": "a"}, "name": {"a-b": "c"},
		"large": {"a": strings.Repeat("x", 500)},
	} {
		if b, err := e.Bytes(); err == nil {
			t.Errorf("%s: got %q", name, b)
		}
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": b[:1023], "no magic": bytes.Repeat([]byte("#"), EnvSize), "zeros": make([]byte, EnvSize),
		"no end":  append([]byte(envMagic), bytes.Repeat([]byte("a="), 500)[:EnvSize-len(envMagic)]...),
		"garbage": append(bytes.Clone(b[:100]), make([]byte, EnvSize-100)...),
	} {
		if e, err := ParseEnv(b); err == nil {
			t.Errorf("%s: got %v", name, e)
		}
	}
}

// grub-editenv reads what Bytes writes, and the other way round.
func TestEnvTool(t *testing.T) {
	testenv.Need(t, "grub-editenv")
	file := filepath.Join(t.TempDir(), "grubenv")
	b, err := Env{EnvGood: "demo_1", "odd": `a\b`}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	edit := func(args ...string) string {
		out, err := exec.Command("grub-editenv", append([]string{file}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("grub-editenv %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if got := edit("list"); got != "good=demo_1\nodd=a\\b\n" {
		t.Errorf("grub-editenv lists %q", got)
	}
	edit("set", "left=2", "try=demo_2", `odd=c\d`)
	if b, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	got, err := ParseEnv(b)
	if diff := cmp.Diff(Env{EnvGood: "demo_1", EnvTry: "demo_2", EnvLeft: "2", "odd": `c\d`},
		got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := os.WriteFile(file+"2", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("grub-editenv", file+"2", "create").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	empty, err := Env{}.Bytes()
	if b, _ := os.ReadFile(file + "2"); err != nil || !bytes.Equal(b, empty) {
		t.Errorf("%v; an empty block is %q, grub-editenv's %q", err, empty, b)
	}
}

func FuzzParseEnv(f *testing.F) {
	b, _ := Env{EnvGood: "demo_1", EnvTry: "demo_2", EnvLeft: "3"}.Bytes()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEnv(b)
		if err != nil {
			return
		}
		out, err := e.Bytes()
		if err != nil {
			return // more than the first sector holds
		}
		again, err := ParseEnv(out)
		if diff := cmp.Diff(e, again); err != nil || diff != "" {
			t.Errorf("%v:\n%s", err, diff)
		}
	})
}

func TestGrubConfig(t *testing.T) {
	testenv.Need(t, "grub-script-check")
	boot := BootConfig("demo_1", `root=PARTUUID=x quiet dyndbg="file a.c +p" $x`)
	want := "linux /bios/demo_1/linux 'root=PARTUUID=x' 'quiet' 'dyndbg=file a.c +p' '$x'\ninitrd /bios/demo_1/initrd\n"
	if string(boot) != want {
		t.Errorf("got %q\nwant %q", boot, want)
	}
	for name, text := range map[string]string{"grub.cfg": GrubConfig, "boot.cfg": string(boot)} {
		cmd := exec.Command("grub-script-check")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
