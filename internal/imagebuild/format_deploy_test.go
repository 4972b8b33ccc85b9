package imagebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/element"
)

// deployElement makes an element of files.
func deployElement(t *testing.T, files map[string]string) *element.Element {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		mode := os.FileMode(0o755)
		if strings.HasPrefix(text, "plain") {
			mode = 0o644
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return &element.Element{Name: "e", Dir: dir}
}

func TestDeployParts(t *testing.T) {
	a := deployElement(t, map[string]string{"deploy.d/20-raid1": "#!/bin/sh\n", "binary-deps.d/a": "# what\nmdadm\nsh # too\n\n"})
	b := deployElement(t, map[string]string{"deploy.d/85-x": "x", "binary-deps.d/b": "sh"})
	got, err := readDeployParts([]*element.Element{a, b})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"20-raid1": []byte("#!/bin/sh\n"), "85-x": []byte("x")}
	if diff := cmp.Diff(want, got.steps); diff != "" || strings.Join(got.programs, " ") != "mdadm sh" {
		t.Errorf("programs %v, steps (-want +got):\n%s", got.programs, diff)
	}
	changed := &deployParts{steps: map[string][]byte{"20-raid1": []byte("x"), "85-x": []byte("x")}, programs: got.programs}
	if got.sum() == changed.sum() || got.sum() == (&deployParts{steps: got.steps}).sum() {
		t.Error("other parts have the same sum")
	}
	for want, files := range map[string]map[string]string{
		"deploy.d/raid1: a deploy step is named NN-name":          {"deploy.d/raid1": "x"},
		"deploy.d/20-x: a deploy step must be executable":         {"deploy.d/20-x": "plain"},
		`binary-deps.d/a: "a b": want a program's name on each l`: {"binary-deps.d/a": "a b"},
		`"/bin/sh": want a program's name`:                        {"binary-deps.d/a": "/bin/sh"},
	} {
		_, err := readDeployParts([]*element.Element{deployElement(t, files)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}

// Without the element that brings the agent there is no ramdisk.
func TestDeployRamdiskNeedsAgent(t *testing.T) {
	if _, err := agentOf(sampleTree()); err == nil || !strings.Contains(err.Error(), "imgagent is not in the image") {
		t.Errorf("%v", err)
	}
}
