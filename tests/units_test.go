package tests

import (
	"os"
	"path/filepath"
	"testing"
)

// The packages' units work under a real systemd, as confined as they are: the
// server serves, a network, too, and a worker does what a stage asks for.
func TestUnits(t *testing.T) {
	need(t, false)
	dir := t.TempDir()
	element := filepath.Join(dir, "elements/units")
	if err := os.CopyFS(element, os.DirFS("testdata/units")); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{"install.d/50-units", "smoke.d/50-units", "static/srv/pipelines/what-builds-need"} {
		if err := os.Chmod(filepath.Join(element, script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	debs := filepath.Join(element, "static/opt/goldsmith")
	makeDebs(t, debs)
	for path, text := range map[string]string{
		"static/srv/pipelines/ramdisk.vmlinuz": "", "static/srv/pipelines/ramdisk.initrd": "",
		"../../image.yaml": "name: units\nversion: \"1\"\nrelease: bookworm\nelements: [debian, boot, read-only-root, network, ssh-server, units]\n" +
			"environment: {BOOT_KERNEL: cloud}\nsize: 3GiB\noutputs: [raw]\n",
		"../../pipeline.yaml": "apiVersion: goldsmith/v1\nname: units\nstages:\n- {name: build, uses: build, with: {definition: image.yaml}}\n" +
			"- {name: smoke, uses: smoke, timeout: 15m}\n",
	} {
		if err := os.WriteFile(filepath.Join(element, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	status, _ := program{[]string{"imgpipe", "run", "--dir", filepath.Join(dir, "runs"), filepath.Join(dir, "pipeline.yaml")},
		[]string{elements(t) + ":" + filepath.Join(dir, "elements")}}.run(t)
	if status != 0 {
		for _, f := range []string{"log", "tests/units/50-units/log"} {
			text, _ := os.ReadFile(filepath.Join(dir, "runs/runs/1/smoke/1", f))
			t.Logf("%s:\n%s", f, text)
		}
		t.Errorf("status %d", status)
	}
}
