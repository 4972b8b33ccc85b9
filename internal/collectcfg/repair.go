package collectcfg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"goldsmith/internal/command"
)

// Repair looks after the files that applycfg wrote: when one is edited by
// hand, it says so or has the configuration made again.
type Repair struct {
	// Command is applycfg, for the shell: with --print-templates --json it says
	// where its templates and files are, with --dry-run --json what is not as it
	// should be.
	Command string
	// Restore runs the runner's command when a file is not as it should be,
	// where otherwise the difference is only told.
	Restore bool

	reported string          // what was last said to differ
	restless map[string]bool // files that differ again as soon as they are written

	mu    sync.Mutex // guards the fields below
	files []string
	again chan struct{} // closed when files are others
}

// maxRepaired bounds how many files are watched.
const maxRepaired = 20_000

// Notify wakes when one of the files may have been edited.
func (p *Repair) Notify(ctx context.Context, wake func()) error {
	for ctx.Err() == nil {
		p.mu.Lock()
		if p.again == nil {
			p.again = make(chan struct{})
		}
		files, again := p.files, p.again
		p.mu.Unlock()
		watching, stop := context.WithCancel(ctx)
		go func() {
			select {
			case <-again:
			case <-watching.Done():
			}
			stop()
		}()
		if len(files) == 0 {
			<-watching.Done()
			continue
		}
		first := true
		err := watch(watching, files, func() {
			if !first { // nothing was edited because it is looked for
				wake()
			}
			first = false
		})
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// refresh finds out which files there are, at the start and after the command
// has succeeded.
func (p *Repair) refresh(ctx context.Context, r *Runner) {
	files, err := p.outputs(ctx, r)
	if err != nil {
		r.Say("configured files are not looked after: %v", err)
	}
	p.reported = ""
	if r.restore {
		p.restored(ctx, r)
	} else {
		p.restless = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Join(files, "\x00") == strings.Join(p.files, "\x00") {
		return
	}
	p.files = files
	if p.again != nil {
		close(p.again)
	}
	p.again = make(chan struct{})
}

// outputs are the files that the templates make.
func (p *Repair) outputs(ctx context.Context, r *Runner) ([]string, error) {
	asks := p.Command + " --print-templates --json"
	out, err := command.Exec{Args: []string{"/bin/sh", "-c", asks}, Log: r.Log}.Output(ctx)
	if err != nil {
		return nil, err
	}
	var tree struct{ Templates, Output string } // absolute
	if err := json.Unmarshal(out, &tree); err != nil || tree.Templates == "" || tree.Output == "" {
		return nil, fmt.Errorf("%s: does not say where templates and files are, as applycfg does", asks)
	}
	var files []string
	top := filepath.Clean(tree.Templates) + "/" // with the slash, a symbolic link is followed
	err = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir() || strings.HasSuffix(path, ".oac"):
			return nil
		case len(files) == maxRepaired:
			return fmt.Errorf("%s: more than %d templates", tree.Templates, maxRepaired)
		}
		files = append(files, filepath.Join(tree.Output, strings.TrimPrefix(path, top)))
		return nil
	})
	return files, err
}

// differs are the files that are not as they should be.
func (p *Repair) differs(ctx context.Context, r *Runner) ([]string, error) {
	var paths []string
	for _, d := range r.documents() {
		paths = append(paths, r.Cache.path(d.Name))
	}
	x := command.Exec{
		Args: []string{"/bin/sh", "-c", p.Command + " --dry-run --json"},
		Env:  append(os.Environ(), "OS_CONFIG_FILES="+strings.Join(paths, ":")), Log: r.Log,
	}
	out, err := x.Output(ctx)
	if err != nil {
		return nil, err
	}
	var result struct {
		Changes []struct{ Path string }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("%s --dry-run --json: %w", p.Command, err)
	}
	var files []string
	for _, c := range result.Changes {
		if !p.restless[c.Path] {
			files = append(files, c.Path)
		}
	}
	return files, nil
}

// look compares and reports. It says whether the command is to run, for files
// to be restored.
func (p *Repair) look(ctx context.Context, r *Runner) bool {
	files, err := p.differs(ctx, r)
	if err != nil {
		r.Say("looking for edited files: %v", err)
		return false
	}
	list := strings.Join(files, ", ")
	if list != "" && list != p.reported {
		r.Say("not as configured: %s", list)
	}
	p.reported = list
	return list != "" && p.Restore
}

// restored looks whether the command has restored what differed. A file that
// differs again although it has just been written is not restored for ever.
func (p *Repair) restored(ctx context.Context, r *Runner) {
	files, err := p.differs(ctx, r)
	if err != nil {
		return
	}
	for _, f := range files {
		if p.restless == nil {
			p.restless = map[string]bool{}
		}
		p.restless[f] = true
		r.Say("%s differs again at once: not restored until the configuration changes", f)
	}
}
