package bootstrap

import (
	"fmt"
	"slices"
	"strings"
)

const (
	adminDir    = "/var/lib/dpkg"
	newConffile = "newconffile" // instead of a sum: not configured yet
)

// startDatabase makes dpkg's directory as it is when nothing is installed.
func (s *system) startDatabase() error {
	for name, text := range map[string]string{
		"status": "", "info/format": "1\n", "arch": s.plan.Arch + "\n", "triggers/File": "", "triggers/Unincorp": "",
	} {
		if err := s.tree.write(adminDir+"/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"alternatives", "parts", "updates"} {
		if err := s.tree.mkdir(adminDir + "/" + dir); err != nil {
			return err
		}
	}
	return nil
}

// scripts are executable.
var scripts = []string{"preinst", "postinst", "prerm", "postrm", "config"}

// record writes down that packages are unpacked: what dpkg does in
// process_archive (src/main/unpack.c).
func (s *system) record(packages []*pkg) error {
	status, err := s.tree.read(adminDir + "/status")
	if err != nil {
		return err
	}
	if err := s.recordLosses(); err != nil {
		return err
	}
	text := strings.TrimRight(string(status), "\n")
	for _, p := range packages {
		if err := s.recordFiles(p); err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		if text != "" {
			text += "\n\n"
		}
		text += p.status()
		p.unpacked = true
	}
	if err := s.tree.write(adminDir+"/status", []byte(text+"\n"), 0o644); err != nil {
		return err
	}
	return s.recordTriggers()
}

// recordLosses takes files off the lists of packages that lost them.
func (s *system) recordLosses() error {
	for _, p := range s.packages {
		if len(p.lost) == 0 {
			continue
		}
		p.list = slices.DeleteFunc(p.list, func(f string) bool { return slices.Contains(p.lost, f) })
		p.lost = nil
		if p.unpacked {
			if err := s.recordList(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *system) recordList(p *pkg) error {
	text := strings.Join(append(p.list, ""), "\n")
	return s.tree.write(adminDir+"/info/"+p.id()+".list", []byte(text), 0o644)
}

// recordFiles writes the package's files of dpkg's directory info.
func (s *system) recordFiles(p *pkg) error {
	if err := s.recordList(p); err != nil {
		return err
	}
	base := adminDir + "/info/" + p.id() + "."
	if !p.has("md5sums") {
		slices.Sort(p.sums)
		p.control.Files["md5sums"] = []byte(strings.Join(append(p.sums, ""), "\n"))
	}
	for name, data := range p.control.Files {
		mode := uint32(0o644)
		if slices.Contains(scripts, name) {
			mode = 0o755
		}
		if name == "control" || name == "list" {
			continue
		}
		if err := s.tree.write(base+name, data, mode); err != nil {
			return err
		}
	}
	return nil
}

// status is the package's paragraph of dpkg's database.
func (p *pkg) status() string {
	var b strings.Builder
	for line := range strings.Lines(string(p.control.Files["control"])) {
		if line = strings.TrimRight(line, "\r\n"); strings.TrimSpace(line) == "" {
			continue
		}
		b.WriteString(line + "\n")
		if strings.HasPrefix(line, "Package:") {
			b.WriteString("Status: install ok unpacked\n")
		}
	}
	if len(p.conffiles) > 0 {
		b.WriteString("Conffiles:\n")
		for line := range strings.Lines(string(p.control.Files["conffiles"])) {
			if line = strings.TrimSpace(line); p.conffiles[line] {
				b.WriteString(" " + line + " " + newConffile + "\n")
			}
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// recordTriggers writes which packages are interested in what, deb-triggers(5):
// one file for paths, and one for each other trigger.
func (s *system) recordTriggers() error {
	var files strings.Builder
	named := map[string]string{}
	for _, p := range s.packages {
		if !p.unpacked {
			continue
		}
		for _, t := range p.interests() {
			if strings.HasPrefix(t.name, "/") {
				fmt.Fprintf(&files, "%s %s\n", t.name, t.who)
			} else if !strings.ContainsAny(t.name, "/") {
				named[t.name] += t.who + "\n"
			}
		}
	}
	for name, text := range named {
		if err := s.tree.write(adminDir+"/triggers/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return s.tree.write(adminDir+"/triggers/File", []byte(files.String()), 0o644)
}

// interest is a trigger and, as dpkg writes it, who is to be told.
type interest struct{ name, who string }

func (p *pkg) interests() []interest {
	var out []interest
	for line := range strings.Lines(string(p.control.Files["triggers"])) {
		line, _, _ = strings.Cut(line, "#")
		w := strings.Fields(line)
		if len(w) != 2 {
			continue
		}
		switch w[0] {
		case "interest", "interest-await":
			out = append(out, interest{w[1], p.id()})
		case "interest-noawait":
			out = append(out, interest{w[1], p.id() + "/noawait"})
		}
	}
	return out
}

// activateFiles tells packages that are configured of files that came later
// and that they are interested in, by way of the file that dpkg-trigger(1)
// writes.
func (s *system) activateFiles(packages []*pkg) error {
	var lines []string
	for _, p := range s.packages {
		if !p.configured {
			continue
		}
		for _, t := range p.interests() {
			if strings.HasPrefix(t.name, "/") && touches(packages, t.name) {
				lines = append(lines, t.name+" -\n")
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	slices.Sort(lines)
	text := strings.Join(slices.Compact(lines), "")
	return s.tree.write(adminDir+"/triggers/Unincorp", []byte(text), 0o644)
}

// touches tells whether a package has the path or something below it.
func touches(packages []*pkg, path string) bool {
	return slices.ContainsFunc(packages, func(p *pkg) bool {
		return slices.ContainsFunc(p.list, func(f string) bool { return f == path || strings.HasPrefix(f, path+"/") })
	})
}
