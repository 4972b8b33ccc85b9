package collectcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

func files(t *testing.T, dir string, content map[string]string) string {
	t.Helper()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fake is a source that delivers one document of one value.
type fake struct {
	value string
	err   error
}

func (f *fake) Collect(context.Context) ([]Document, error) {
	if f.err != nil {
		return nil, f.err
	}
	return []Document{document("fake", []byte(f.value))}, nil
}

// runner collects from f; its command appends what it sees to a file.
func runner(t *testing.T, f *fake) (r *Runner, log *bytes.Buffer, ran func() string) {
	dir := t.TempDir()
	out := filepath.Join(dir, "ran")
	log = &bytes.Buffer{}
	r = &Runner{
		Cache:   &Cache{Dir: filepath.Join(dir, "cache")},
		Sources: []Source{{"fake", f}},
		Command: `[ -e "` + dir + `/fail" ] && exit 7; tr -d '\n ' <$OS_CONFIG_FILES >>` + out,
		Min:     time.Second, Max: 4 * time.Second, Log: log,
		Say: func(format string, args ...any) { fmt.Fprintf(log, format+"\n", args...) },
	}
	return r, log, func() string {
		b, _ := os.ReadFile(out)
		_ = os.Remove(out)
		return string(b)
	}
}

func TestOnce(t *testing.T) {
	f := &fake{value: `{"a": 1}`}
	r, _, ran := runner(t, f)
	fail := filepath.Join(filepath.Dir(r.Cache.Dir), "fail")
	for i, step := range []struct {
		value string
		fail  bool
		boot  string
		force bool
		want  string // what the command saw; "" when it was not to run
	}{
		{value: `{"a": 1}`, want: `{"a":1}`},
		{value: `{"a": 1}`},
		{value: `{"a" :1  }`},
		{value: `{"a": 1}`, force: true, want: `{"a":1}`},
		{value: `{"a": 2}`, fail: true, want: "failed"},
		{value: `{"a": 2}`, fail: true, want: "failed"},
		{value: `{"a": 2}`, want: `{"a":2}`},
		{value: `{"a": 2}`},
		{value: `{"a": 2}`, boot: "b1", fail: true, want: "failed"},
		{value: `{"a": 2}`, boot: "b1", want: `{"a":2}`},
		{value: `{"a": 2}`, boot: "b1"},
		{value: `{"a": 2}`, boot: "b2", want: `{"a":2}`},
		{value: `{"a": `, want: `{"a":`}, // broken metadata reach the command
	} {
		f.value, r.Boot, r.Force = step.value, step.boot, step.force
		_ = os.Remove(fail)
		if step.fail {
			files(t, filepath.Dir(fail), map[string]string{"fail": ""})
		}
		changed, err := r.Once(t.Context())
		got := ran()
		if e, ok := errors.AsType[*CommandError](err); ok && e.Status() == 7 {
			got = "failed"
		} else if err != nil {
			t.Fatal(err)
		}
		if got != step.want || changed != (step.want != "") {
			t.Errorf("step %d: command saw %q, changed %v; want %q", i, got, changed, step.want)
		}
	}
}

func TestCacheFiles(t *testing.T) {
	c := Cache{Dir: filepath.Join(t.TempDir(), "deep/cache")}
	v, err := metadata.Parse("x", []byte(`{"b":1,"a":[]}`))
	if err != nil {
		t.Fatal(err)
	}
	paths, changed, err := c.Store([]Document{{Name: "x", Value: v, Keep: map[string][]byte{"x.more": []byte("m")}}, {Name: "y", Raw: []byte("{")}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{c.Dir + "/x.json", c.Dir + "/y.json"}, paths); d != "" {
		t.Errorf("paths (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"x", "y"}, changed); d != "" {
		t.Errorf("changed (-want +got):\n%s", d)
	}
	if err := c.Commit([]string{"x"}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v; want 0600", e.Name(), fi.Mode(), err)
		}
		b, _ := os.ReadFile(filepath.Join(c.Dir, e.Name()))
		got[e.Name()] = string(b)
	}
	x := "{\n \"b\": 1,\n \"a\": []\n}"
	list := `["` + c.Dir + `/x.json", "` + c.Dir + `/y.json"]`
	want := map[string]string{
		"x.json": x, "x.json.orig": x, "x.json.last": x, "x.more": "m", "y.json": "{", "y.json.orig": "{",
		"os_config_files.json": list, "os_config_files.json.last": list,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cache (-want +got):\n%s", d)
	}
	if fi, err := os.Stat(c.Dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the cache has mode %v, %v; want 0700", fi.Mode(), err)
	}
	for _, name := range []string{"../x", "a/b", "..", "", "os_config_files"} {
		if _, _, err := c.Store([]Document{{Name: name}}); command.Status(err) != command.StatusUsage {
			t.Errorf("a document called %q: %v", name, err)
		}
	}
}

func TestPollBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{err: errors.New("cannot read")}
		r, log, _ := runner(t, f)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := r.Poll(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Poll = %v", err)
		}
		want := "source fake: cannot read; trying again in 1s\nsource fake: cannot read; trying again in 2s\n" +
			"source fake: cannot read; trying again in 4s\nsource fake: cannot read; trying again in 4s\n"
		if d := cmp.Diff(want, log.String()); d != "" {
			t.Errorf("log (-want +got):\n%s", d)
		}
	})
}

func TestUnavailableIsSaidOnce(t *testing.T) {
	r, log, ran := runner(t, &fake{err: unavailable{errors.New("not there")}})
	for range 3 {
		if changed, err := r.Once(t.Context()); changed || err != nil {
			t.Fatal(changed, err)
		}
	}
	if log.String() != "source fake: not there\n" || ran() != "" {
		t.Errorf("log %q", log)
	}
}

func TestLocal(t *testing.T) {
	dir := files(t, t.TempDir(), map[string]string{"b": `{"x":1}`, "a.json": `[2]`, ".hidden": "x", "sub/y": "{}", "broken": "{"})
	more := files(t, t.TempDir(), map[string]string{"aa": "3"})
	docs, err := Local{Dirs: []string{dir, filepath.Join(dir, "none"), more}}.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range docs {
		got = append(got, fmt.Sprintf("%s %s %s", d.Name, metadata.JSON(d.Value), d.Raw))
	}
	if d := cmp.Diff([]string{"a.json [2] ", "aa 3 ", `b {"x": 1} `, "broken null {"}, got); d != "" {
		t.Errorf("documents (-want +got):\n%s", d)
	}
	if _, err := (Local{Dirs: []string{filepath.Join(dir, "none")}}).Collect(t.Context()); !IsUnavailable(err) {
		t.Errorf("no directory: %v", err)
	}
	for _, path := range []string{filepath.Join(more, "aa"), more} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if _, err := (Local{Dirs: []string{more}}).Collect(t.Context()); !IsUnavailable(err) || !strings.Contains(err.Error(), path+": everybody may write it") {
			t.Errorf("%s is world-writable: %v", path, err)
		}
	}
}

// A name that would break the list of files is refused, but not for the original.
func TestLocalNames(t *testing.T) {
	for _, name := range []string{"a:b", "a\nb", "a\x7f"} {
		dir := files(t, t.TempDir(), map[string]string{name: "1", "c": "2"})
		got := summary(Local{Dirs: []string{dir}}.Collect(t.Context()))
		if !strings.HasPrefix(got, "unavailable: ") || !strings.HasSuffix(got, "rename the file") || strings.Contains(got, "\n") {
			t.Errorf("%q: %s", name, got)
		}
		if got := summary(Local{Dirs: []string{dir}, Original: true}.Collect(t.Context())); got != name+" 1; c 2" {
			t.Errorf("for the original, %q: %s", name, got)
		}
	}
}

// Links count inside of the directory only, but not for the original.
func TestLocalLinks(t *testing.T) {
	secret := filepath.Join(files(t, t.TempDir(), map[string]string{"secret": "1"}), "secret")
	for target, want := range map[string]string{"../x": "", secret: "", "/proc/self/environ": "", "a": "2", "./.data/b": "3", "none": ""} {
		dir := files(t, filepath.Join(t.TempDir(), "l"), map[string]string{"a": "2", ".data/b": "3", "../x": "4"})
		if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		got := summary(Local{Dirs: []string{dir}}.Collect(t.Context()))
		switch {
		case target == "none" && got != "a 2":
			t.Errorf("a link to nowhere: %s", got)
		case target != "none" && want == "" && (!strings.HasPrefix(got, "unavailable: ") || strings.Contains(got, "secret 1")):
			t.Errorf("a link to %s: %s", target, got)
		case want != "" && got != "a 2; link "+want:
			t.Errorf("a link to %s: %s", target, got)
		}
		if got := summary(Local{Dirs: []string{dir}, Original: true}.Collect(t.Context())); target == secret && got != "a 2; link 1" {
			t.Errorf("for the original, a link to %s: %s", target, got)
		}
	}
	dir := files(t, t.TempDir(), map[string]string{"a": "2"})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, original := range []bool{false, true} {
		if got := summary(Local{Dirs: []string{dir}, Original: original}.Collect(t.Context())); !strings.HasSuffix(got, "pipe: not a regular file") {
			t.Errorf("a pipe: %s", got)
		}
	}
}

func TestInstanceData(t *testing.T) {
	dir := files(t, t.TempDir(), map[string]string{
		"good": `{"v1": {"instance_id": "i-1", "local_hostname": "h"}, "ds": {"meta_data": {"k": 1}}, "merged_cfg": {"much": 1}}`, "bad": "{", "list": "[]",
	})
	want := `instance_data {"ds": {"meta_data": {"k": 1}}, "v1": {"instance_id": "i-1", "local_hostname": "h"}, "instance-id": "i-1", "local-hostname": "h"}`
	for range 10 { // in the same order, too
		if got := summary(InstanceData{filepath.Join(dir, "good")}.Collect(t.Context())); got != want {
			t.Errorf("Collect = %s, want %s", got, want)
		}
	}
	for _, name := range []string{"bad", "list", "none"} {
		if got := summary(InstanceData{filepath.Join(dir, name)}.Collect(t.Context())); !strings.HasPrefix(got, "unavailable: ") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func collectSeed(t *testing.T, dir string) (string, Document, error) {
	t.Helper()
	docs, err := (&NoCloud{Seed: dir}).Collect(t.Context())
	if err != nil {
		return "", Document{}, err
	}
	return docs[0].Name + " " + metadata.JSON(docs[0].Value), docs[0], nil
}

func TestNoCloudSeed(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"both":     {map[string]string{"meta-data": "instance-id: 007\nlocal-hostname: h\nx: [1]\n", "goldsmith/metadata.json": `{"a":1,"local-hostname":"own"}`}, `nocloud {"a": 1, "local-hostname": "own", "instance-id": "007"}`},
		"metadata": {map[string]string{"goldsmith/metadata.json": `{"a":1}`}, `nocloud {"a": 1}`},
		"facts":    {map[string]string{"meta-data": `{"instance-id": "i"}`, "user-data": "#cloud-config\n"}, `nocloud {"instance-id": "i"}`},
		"nothing":  {map[string]string{"meta-data": "", "goldsmith/metadata.json": "{}"}, `nocloud {}`},
	} {
		got, _, err := collectSeed(t, files(t, t.TempDir(), tc.files))
		if err != nil || got != tc.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, tc.want)
		}
	}
	_, d, err := collectSeed(t, files(t, t.TempDir(), map[string]string{"goldsmith/metadata.json": "{\n broken", "user-data": "u"}))
	if err != nil || string(d.Raw) != "{\n broken" || string(d.Keep["nocloud.user-data"]) != "u" {
		t.Errorf("broken metadata: %+v, %v; want them passed on", d, err)
	}
	_, d, err = collectSeed(t, files(t, t.TempDir(), map[string]string{"goldsmith/metadata.json": "{}", "meta-data": "a: [\n"}))
	if err != nil || !strings.HasPrefix(d.Note, "meta-data: yaml: ") {
		t.Errorf("broken meta-data: %+v, %v; want a note", d, err)
	}
	for _, dir := range []string{t.TempDir(), "/nowhere/at/all"} {
		if _, _, err := collectSeed(t, dir); !IsUnavailable(err) {
			t.Errorf("%s: %v; want it unavailable", dir, err)
		}
	}
}

func TestNoCloudTrustsNoLinks(t *testing.T) {
	secret := files(t, t.TempDir(), map[string]string{"metadata.json": `{"secret":1}`})
	for name, link := range map[string][2]string{
		"file": {filepath.Join(secret, "metadata.json"), "goldsmith/metadata.json"}, "directory": {secret, "goldsmith"}, "inside": {"../other", "goldsmith/metadata.json"},
	} {
		dir := files(t, t.TempDir(), map[string]string{"meta-data": "a: b\n", "other": "{}"})
		if strings.Contains(link[1], "/") {
			files(t, dir, map[string]string{"goldsmith/x": ""})
		}
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			t.Fatal(err)
		}
		if got, _, err := collectSeed(t, dir); err == nil {
			t.Errorf("%s: a link was followed: %s", name, got)
		}
	}
	dir := files(t, t.TempDir(), map[string]string{"meta-data/x": "", "goldsmith/metadata.json": "{}"})
	if _, _, err := collectSeed(t, dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory called meta-data: %v", err)
	}
	big := filepath.Join(files(t, t.TempDir(), map[string]string{"user-data": ""}), "user-data")
	if err := os.Truncate(big, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := collectSeed(t, filepath.Dir(big)); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("a huge user-data: %v", err)
	}
}

// Little text that would become much is refused before it is written.
func TestWeight(t *testing.T) {
	deep := strings.Repeat("[", 400) + strings.Repeat("]", 400)
	f := &fake{value: "[" + strings.Repeat(deep+",", 1000) + "1]"}
	r, log, ran := runner(t, f)
	if changed, err := r.Once(t.Context()); changed || err != nil || ran() != "" {
		t.Errorf("Once = %v, %v", changed, err)
	}
	if !strings.Contains(log.String(), "document fake: more than 32 MiB when it is written") {
		t.Errorf("log %q", log)
	}
	v, err := metadata.Parse("x", []byte(`{"a": [1, 2, {"b": "text"}], "c": true}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := weight(v, 1), len(metadata.Indented(v)); got < want/2 || got > want*2 {
		t.Errorf("weight = %d of %d bytes", got, want)
	}
}
