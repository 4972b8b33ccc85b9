package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A tree that does not fit its file systems fails with one clear line, and
// leaves nothing.
func TestDiskTooSmall(t *testing.T) {
	need(t, true)
	dir, cache := t.TempDir(), t.TempDir()
	mark := "GOLDSMITH_TEST_MARK=bad-" + filepath.Base(dir)
	env := append(dibEnv(t), mark, "XDG_CACHE_HOME="+cache, "DIB_IMAGE_SIZE=0.008", "DIB_JOURNAL_SIZE=4")
	status, out := program{[]string{"disk-image-create", "-n", "-o", filepath.Join(dir, "t"), "-t", "raw",
		"fake-os"}, env}.run(t)
	if status != 1 || !strings.Contains(out, "\ndisk-image-create: ") {
		t.Errorf("status %d; want 1, with one line", status)
	}
	checkEmpty(t, dir, mark, cache)
}

// A tarball that is cut off is fetched once more and then refused, by its
// element's file and line.
func TestCutOffSource(t *testing.T) {
	need(t, true)
	dir, cache := t.TempDir(), t.TempDir()
	tarball := filepath.Join(dir, "s.tar.gz")
	if err := os.WriteFile(tarball, []byte("\x1f\x8b\x08\x00cut off"), 0o644); err != nil {
		t.Fatal(err)
	}
	element := filepath.Join(dir, "elements", "source")
	if err := os.MkdirAll(element, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"element-deps":             "source-repositories\n",
		"source-repository-source": "source tar /opt/source file://" + tarball + " .\n",
	} {
		if err := os.WriteFile(filepath.Join(element, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mark := "GOLDSMITH_TEST_MARK=bad-" + filepath.Base(dir)
	env := append(dibEnv(t), mark, "XDG_CACHE_HOME="+cache, "HOME="+cache)
	env[0] += ":" + filepath.Dir(element)
	made := filepath.Join(dir, "made")
	status, out := program{[]string{"disk-image-create", "-n", "-o", filepath.Join(made, "t"), "-t", "tar", "fake-os",
		"source"}, env}.run(t)
	if status != 1 || !strings.Contains(out, "source-repository-source:1: source: ") ||
		!strings.Contains(out, "no tarball, or a broken one") {
		t.Errorf("status %d; want 1, with the file, the line and what is wrong", status)
	}
	checkEmpty(t, made, mark, cache)
}

// checkEmpty fails when a build that failed left an output, scratch space or
// a process.
func checkEmpty(t *testing.T, dir, mark, cache string) {
	t.Helper()
	checkGone(t, mark, cache)
	for _, pattern := range []string{filepath.Join(dir, "*"), filepath.Join(cache, "goldsmith/work/*")} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
