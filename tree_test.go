// Package goldsmith_test holds the tree itself to its rules: imports point one
// way, and every package says once what it is for.
package goldsmith_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// layers is the order of imports, bottom up. A package may import those of
// the lines above its own and none of its own line or below. It is the same
// picture as in docs/architecture.md. Do not move a line to make a build pass:
// find out first why the edge is there.
const layers = `
	internal/command internal/testenv internal/verity/superblock internal/drift internal/earlyboot
	internal/yaml11 internal/collectcfg/oslo internal/deploy internal/argparse internal/bootentry internal/verity internal/secureboot
	internal/atomicfile internal/filelock internal/dpkg internal/tree internal/metadata internal/element internal/evidence internal/sparse internal/vhd internal/yamlfile internal/pkgmap internal/hooklib internal/release internal/blocklog internal/chunk internal/disk/gpt internal/size
	internal/qcow2 internal/vmdk internal/tarball internal/template internal/hook internal/layer internal/download internal/deb internal/pkginstall internal/svcmap internal/dibargs internal/registry internal/trust internal/filelist internal/sbom internal/osv internal/erofs internal/ext4 internal/fat internal/iso9660 internal/uki internal/initramfs internal/blockdevice internal/store internal/machineapi pipeline testbed
	internal/applycfg internal/apt internal/rootfs internal/sourcerepo internal/update/fetch internal/lint internal/report internal/disk internal/baseimage internal/seed internal/vm internal/store/storetest testbed/testbedtest testbed/lan testbed/netboot testbed/inventory testbed/machinetest
	internal/bootstrap internal/schema
	internal/refreshcfg internal/collectcfg internal/imagebuild internal/imagediff internal/update internal/deploy/agent testbed/ipmi testbed/libvirt testbed/qemu testbed/vbmc pipeline/engine
	testbed/metal internal/attest
	internal/promotion
	pipeline/step internal/api
	cmd/applycfg cmd/refreshcfg cmd/collectcfg cmd/imgbuild cmd/imgagent cmd/imginit cmd/imgpipe cmd/imgtools cmd/imgupdate
	tests
`

// testOnly are packages that nothing but tests may import.
var testOnly = []string{"internal/testenv", "internal/store/storetest", "testbed/testbedtest", "tests"}

// parse reads every Go file of the tree: package directory → files.
func parse(t *testing.T) map[string]map[string]*ast.File {
	t.Helper()
	fset := token.NewFileSet()
	out := map[string]map[string]*ast.File{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && p != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := path.Dir(p)
		if out[dir] == nil {
			out[dir] = map[string]*ast.File{}
		}
		out[dir][p] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportOrder(t *testing.T) {
	rank := map[string]int{}
	for i, line := range strings.Split(strings.TrimSpace(layers), "\n") {
		for p := range strings.FieldsSeq(line) {
			rank[p] = i
		}
	}
	for dir, files := range parse(t) {
		if dir == "." {
			continue
		}
		if _, ok := rank[dir]; !ok {
			t.Errorf("%s has no place in the order of imports: give it one here and in docs/architecture.md", dir)
			continue
		}
		for name, f := range files {
			isTest := strings.HasSuffix(name, "_test.go")
			for _, spec := range f.Imports {
				to, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), "goldsmith/")
				if !ours || to == dir {
					continue
				}
				if !isTest && rank[to] >= rank[dir] {
					t.Errorf("%s imports %s, which is not below %s", name, to, dir)
				}
				if !isTest && slices.Contains(testOnly, to) && !slices.Contains(testOnly, dir) {
					t.Errorf("%s imports %s, which is for tests only", name, to)
				}
			}
		}
	}
	for p := range rank {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("%s is in the order of imports and not in the tree", p)
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	for dir, files := range parse(t) {
		var with []string
		onlyTests := true
		for name, f := range files {
			if f.Doc != nil {
				with = append(with, name)
			}
			if !strings.HasSuffix(name, "_test.go") {
				onlyTests = false
			}
		}
		if len(with) != 1 && !(onlyTests && len(with) == 0) {
			t.Errorf("%s: package comment in %v; want exactly one", dir, with)
		}
	}
}

// No output, message or document names the machine, the tools or the registry
// that happened to be used here.
func TestNothingOfTheBuildMachine(t *testing.T) {
	// Put together at run time, so that this file does not match itself.
	forbidden := []string{"/work" + "/main", "deb.debian" + ".org", "proxy.golang" + ".org", "registry.npmjs" + ".org"}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (p == ".git" || p == "bin" || p == ".goldsmith") {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() || p == ".git" { // a further work tree's
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, word := range forbidden {
			if strings.Contains(string(b), word) {
				t.Errorf("%s names %s", p, word)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var docName = regexp.MustCompile(`docs/[a-z-]+\.md`)

// Every document that is named anywhere is there.
func TestNamedDocumentsExist(t *testing.T) {
	for _, top := range []string{"README.md", "Makefile", "cmd", "internal", "pipeline", "testbed", "elements", "docs", "ci", "tests"} {
		err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for _, doc := range docName.FindAllString(string(b), -1) {
				if _, err := os.Stat(doc); err != nil {
					t.Errorf("%s names %s, which is not there", p, doc)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
