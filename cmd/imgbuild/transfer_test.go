package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"goldsmith/internal/command"
)

// An image goes from a build to a registry, to a layout, and back, and is the
// same disk with the same digest everywhere. Its signatures go with it.
func TestPushAndPull(t *testing.T) {
	server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	dir := t.TempDir()
	disk := bytes.Repeat([]byte("golden"), 50_000)
	sum := sha256.Sum256(disk)
	manifest := fmt.Sprintf(`{"name":"t","version":"1","arch":"amd64","elements":["a"],"outputs":[{"format":"raw","path":"t.raw","size":%d,"sha256":%q}]}`,
		len(disk), hex.EncodeToString(sum[:]))
	for name, content := range map[string][]byte{"t.raw": disk, "t.manifest.json": []byte(manifest)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if status := program().Run(t.Context(), args, command.IO{Stdout: &stdout, Stderr: &stderr}); status != 0 {
			t.Fatalf("imgbuild %s: status %d\n%s", strings.Join(args, " "), status, &stderr)
		}
		return strings.TrimSpace(stdout.String())
	}
	run("keys", "release", filepath.Join(dir, "keys"))
	private, public := filepath.Join(dir, "keys/release.key"), filepath.Join(dir, "keys/release.pub")
	layout := "oci:" + filepath.Join(dir, "images") + ":candidate"
	digest := run("push", filepath.Join(dir, "t.manifest.json"), host+"/images/t:candidate")
	for _, got := range []string{
		run("sign", host+"/images/t:candidate", "--key", private),
		run("verify", host+"/images/t:candidate", "--key", public),
		run("verify", host+"/images/t@"+digest, "--key", public),
		run("push", filepath.Join(dir, "t.manifest.json"), layout),
		run("sign", layout, "--key", private),
		run("push", layout, host+"/images/copy"),
		run("verify", host+"/images/copy@"+digest, "--key", public),
		run("pull", "-o", filepath.Join(dir, "a"), host+"/images/t:candidate"),
		run("pull", "-o", filepath.Join(dir, "b"), host+"/images/copy@"+digest),
		run("pull", "-o", filepath.Join(dir, "c"), layout),
	} {
		if got != digest && got != digest+" t 1" {
			t.Errorf("digest %s; want %s everywhere", got, digest)
		}
	}
	for _, d := range []string{"a", "b", "c"} {
		if got, err := os.ReadFile(filepath.Join(dir, d, "t.raw")); !bytes.Equal(got, disk) || err != nil {
			t.Errorf("%s/t.raw differs from the disk (%v)", d, err)
		}
	}
}
