package imagebuild

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// hooksTree writes files below dir; a name that ends in "*" is executable.
func hooksTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		mode := os.FileMode(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		}
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// root.d hooks are told nothing of the image that others may not share.
func TestBaseEnvironment(t *testing.T) {
	b := &build{def: &Definition{Name: "secret", Version: "7"}, work: &work{}, cache: &cache{}}
	for p, want := range map[phase][]string{
		rootPhase:     {"IMAGE_NAME=image", "IMAGE_VERSION=0"},
		diskPhases[1]: {"IMAGE_NAME=secret", "IMAGE_VERSION=7"},
	} {
		for _, w := range want {
			if env := b.stageFor(p, "/").environment(p); !slices.Contains(env, w) {
				t.Errorf("%s: %s is not in %q", p.name, w, env)
			}
		}
	}
}

func TestNewestBefore(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for name, at := range map[string]time.Time{
		"old": now.Add(-48 * time.Hour), "newest": now.Add(-24*time.Hour + 300*time.Millisecond),
		"made by this build": now.Add(time.Second), "made just before": now.Add(-time.Second),
	} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	// Neither links nor directories have a packager's time.
	if err := os.Symlink("old", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	got, _, err := newestBefore(dir, now)
	if want := now.Add(-24 * time.Hour); !got.Equal(want) || err != nil {
		t.Errorf("newestBefore = %v, %v; want %v", got, err, want)
	}
	if got, _, err := newestBefore(t.TempDir(), now); !got.Equal(time.Unix(0, 0)) || err != nil {
		t.Errorf("newestBefore of nothing = %v, %v; want the epoch", got, err)
	}
}

func TestCheckClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for newest, bad := range map[time.Time]bool{
		{}: false, now: false, now.Add(23 * time.Hour): false, now.Add(25 * time.Hour): true,
	} {
		if err := checkClock(newest, now); (err != nil) != bad {
			t.Errorf("%s: %v", newest, err)
		}
	}
}
