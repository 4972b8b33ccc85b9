package imagebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/secureboot"
)

func TestLoadDefinition(t *testing.T) {
	const head = "name: t\nrelease: bookworm\nelements: [debian]\n"
	for in, want := range map[string]string{
		head:                                 "",
		"release: bookworm\nelements: [a]\n": "f:1: name is missing",
		"name: T\nrelease: b\nelements: [a]": `f:1: name "T": lower case letters, digits, '.' and '-' only`,
		"name: t\nrelease: b\n":              "f:1: elements is empty: an image needs at least an operating system element",
		head + "arch: arm64":                 `f:4: arch "arm64": only amd64 can be built for now`,
		head + "mirror: ftp://x":             `f:4: mirror "ftp://x": expected an http, https or file URI, or a 'deb …' line`,
		head + "mirror: http://x/debian":     "",
		head + "mirror: [http://x/debian, 'deb http://x/security bookworm-security main']": "",
		head + "size: 4 GB": `f:4: size "4 GB": expected a whole number of MiB, GiB or TiB, such as 4GiB`,
		head + "mirror:\n- http://x/debian\n- 'ftp://x'": `f:6: mirror "ftp://x": expected an http, https or file URI, or a 'deb …' line`,
		head + "size: 4GiB":                               "",
		head + "state: [/var, /etc/*/x]":                  `f:4: state "/etc/*/x": *, ? and [ may be in the last part only`,
		head + "state: [/usr]":                            `f:4: state "/usr": /usr cannot be kept on the state partition`,
		head + "state:\n- /var\n- /proc":                  `f:6: state "/proc": /proc cannot be kept on the state partition`,
		head + "state: [/srv, /srv/a]":                    `f:4: state "/srv/a": overlaps /srv`,
		head + "state: [/a/b, /c, /a]":                    `f:4: state "/a": overlaps /a/b`,
		head + "state: [/a b]":                            `f:4: state "/a b": expected an absolute directory without blanks`,
		head + "state: [/]":                               `f:4: state "/": expected an absolute directory without blanks`,
		head + "state: [/user, /etcx]":                    "",
		head + "size: 9999999TiB":                         `f:4: size "9999999TiB": larger than any disk`,
		head + "size: 8388608TiB":                         `f:4: size "8388608TiB": larger than any disk`,
		head + "size: 9999999GiB":                         "",
		head + "outputs: []":                              "f:4: outputs is empty: expected some of " + strings.Join(formatNames(), ", "),
		head + "outputs: [raw, raw]":                      "f:4: output raw: there is already a file NAME.raw",
		head + "outputs: [raw, erofs]":                    "",
		head + "environment:\n  A: '1'\n  TARGET_ROOT: /": "f:6: environment TARGET_ROOT: the builder sets it itself",
		head + "environment: {TMP_MOUNT_PATH: /}":         "f:4: environment TMP_MOUNT_PATH: the builder sets it itself",
		head + "environment: {PATH: /bin}":                "f:4: environment PATH: the builder sets it itself",
		head + "environment: {DIB_RELEASE: sid}":          "f:4: environment DIB_RELEASE: the builder sets it itself",
		head + "environment: {DIB_OFFLINE: '1', DIB_DEV_USER_USERNAME: me, http_proxy: 'http://p'}": "",
		head + `environment: {A: "\0"}`:                              "f:4: environment A: a value cannot hold a zero byte",
		head + "packages: ['-o', 'b']":                               `f:4: package "-o": not a package name`,
		head + "environment: {A-B: '1'}":                             `f:4: environment "A-B": not a variable name`,
		head + "modules: vm":                                         "",
		head + "modules: tiny":                                       `f:4: modules "tiny": expected servers or vm`,
		head + "secure-boot:\n  key: k":                              "f:5: secure-boot: certificate is missing",
		head + "secure-boot: {key: k, certificate: c, enroll: keys}": "",
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := LoadDefinition(file)
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), file, "f")
		}
		if got != want {
			t.Errorf("LoadDefinition(%q) = %q; want %q", in, got, want)
		}
	}
}

// Keys are found beside the definition, and looked at before a build.
func TestSecureBoot(t *testing.T) {
	dir := t.TempDir()
	keys, err := secureboot.MakeKeys(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range keys {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func(key string) *SecureBoot {
		text := "name: t\nrelease: bookworm\nelements: [debian]\nsecure-boot: {key: " + key + ", certificate: db.crt, enroll: .}\n"
		file := filepath.Join(dir, "image.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := LoadDefinition(file)
		if err != nil {
			t.Fatal(err)
		}
		return d.SecureBoot
	}
	s := load("db.key")
	var c disk.Config
	if err := s.addTo(&c); err != nil || c.Signer == nil || len(c.Enroll) != 3 || string(c.Enroll["PK.auth"]) != string(keys["PK.auth"]) {
		t.Errorf("%v: %d files to enrol", err, len(c.Enroll))
	}
	before, err := s.sum()
	if err != nil || before == "" {
		t.Errorf("sum %q, %v", before, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "db.auth"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if after, err := s.sum(); err != nil || after == before {
		t.Errorf("sum after a change: %q, %v", after, err)
	}
	for key, want := range map[string]string{"PK.key": "do not belong together", "none": "no such file", "/dev/zero": "not a file of a key"} {
		if err := load(key).addTo(&c); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", key, err, want)
		}
	}
	if sum, err := (*SecureBoot)(nil).sum(); sum != "" || err != nil || (*SecureBoot)(nil).addTo(&c) != nil {
		t.Errorf("without keys: %q, %v", sum, err)
	}
}

func TestDefaults(t *testing.T) {
	d, err := LoadDefinition("../../ci/demo/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := &Definition{Name: "demo", Version: "1", Arch: "amd64", Release: "bookworm", Outputs: []string{"raw"},
		Elements: []string{"debian", "boot", "read-only-root", "network", "ssh-server", "redis"}}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("the demo's definition (-want +got):\n%s", diff)
	}
}
