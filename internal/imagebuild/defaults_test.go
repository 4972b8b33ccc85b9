package imagebuild

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"goldsmith/internal/element"
	"goldsmith/internal/pkginstall"
)

// What packages depend on may be a variable to which environment.d gives a
// default; the definition's value, and the first file's, come first.
func TestAddDefaults(t *testing.T) {
	var elements []*element.Element
	for name, text := range map[string]string{
		"a/environment.d/20-late":  "export FIRST=${FIRST:-late}\n",
		"b/environment.d/10-early": "# text\nexport FIRST=${FIRST:-early}\nexport QUOTED=\"${QUOTED:-a/b-1.2}\" # why\n",
		"c/environment.d/30-other": "export GIVEN=${GIVEN:-x}\n  export INDENTED=${INDENTED:-x}\nexport OTHER=${ANOTHER:-x}\n" +
			"export RUN=${RUN:-$(id)}\nexport FIXED=x\nexport NONE=${NONE:-}\n",
	} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		elements = append(elements, &element.Element{Dir: filepath.Dir(filepath.Dir(path))})
	}
	env := pkginstall.Environment{"GIVEN": "given"}
	if err := addDefaults(env, elements); err != nil {
		t.Fatal(err)
	}
	want := pkginstall.Environment{"FIRST": "early", "QUOTED": "a/b-1.2", "GIVEN": "given", "NONE": ""}
	if !maps.Equal(env, want) {
		t.Errorf("got %v, want %v", env, want)
	}
}
