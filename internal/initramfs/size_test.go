package initramfs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// With Debian's kernel, the initramfs of virtual machines is below 2 MB, and
// that of servers does not grow unseen.
func TestSize(t *testing.T) {
	kernels, _ := filepath.Glob("/usr/lib/modules/6.1.*-amd64/modules.dep")
	if len(kernels) == 0 {
		testenv.Missing(t, "no modules of a kernel of Debian 12")
	}
	dir := filepath.Dir(kernels[len(kernels)-1])
	init := filepath.Join(t.TempDir(), "imginit")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-gcflags=all=-l", "-ldflags=-s -w -buildid=", "-o", init, "goldsmith/cmd/imginit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build imginit: %v\n%s", err, out)
	}
	program, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	modules, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	root := tree.New()
	for _, e := range modules.All() {
		if e.Kind() == tree.ModeRegular {
			moved := *e
			moved.Path = dir[1:] + "/" + e.Path
			root.AddParents(moved.Path)
			root.Add(&moved)
		}
	}
	for name, c := range map[string]struct {
		drivers []string
		most    int
	}{"vm": {VMDrivers, 2e6}, "servers": {Drivers, 3.5e6}} {
		var archive, packed bytes.Buffer
		plan, err := Build(&archive, Config{Init: program, Root: root, Kernel: filepath.Base(dir), Drivers: c.drivers, State: []string{"/var"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := Compress(&packed, archive.Bytes()); err != nil {
			t.Fatal(err)
		}
		if packed.Len() > c.most {
			t.Errorf("%s: %d bytes, want %d at most", name, packed.Len(), c.most)
		}
		t.Logf("%s: %d bytes, %d modules, imginit %d bytes", name, packed.Len(), len(plan.Modules), len(program))
		for _, d := range c.drivers {
			if plan.Modules[d] == nil {
				t.Logf("%s: no module %s", name, d)
			}
		}
	}
}
