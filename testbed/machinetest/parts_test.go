package machinetest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/testbed"
)

func TestHeader(t *testing.T) {
	k := script(t, "10-a", "# a comment\n## goldsmith: {name: a, tags: [x, y], platforms: [metal], on: machine, timeout: 2m, reboots: true, console: [panic]}\ntrue")
	want := &Test{Path: k.Path, Element: "e", Name: "a", Tags: []string{"x", "y"}, Platforms: []string{"metal"}, On: OnMachine, Timeout: "2m", Reboots: true, Console: []string{"panic"}}
	if diff := cmp.Diff(want, k); diff != "" {
		t.Error(diff)
	}
	if k.timeout() != 2*time.Minute {
		t.Errorf("timeout %v", k.timeout())
	}
	if k := script(t, "plain", "true"); k.Alone() || k.On != OnHost || k.timeout() != DefaultTimeout {
		t.Errorf("without a header: %+v", k)
	}
	for line, alone := range map[string]bool{"{tags: [a]}": false, "{reboots: true, on: machine}": false, "{destructive: true}": true,
		"{shares: false}": true, "{shares: true}": false, "{shares: false, destructive: true}": true} {
		if k := script(t, "10-a", "## goldsmith: "+line); k.Alone() != alone {
			t.Errorf("%s: alone %v", line, k.Alone())
		}
	}
	for line, want := range map[string]string{
		"{colour: red}":                         "field colour not found",
		"":                                      "the header is empty",
		"{timeout: soon}":                       `timeout "soon"`,
		"{tags: [a b]}":                         `tags ["a b"]`,
		"{on: moon}":                            `on "moon"`,
		"{reboots: true}":                       "only a test on the machine",
		"{shares: true, destructive: true}":     "is not shared",
		"{platforms: [mars]}":                   `"mars": expected libvirt, qemu, metal`,
		"{console: [fire]}":                     `no pattern "fire"`,
		"{name: ../x}":                          `name "../x"`,
		"[1":                                    "header: ",
		"{tags: [a]}\n## goldsmith: {on: host}": "a second header",
	} {
		path := filepath.Join(t.TempDir(), "test")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n## goldsmith: "+line+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want %q", line, err, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("#!/bin/sh\n## goldsmith: {tags: [a]}\n"))
	f.Add([]byte("\x7fELF"))
	path := filepath.Join(f.TempDir(), "test")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
		if k, err := Read(path); err == nil && k.timeout() <= 0 {
			t.Errorf("timeout %v", k.timeout())
		}
	})
}

func TestSelectAndGroup(t *testing.T) {
	a, b := &Test{Name: "a", Tags: []string{"fast"}}, &Test{Name: "b", Destructive: true, Platforms: []string{"metal"}}
	c, d := &Test{Name: "c", Shares: new(bool), Tags: []string{"slow"}}, &Test{Name: "d"}
	all := []*Test{a, b, c, d}
	for _, s := range []struct {
		Selection
		want string
	}{
		{Selection{}, "abcd"}, {Selection{Platform: "libvirt"}, "acd"}, {Selection{Tags: []string{"fast", "slow"}}, "ac"},
		{Selection{Without: []string{"slow"}}, "abd"}, {Selection{Platform: "metal", Tags: []string{"x"}}, ""},
	} {
		chosen, skipped := s.Select(all)
		got := ""
		for _, k := range chosen {
			got += k.Name
		}
		if got != s.want || len(chosen)+len(skipped) != len(all) {
			t.Errorf("%+v: %q, skipped %v; want %q", s.Selection, got, skipped, s.want)
		}
	}
	groups := Groups(all)
	if len(groups) != 3 || len(groups[0]) != 2 || groups[0][1] != d || groups[1][0] != b {
		t.Errorf("groups %v", groups)
	}
}

// TestScan has a console for each pattern, and one on which nothing is bad.
func TestScan(t *testing.T) {
	for text, want := range map[string]string{
		"[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs":                    "panic",
		"imginit: BOOT FAILED: no root":                                                         "boot-failed",
		"You are in emergency mode. After logging in":                                           "emergency-shell",
		"[   10.0] Oops: 0000 [#1] SMP":                                                         "oops",
		"systemd[1]: sysinit.target: Found ordering cycle on a.service/start":                   "ordering-cycle",
		"[ 1.0] Out of memory: Killed process 12 (redis)":                                       "out-of-memory",
		"[ 1.0] INFO: task jbd2:12 blocked for more than 120 seconds":                           "hung-task",
		"[ 1.0] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!":                              "lockup",
		"[ 1.0] mce: [Hardware Error]: Machine check events logged":                             "hardware-error",
		"[ 1.0] blk_update_request: I/O error, dev sda, sector 2048":                            "io-error",
		"[ 1.0] Buffer I/O error on dev sda1, logical block 1":                                  "io-error",
		"[ 1.0] device-mapper: verity: 254:3: data block 7 is corrupted":                        "verity",
		"[ 1.0] EXT4-fs error (device vda5): ext4_lookup:1855":                                  "file-system",
		"\x1b[0;1msystemd[33]: /usr/lib/systemd/system-generators/x failed with exit status 1.": "generator",
		"[ 1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:12":                                        "kernel-warning",
		"[ 1.0] redis-server[312]: segfault at 0 ip 00 sp 00 error 4":                           "segfault",
		"[ 1.0] EXT4-fs (vda5): Remounting filesystem read-only":                                "read-only",
	} {
		found := Scan("all is well\r\n" + text + "\r\nlogin: ")
		if len(found) == 0 || found[0].Name != want {
			t.Errorf("%s: %v; want %s", text, found, want)
		}
		if found := Scan(text, want); len(found) > 0 && found[0].Name == want {
			t.Errorf("%s: found although it is expected", want)
		}
	}
	good := "[    0.5] Linux version 6.1\n[ 1.0] EXT4-fs (vda5): mounted filesystem\nWelcome to Debian!\n[  OK  ] Reached target multi-user\nlogin: panic\nkilled by oom? no\n"
	if found := Scan(good); len(found) > 0 {
		t.Errorf("a good console: %v", found)
	}
	if found := Scan("Kernel panic - not syncing: \x1b[31m\x07red"); strings.ContainsAny(found[0].Line, "\x1b\x07") {
		t.Errorf("%q commands a terminal", found[0].Line)
	}
}

func TestClassify(t *testing.T) {
	fault := &testbed.Fault{Kind: testbed.Silent, Machine: "m", Doing: "power on", Err: io.EOF}
	panics := Finding{"panic", "Kernel panic", evidence.ImageFault}
	disk := Finding{"io-error", "I/O error, dev sda", evidence.Infra}
	for _, c := range []struct {
		err   error
		found []Finding
		want  evidence.Class
	}{
		{errors.Join(fault, io.EOF), []Finding{panics}, evidence.Infra},
		{&testbed.RemoteError{Status: 1}, nil, evidence.TestFault},
		{&command.ExitError{Args: []string{"x"}, Status: 1}, nil, evidence.TestFault},
		{&testbed.RemoteError{Status: 1}, []Finding{panics}, evidence.ImageFault},
		{&testbed.UnreachableError{Addr: "a", Err: io.EOF}, []Finding{panics, disk}, evidence.Infra},
		{&testbed.UnreachableError{Addr: "a", Err: io.EOF}, nil, evidence.Unknown},
		{nil, []Finding{panics}, evidence.ImageFault},
		{context.Canceled, nil, evidence.Unknown},
		{errLate, nil, evidence.TestFault},
	} {
		if got, because := Classify(c.err, c.found); got != c.want || because == "" {
			t.Errorf("%v, %v: %s, %q; want %s", c.err, c.found, got, because, c.want)
		}
	}
}

func TestSnoozes(t *testing.T) {
	read := func(text string) (*Snoozes, error) {
		file := filepath.Join(t.TempDir(), "snoozes.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadSnoozes(file)
	}
	const good = "snoozes:\n  - {test: redis/*, url: 'https://example.org/issues/7', until: 2026-12-31, platforms: [metal]}\n"
	s, err := read(good)
	if err != nil {
		t.Fatal(err)
	}
	k := &Test{Element: "redis", Name: "10-ping"}
	last := time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC)
	for _, c := range []struct {
		t        *Test
		platform string
		now      time.Time
		want     bool
	}{
		{k, "metal", last, true}, {k, "metal", last.Add(time.Minute), false}, {k, "libvirt", last, false}, {&Test{Name: "10-ping"}, "metal", last, false},
	} {
		if got := s.Find(c.t, c.platform, c.now) != nil; got != c.want {
			t.Errorf("%s on %s at %v: snoozed %v", c.t.Label(), c.platform, c.now, got)
		}
	}
	if len(s.Expired(last)) != 0 || len(s.Expired(last.Add(time.Minute))) != 1 {
		t.Error("Expired is wrong")
	}
	for from, want := range map[string]string{"url: 'https://example.org/issues/7', ": "snoozes.yaml:2: snooze of redis/*: url", ", until: 2026-12-31": "until", "test: redis/*, ": "test"} {
		if _, err := read(strings.Replace(good, from, "", 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v", from, err)
		}
	}
}

// What others say becomes one printable line.
func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"fine":                            "fine",
		"a\nimgpipe: promote ok\x1b[2J\r": "a imgpipe: promote ok [2J",
		strings.Repeat("x", 2*maxLine):    strings.Repeat("x", maxLine) + "…",
		"\xff\xfe invalid":                "invalid",
		"  tab\tinside ":                  "tab inside",
	} {
		if got := OneLine(strings.ToValidUTF8(in, "")); got != want {
			t.Errorf("OneLine(%q) = %q; want %q", in, got, want)
		}
	}
}
