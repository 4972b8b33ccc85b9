package update

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

func TestParseWanted(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]any{
		`{}`: Wanted{}, `{"image": {}}`: Wanted{}, `{"image": "x"}`: Wanted{},
		`{"image": {"digest": "` + digest + `", "name": "demo", "version": "1"}}`:                Wanted{},
		`{"image": {"digest": "` + digest + `", "source": "oci:/x"}}`:                            Wanted{Digest: digest, Source: "oci:/x"},
		`{"image": {"digest": "` + digest + `", "source": "http://x/y", "restart": "kexec"}}`:    Wanted{digest, "http://x/y", true},
		`{"image": {"digest": "` + digest + `", "source": "oci:/x", "restart": "reboot"}}`:       Wanted{Digest: digest, Source: "oci:/x"},
		`{"image": {"digest": "` + digest + `", "source": "oci:/x", "restart": "soft"}}`:         "image.restart",
		`{"image": {"digest": "` + digest + `", "source": ""}}`:                                  "image.source",
		`{"image": {"digest": "` + digest + `", "source": "h/r@sha256:1"}}`:                      "image.source",
		`{"image": {"source": "oci:/x"}}`:                                                        "image.digest",
		`{"image": {"digest": 7, "source": "oci:/x"}}`:                                           "image.digest",
		`{"image": {"digest": "` + strings.ToUpper(digest) + `", "source": "oci:/x"}}`:           "image.digest",
		`{"image": {"digest": "` + digest[:70] + `", "source": "oci:/x"}}`:                       "image.digest",
		`{"image": {"digest": "sha256:` + strings.Repeat("../", 21) + `x", "source": "oci:/x"}}`: "image.digest",
	} {
		doc, err := metadata.Parse("test", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseWanted(doc.(*metadata.Object))
		if key, bad := want.(string); bad {
			if command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), key) {
				t.Errorf("%s: %+v, %v; want an error about %s", text, got, err, key)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

// All checks run, whatever those before them say.
func TestRunHealth(t *testing.T) {
	b := newBench(t, false)
	dir := t.TempDir()
	for name, text := range map[string]string{"10-good": "exit 0", "20-bad": "echo first; echo last >&2; exit 3", "30-quiet": "exit 1", "40-good": "exit 0"} {
		b.must(os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	}
	list, err := b.RunHealth(t.Context(), dir)
	want := "[{10-good true } {20-bad false status 3: last} {30-quiet false status 1} {40-good true }]"
	if fmt.Sprint(list) != want || err == nil || err.Error() != "health check 20-bad: status 3: last" {
		t.Errorf("%v, %v", list, err)
	}
	for name, mode := range map[string]os.FileMode{"60-dead.sh": 0o755, "70-off": 0o644, "README.md": 0o644, "50-new.dpkg-new": 0o644} {
		b.must(os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nexit 1\n"), mode))
	}
	b.said = nil
	_, _ = b.RunHealth(t.Context(), dir)
	const skipped = "health check 60-dead.sh is not run: a name has letters, digits, - and _ only\n" +
		"health check 70-off is not run: it is not executable\n"
	if said := strings.Join(b.said, "\n"); !strings.HasPrefix(said, skipped) || strings.Count(said, "not run") != 2 {
		t.Errorf("said %q", b.said)
	}
	if list, err := b.RunHealth(t.Context(), filepath.Join(dir, "none")); list != nil || err != nil {
		t.Errorf("no directory: %v, %v", list, err)
	}
	if err := b.Quiesce(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "20-bad") {
		t.Errorf("quiesce: %v", err)
	}
}

// How a wanted image stands, and that what runs is known by its digest once it
// has been looked for.
func TestCompare(t *testing.T) {
	b := newBench(t, false)
	v1, v2 := b.image("1", 0), b.image("2", 0)
	is := func(img Image, want string) {
		t.Helper()
		if got, _, err := b.Compare(t.Context(), img.Digest); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", img.Digest, got, err, want)
		}
	}
	is(v1, New)
	_ = b.Install(t.Context(), v1, Options{})
	is(v1, Runs)
	is(v2, New)
	b.must(b.Install(t.Context(), v2, Options{}))
	is(v2, Waits)
	if id := b.start(v1, v2); id != "demo_2" {
		t.Fatal(id)
	}
	is(v2, Runs)
	b.must(b.Bad(t.Context(), "no"))
	b.start(v1, v2)
	is(v2, HasBeen)
	_, err := b.Check(t.Context())
	b.must(err)
	is(v2, HasBeen)
	s, err := b.Status(t.Context())
	if err != nil || s.Trial || s.Waiting || s.Loader != "demo_1.efi" {
		t.Errorf("%+v, %v", s, err)
	}
}
