package lint

import (
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/filelist"
)

func TestWrites(t *testing.T) {
	texts := map[string]string{
		"/usr/lib/tmpfiles.d/app.conf": "# d /none\nd /opt/app 0755 app app\nd /var/app\nf /run/app/x\nL+ /usr/lib/app/link - - - - /x\nd /etc/app\nd /usr/lib/there\n" +
			"w /usr/lib/there/file\nr! /opt/gone\nd %S/fine\nx\n",
		"/usr/lib/systemd/system/app.service": "[Service]\nReadWritePaths=-/opt/app/data /var/lib/x /etc\nReadWriteDirectories=/usr/share/app\n" +
			"StateDirectory=app\nCacheDirectory=app:more\nConfigurationDirectory=app kept\n;LogsDirectory=no\nDescription=/opt/x\n",
		"/etc/systemd/system/own.service.d/x.conf": "[Service]\nReadWritePaths=/opt/own\n",
		"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\nops:x:1000:1000::/opt/ops:/bin/sh\n" +
			"me:x:1001:1001::/home/me:/bin/sh\nshort:x\n",
		"/var/lib/dpkg/info/app.list":         "/.\n/opt\n/opt/owned\n/srv/x\n",
		"/var/lib/dpkg/info/other:amd64.list": "/opt/owned\n",
	}
	files := []filelist.File{
		{Path: "/etc/kept", Type: "dir", UID: 7, Mode: "0755"},
		{Path: "/opt/all", Type: "dir", Mode: "1777"},
		{Path: "/opt/owned", Type: "dir", UID: 7, Mode: "0755"},
		{Path: "/opt/group", Type: "dir", GID: 7, Mode: "2775"},
		{Path: "/opt/read", Type: "dir", GID: 7, Mode: "0750"},
		{Path: "/usr/lib/there", Type: "dir", Mode: "0755"},
		{Path: "/var/mine", Type: "dir", UID: 7, Mode: "0777"},
	}
	for name := range texts {
		f := filelist.File{Path: name, Type: "file", Mode: "0644"}
		if strings.HasPrefix(name, "/usr") {
			f.Package = "app"
		}
		if !Reads(name) {
			t.Errorf("%s is not read", name)
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b filelist.File) int { return strings.Compare(a.Path, b.Path) })
	i := Image{Files: files, State: []string{"/var", "/root", "/home", "/srv", "/etc/kep*"},
		Text: func(p string) []byte { return []byte(texts[p]) }}
	var got []string
	for _, w := range i.Writes() {
		if w.Message == "" || w.Remedy == "" || w.From == "" {
			t.Errorf("%+v", w)
		}
		got = append(got, w.Package+" "+w.Path)
	}
	const want = ` /opt/all
 /opt/group
 /opt/ops
 /opt/own
app /etc/app
app /opt/app
app /opt/app/data
app /opt/owned
app /usr/lib/app/link
app /usr/lib/there/file
app /usr/share/app`
	if s := strings.Join(got, "\n"); s != want {
		t.Errorf("found\n%s\nwant\n%s", s, want)
	}
	i.State = append(i.State, "/opt", "/usr", "/etc")
	if found := i.Writes(); len(found) > 0 {
		t.Errorf("with all of it declared: %v", found)
	}
}

func TestWriteString(t *testing.T) {
	w := Write{"", "/opt/x", "/etc/passwd:3", "the home of ops", "declare it"}
	if got, want := w.String(), "no package: /opt/x: the home of ops (/etc/passwd:3; declare it)"; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
