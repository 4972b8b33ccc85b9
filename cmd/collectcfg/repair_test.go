package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is edited is restored however the command says where templates and files
// are.
func TestRestoreAnySpelling(t *testing.T) {
	program := filepath.Join(t.TempDir(), "applycfg")
	if text, err := exec.Command("go", "build", "-o", program, "../applycfg").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, where := range []string{"-t DIR/t -o DIR/out", "-t ./t -o out", "-t DIR//x/../t/ -o DIR//out/", "-t link -o out",
		"--templates=t --output ./out/.", "--json -t t -o out"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			restoreEdited(t, program, where)
		})
	}
}

func restoreEdited(t *testing.T, program, where string) {
	dir := t.TempDir()
	for path, text := range map[string]string{"t/etc/a": "v {{v}}\n", "local/m": `{"v": 1}`, "out/etc/none": "", "x/y": ""} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("t", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	apply := program + " " + strings.ReplaceAll(where, "DIR", dir)
	cmd := exec.Command("collectcfg", "--cachedir", "cache", "--local-path", "local", "--repair", "restore",
		"--repair-command", apply, "-c", apply, "local")
	var log strings.Builder
	cmd.Dir, cmd.Stderr = dir, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	right := func() bool {
		b, _ := os.ReadFile(dir + "/out/etc/a")
		return string(b) == "v 1\n"
	}
	made, restored := await(right, nil), false
	if made {
		restored = await(right, func() { // again, for the first may come before the watch
			if err := os.WriteFile(dir+"/out/etc/a", []byte("edited\n"), 0o644); err != nil {
				t.Error(err)
			}
		})
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !made || !restored {
		t.Errorf("%s: made %v, restored %v\n%s", where, made, restored, &log)
	}
}

// await waits until something is there, and does something before it looks, every
// two seconds.
func await(there func() bool, do func()) bool {
	for i := range 2000 {
		if i%200 == 0 && do != nil {
			do()
		}
		if there() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
