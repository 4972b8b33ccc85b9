package collectcfg

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// repairProgram is an applycfg with the templates of two files, of which the
// first is to hold "right".
func repairProgram(t *testing.T, dir, etc string) string {
	t.Helper()
	templates := files(t, t.TempDir(), map[string]string{etc + "/a": "", etc + "/b": "", etc + "/b.oac": ""})
	program := filepath.Join(dir, "applycfg")
	script := "#!/bin/sh\ncase $1 in --print-templates) echo '{\"templates\":\"" + templates + `","output":"/"}';;
--dry-run) if [ "$(cat ` + etc + `/a)" = right ]; then echo '{"changes":[]}'; else echo '{"changes":[{"path":"` + etc + `/a","action":"updated"}]}'; fi;; esac` + "\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program
}

func TestRepair(t *testing.T) {
	for _, restore := range []bool{false, true} {
		dir := t.TempDir()
		etc := files(t, dir, map[string]string{"etc/a": "right", "etc/b": "b"}) + "/etc"
		program := repairProgram(t, dir, etc)
		r := &Runner{
			Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Min: time.Hour, Max: time.Hour, Command: "[ -e " + dir + "/broken ] || echo right >" + etc + "/a",
			Sources: []Source{{"x", quiet{&fake{value: "1"}}}}, Repair: &Repair{Command: program, Restore: restore},
		}
		log, _ := start(t, r)
		await(t, "the first command", func() bool { return r.Cache.ranIn("") || strings.Contains(log.String(), "running") })
		time.Sleep(50 * time.Millisecond) // for the watch; a test that is early finds nothing changed
		for i := range 2 {
			files(t, etc, map[string]string{"a": fmt.Sprint("wrong", i)})
			await(t, "the report", func() bool { return strings.Contains(log.String(), "not as configured: "+etc+"/a\n") })
			if restore {
				await(t, "the repair", func() bool { return read(etc+"/a") == "right\n" })
				time.Sleep(100 * time.Millisecond) // for the look after it: what differs then is given up
			}
		}
		if !restore {
			if got := read(etc + "/a"); got != "wrong1" {
				t.Errorf("only to report, but: %q", got)
			}
			continue
		}
		files(t, dir, map[string]string{"broken": ""})
		files(t, etc, map[string]string{"a": "wrong for ever"})
		await(t, "giving up", func() bool { return strings.Contains(log.String(), "differs again at once") })
	}
}

// Files that were edited before the start are restored as well, and for as
// long as the command fails.
func TestRepairAtStart(t *testing.T) {
	dir := t.TempDir()
	etc := files(t, dir, map[string]string{"etc/a": "", "etc/b": "b"}) + "/etc"
	repair := func() *Runner {
		return &Runner{
			Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Min: 10 * time.Millisecond, Max: 10 * time.Millisecond,
			Command: "echo x >>" + dir + "/runs; [ ! -e " + dir + "/broken ] && echo right >" + etc + "/a",
			Sources: []Source{{"x", quiet{&fake{value: "1"}}}}, Repair: &Repair{Command: repairProgram(t, dir, etc), Restore: true},
		}
	}
	runs := func() int { return strings.Count(read(dir+"/runs"), "x") }
	_, stop := start(t, repair())
	await(t, "the first command", func() bool { return read(etc+"/a") == "right\n" && read(dir+"/cache/os_config_files.json.last") != "" })
	_ = stop()
	files(t, dir, map[string]string{"broken": "", "etc/a": "wrong"})
	before := runs()
	log, _ := start(t, repair())
	await(t, "trying again", func() bool { return runs() >= before+3 })
	if err := os.Remove(filepath.Join(dir, "broken")); err != nil {
		t.Fatal(err)
	}
	await(t, "the repair", func() bool { return read(etc+"/a") == "right\n" })
	if !strings.Contains(log.String(), "not as configured: "+etc+"/a\n") || !strings.Contains(log.String(), "(to restore)") {
		t.Errorf("log %s", log)
	}
}

// What does not answer as applycfg is said; a tree may be without templates, a
// symbolic link, and have names that are not UTF-8.
func TestRepairOutputs(t *testing.T) {
	dir := files(t, t.TempDir(), map[string]string{"t/a": "", "t/d/b.oac": "", "t/d/b": "", "n/\xe9/\xe9": ""})
	if err := os.Symlink("t", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	const problem = " # --print-templates --json: does not say where templates and files are, as applycfg does"
	for answer, want := range map[string]string{
		`{"templates":"` + dir + `/t","output":"/x/"}`: "[/x/a /x/d/b] <nil>",
		`{"templates":"` + dir + `/u","output":"/x/"}`: "[] <nil>",
		`{"templates":"` + dir + `/l","output":"/x/"}`: "[/x/a /x/d/b] <nil>",
		`{"templates":"` + dir + `/n","output":"/x/"}`: "[/x/\xe9/\xe9] <nil>",
		`{"templates":"` + dir + `/t"}`:                "[] echo '{\"templates\":\"" + dir + "/t\"}'" + problem,
		dir + `/t`:                                     "[] echo '" + dir + "/t'" + problem,
	} {
		p := &Repair{Command: "echo '" + answer + "' #"}
		files, err := p.outputs(t.Context(), &Runner{})
		if got := fmt.Sprint(files, err); got != want {
			t.Errorf("%s makes %s; want %s", answer, got, want)
		}
	}
}
