package imagebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
)

// outputFormat changes when this code writes other outputs of the same tree.
const outputFormat = "output/4"

// outputRecord says which outputs a build left in a directory.
type outputRecord struct {
	Key    string            `json:"key"`
	Result Result            `json:"result"`
	Files  map[string]string `json:"files"` // name in the directory → what stat(2) said of it
}

// outputKey names what the outputs depend on; empty where that cannot be told,
// since a step ran whose result is not kept.
func (b *build) outputKey(r *resumer) (string, error) {
	if r.st.dirty || r.st.frozen {
		return "", nil
	}
	init, err := r.keys.sumFile(filepath.Join(b.opts.Bin, "imginit"))
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	d := b.def
	keys, err := d.SecureBoot.sum()
	if err != nil {
		return "", err
	}
	parts, err := b.deployParts()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	k := digestKey{h}
	k.list(parts.sum())
	k.list(outputFormat, r.st.key, init, d.Name, d.Version, d.Arch, d.Release, d.Size, d.Modules, keys)
	k.list(d.State...)
	k.list(b.outputs...)
	k.list(elementNames(b.elements)...)
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (b *build) outputRecordFile() (string, error) {
	out, err := filepath.Abs(b.opts.Out)
	if err != nil {
		return "", err
	}
	return filepath.Join(b.cache.dir, "outputs", sum([]byte(out + "\x00" + b.def.Name))[:32]+".json"), nil
}

// upToDate returns the result of the build that left these outputs, where they
// are as it left them.
func (b *build) upToDate(key string) *Result {
	file, err := b.outputRecordFile()
	if err != nil || key == "" || b.opts.Refresh {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var rec outputRecord
	if json.Unmarshal(text, &rec) != nil || rec.Key != key {
		return nil
	}
	for name, was := range rec.Files {
		if is, err := statLine(filepath.Join(b.opts.Out, name)); err != nil || is != was {
			return nil
		}
	}
	res := &rec.Result
	for _, path := range []*string{&res.Manifest, &res.Log} { // as this caller can open them
		*path = filepath.Join(b.opts.Out, filepath.Base(*path))
	}
	for i := range res.Outputs {
		o := &res.Outputs[i]
		o.Path = filepath.Join(b.opts.Out, filepath.Base(o.Path))
		b.progress.Start("write " + o.Format).Cached(o.Path)
	}
	return res
}

// noteOutputs makes the next build know what this one left.
func (b *build) noteOutputs(key string, res *Result) error {
	file, err := b.outputRecordFile()
	if err != nil || key == "" {
		return err
	}
	rec := outputRecord{Key: key, Result: *res, Files: map[string]string{}}
	for _, path := range res.files() {
		name, err := filepath.Rel(b.opts.Out, path)
		if err != nil {
			return err
		}
		if rec.Files[name], err = statLine(path); err != nil {
			return err
		}
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, text, 0o644)
}

// files are the paths of all files of a result but the log.
func (r *Result) files() []string {
	list := append([]string{r.Manifest}, r.saved...)
	for _, o := range r.Outputs {
		list = append(list, o.Path)
	}
	return list
}

// statLine is what stat(2) says of a file that changes when the file does.
func statLine(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return fmt.Sprintf("%d %o %d %d.%d %d.%d", st.Ino, st.Mode, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec), nil
}
