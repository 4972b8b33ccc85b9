package initramfs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// deployRoot is a tree with a kernel's modules, a shell and a program that is
// linked with a library.
func deployRoot(t *testing.T) *tree.Tree {
	t.Helper()
	root := tree.New()
	dir := "usr/lib/modules/6.1/"
	for name, text := range map[string]string{
		dir + "modules.dep":      "net/af_packet.ko:\nmd/raid1.ko: md/md-mod.ko\nmd/md-mod.ko:\nnet/tg3.ko:\n",
		dir + "modules.alias":    "alias pci:v14E4* tg3\n",
		dir + "net/af_packet.ko": "x", dir + "md/raid1.ko": "x", dir + "md/md-mod.ko": "x",
		dir + "net/tg3.ko":               "\x7fELF\x00firmware=tigon/tg3.bin\x00\x00firmware=tigon/other.bin\x00",
		"usr/lib/firmware/tigon/tg3.bin": "firmware",
	} {
		root.AddParents(name)
		root.AddFile(name, 0o644, []byte(text))
	}
	for _, link := range []string{"bin", "lib", "lib64", "sbin"} {
		root.Add(&tree.Entry{Path: link, Mode: tree.ModeSymlink | 0o777, Target: "usr/" + link})
	}
	return root
}

// addLinked compiles a program that needs a library, which needs another one.
func addLinked(t *testing.T, root *tree.Tree) {
	t.Helper()
	testenv.Need(t, "cc")
	dir := t.TempDir()
	for name, text := range map[string]string{"a.c": "int a(void) { return 0; }", "b.c": "int a(void); int b(void) { return a(); }",
		"p.c": "int b(void); int main(void) { return b(); }"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := "cc -nostdlib -shared -o liba.so.1.0 -Wl,-soname,liba.so.1 a.c && ln -s liba.so.1.0 liba.so.1 &&" +
		"cc -nostdlib -shared -o libb.so b.c liba.so.1.0 && cc -nostdlib -e main -o p p.c libb.so liba.so.1.0"
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for from, to := range map[string]string{"p": "usr/sbin/p", "libb.so": "usr/lib/libb.so", "liba.so.1.0": "usr/lib/x86_64-linux-gnu/liba.so.1.0"} {
		b, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			t.Fatal(err)
		}
		root.AddParents(to)
		root.AddFile(to, 0o755, b)
	}
	root.Add(&tree.Entry{Path: "usr/lib/x86_64-linux-gnu/liba.so.1", Mode: tree.ModeSymlink | 0o777, Target: "liba.so.1.0"})
	root.AddParents("usr/lib64/x")
	root.AddFile("usr/lib64/ld-linux-x86-64.so.2", 0o755, []byte("loader"))
	root.AddParents("usr/bin/x")
	root.AddFile("usr/bin/dash", 0o755, []byte("dash"))
	root.Add(&tree.Entry{Path: "usr/bin/sh", Mode: tree.ModeSymlink | 0o777, Target: "dash"})
}

// The ramdisk has what its parts need, and the links that lead there, and
// nothing else; twice the same.
func TestBuildDeploy(t *testing.T) {
	root := deployRoot(t)
	addLinked(t, root)
	root.AddFile("usr/bin/other", 0o755, []byte("not wanted"))
	c := Deploy{Init: []byte("init"), Root: root, Kernel: "6.1", Programs: []string{"p"},
		Steps: map[string][]byte{"20-raid1": []byte("#!/bin/sh\nexec p\n")}}
	var a, b bytes.Buffer
	plan, err := BuildDeploy(&a, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := BuildDeploy(&b, c); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("twice is not the same (%v)", err)
	}
	if strings.Join(plan.Load, " ") != "af_packet raid1" || plan.Modules["tg3"] == nil || plan.Modules["md_mod"] == nil {
		t.Errorf("plan %+v", plan)
	}
	out := t.TempDir()
	testenv.Need(t, "cpio")
	cmd := exec.Command("cpio", "-id", "--quiet")
	cmd.Dir, cmd.Stdin = out, bytes.NewReader(a.Bytes())
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	for _, name := range []string{"init", "imginit.conf", "modules/tg3.ko", "usr/lib/firmware/tigon/tg3.bin", "usr/sbin/p",
		"usr/lib/libb.so", "usr/lib/x86_64-linux-gnu/liba.so.1", "lib64/ld-linux-x86-64.so.2", "bin/sh",
		"usr/lib/goldsmith/deploy.d/20-raid1"} {
		if fi, err := os.Stat(filepath.Join(out, name)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(out, "usr/bin/other")); err == nil {
		t.Error("a program that nobody wants is there")
	}
}

func TestBuildDeployRefuses(t *testing.T) {
	for want, change := range map[string]func(*Deploy){
		"no program for /init":                       func(c *Deploy) { c.Init = nil },
		"program nothing: nothing: not in the image": func(c *Deploy) { c.Programs = []string{"nothing"} },
		"want a program's name":                      func(c *Deploy) { c.Programs = []string{"../x"} },
		"step 20-x: bin: not in the image":           func(c *Deploy) { c.Root.Remove("bin"); c.Steps = map[string][]byte{"20-x": []byte("#!/bin/sh\n")} },
		"too many links":                             func(c *Deploy) { c.Programs = []string{"loop"} },
		"names no interpreter":                       func(c *Deploy) { c.Steps = map[string][]byte{"20-x": []byte("#!\n")} },
		"not_there: not in the image":                func(c *Deploy) { c.Steps = map[string][]byte{"20-x": []byte("#!/usr/bin/env not_there\n")} },
	} {
		root := deployRoot(t)
		root.AddParents("usr/sbin/loop")
		root.Add(&tree.Entry{Path: "usr/sbin/loop", Mode: tree.ModeSymlink | 0o777, Target: "/usr/sbin/loop"})
		c := Deploy{Init: []byte("init"), Root: root, Kernel: "6.1"}
		change(&c)
		if _, err := BuildDeploy(&bytes.Buffer{}, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
