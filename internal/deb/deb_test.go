package deb

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

const control = "Package: p\nVersion: 1:2-3\nArchitecture: all\nMaintainer: M <m@example.org>\n" +
	"Description: short\n long\n .\n longer\n"

// build has dpkg-deb make a package.
func build(t *testing.T, compression string) string {
	t.Helper()
	testenv.Need(t, "dpkg-deb", "xz")
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for name, text := range map[string]string{
		"DEBIAN/control": control, "DEBIAN/conffiles": "/etc/p\n", "etc/p": "conf\n", "usr/share/p/odd": "x",
	} {
		p := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "p.deb")
	cmd := exec.Command("dpkg-deb", "-Z"+compression, "--root-owner-group", "--build", tree, out)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, msg)
	}
	return out
}

func TestRead(t *testing.T) {
	for _, compression := range []string{"xz", "gzip", "zstd", "none"} {
		d, err := Open(build(t, compression))
		if err != nil {
			t.Errorf("%s: %v", compression, err)
			continue
		}
		defer d.Close()
		c, err := d.Control()
		if err != nil {
			t.Errorf("%s: %v", compression, err)
			continue
		}
		if c.Fields["Version"] != "1:2-3" || c.Fields["Description"] != "short\n long\n .\n longer" ||
			string(c.Files["conffiles"]) != "/etc/p\n" {
			t.Errorf("%s: fields %v, files %q", compression, c.Fields, c.Files)
		}
		r, err := d.Data(t.Context())
		if err != nil {
			t.Errorf("%s: %v", compression, err)
			continue
		}
		var names []string
		for tr := tar.NewReader(r); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", compression, err)
			}
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != "./ ./etc/ ./etc/p ./usr/ ./usr/share/ ./usr/share/p/ ./usr/share/p/odd" {
			t.Errorf("%s: %s", compression, got)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: %v", compression, err)
		}
	}
}

// A reader that is closed early leaves nothing behind that blocks.
func TestCloseEarly(t *testing.T) {
	d, err := Open(build(t, "xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for range 3 {
		r, err := d.Data(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// ar packs members.
func ar(members ...string) []byte {
	b := []byte(arMagic)
	for i := 0; i < len(members); i += 2 {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", members[i], 0, 0, 0, "100644", len(members[i+1]))
		b = append(b, members[i+1]...)
		if len(b)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func tarOf(name, text string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644})
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

func TestBad(t *testing.T) {
	good := tarOf("./control", control)
	for why, b := range map[string][]byte{
		"no ar archive":         []byte("PK\x03\x04 something else"),
		"format \"3.0\"":        ar("debian-binary", "3.0\n"),
		"is missing":            ar("debian-binary", "2.0\n", "control.tar", good),
		"\"data.tar\" is out":   ar("debian-binary", "2.0\n", "data.tar", "x"),
		"\"x\" is out of place": ar("debian-binary", "2.0\n", "x", ""),
		"bad ar header":         append(ar("debian-binary", "2.0\n"), bytes.Repeat([]byte("9"), 60)...),
		"cut off":               append(ar("debian-binary", "2.0\n"), 'c'),
		"an unknown way":        ar("debian-binary", "2.0\n", "control.tar.bz2", good, "data.tar", ""),
		"bad file name \"a/b\"": ar("debian-binary", "2.0\n", "control.tar", tarOf("a/b", "x"), "data.tar", ""),
		"bad file name \".x\"":  ar("debian-binary", "2.0\n", "control.tar", tarOf(".x", "x"), "data.tar", ""),
		"Package is \"\"": ar("debian-binary", "2.0\n", "control.tar", tarOf("control", "Version: 1\n"),
			"data.tar", ""),
		"Package is \"../p\"": ar("debian-binary", "2.0\n", "control.tar", tarOf("control", "Package: ../p\n"),
			"data.tar", ""),
		"continuation":   ar("debian-binary", "2.0\n", "control.tar", tarOf("control", " x\n"), "data.tar", ""),
		"is not a field": ar("debian-binary", "2.0\n", "control.tar", tarOf("control", "Package p\n"), "data.tar", ""),
	} {
		if err := read(t, b); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v; want %s", err, why)
		}
	}
}

func read(t testing.TB, b []byte) error {
	p := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := Open(p)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Control()
	return err
}

// Damaged data is an error that names the file.
func TestDamaged(t *testing.T) {
	p := build(t, "xz")
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-40] ^= 0xff
	if err := os.WriteFile(p, b, 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := d.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "p.deb: data.tar.xz") {
		t.Errorf("damaged data: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(ar("debian-binary", "2.0\n", "control.tar", tarOf("control", control), "data.tar", ""))
	f.Add(ar("debian-binary", "2.0\n", "control.tar.gz", "\x1f\x8b", "data.tar", ""))
	f.Fuzz(func(t *testing.T, b []byte) { _ = read(t, b) })
}
