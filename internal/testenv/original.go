package testenv

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
)

// python is Debian's own, for which the originals are installed.
const python = "/usr/bin/python3"

// Python runs a program of the originals' language: in is JSON on its standard
// input, and out takes the JSON that it prints. environ is NAME=VALUE, beyond
// what the test has.
func Python(t testing.TB, program string, in, out any, environ []string, args ...string) {
	t.Helper()
	NeedFile(t, python)
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, append([]string{"-c", program}, args...)...)
	cmd.Env = append(os.Environ(), environ...)
	cmd.Stdin = bytes.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
}

// QemuImg has QEMU's own tool look for faults in an image, and compare it with
// the raw disk that it was made of. format is QEMU's word for the image's.
func QemuImg(t testing.TB, format, image, raw string) {
	t.Helper()
	Need(t, "qemu-img")
	for _, args := range [][]string{
		{"check", "-f", format, image},
		{"compare", "-f", "raw", "-F", format, raw, image},
	} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Errorf("qemu-img %s %s: %v\n%s", args[0], image, err, out)
		}
	}
}
