package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// deployment is an item of the metadata's "deployments", as Heat writes it.
type deployment struct {
	id, group string
	inputs    map[string]string
	doc       *metadata.Object
}

// readDeployment reads an item; ok is false when it is no object. Inputs of
// the type String become text in it if they were none.
func readDeployment(item any) (d deployment, ok bool) {
	doc, ok := item.(*metadata.Object)
	if !ok {
		return d, false
	}
	d = deployment{inputs: map[string]string{}, doc: metadata.Merge(doc)}
	d.id, _ = doc.Text("id")
	d.group, _ = doc.Text("group")
	list, _ := doc.Get("inputs")
	items, _ := list.([]any)
	inputs := []any{}
	for _, i := range items {
		in, ok := i.(*metadata.Object)
		if !ok {
			continue
		}
		name, _ := in.Text("name")
		value, _ := in.Get("value")
		if kind, _ := in.Text("type"); kind == "String" {
			if _, isText := value.(string); !isText {
				in = metadata.Merge(in)
				in.Set("value", plainText(value))
			}
		}
		d.inputs[name] = plainText(value)
		inputs = append(inputs, in)
	}
	d.doc.Set("inputs", inputs)
	return d, true
}

// plainText is a value as Python's str writes what JSON can hold; lists and
// objects stay JSON.
func plainText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[v]
	}
	return metadata.JSON(v)
}

// component replaces the config and group of a deployment of the group
// component by those for its action. It is false when there are none.
func (d *deployment) component() bool {
	if d.group != "component" {
		return true
	}
	action := d.inputs["deploy_action"]
	list, _ := metadata.Lookup(d.doc, "config.configs")
	configs, _ := list.([]any)
	for _, c := range configs {
		config, ok := c.(*metadata.Object)
		if !ok {
			continue
		}
		actions, _ := config.Get("actions")
		all, _ := actions.([]any)
		for _, a := range all {
			if a != any(action) {
				continue
			}
			text, _ := config.Get("config")
			d.group, _ = config.Text("tool")
			d.doc.Set("config", text)
			d.doc.Set("group", d.group)
			return true
		}
	}
	return false
}

// Deployments runs heat-config's hooks: programs that are called as the group
// of a deployment, get it as JSON on standard input, and print an object with
// deploy_stdout, deploy_stderr, deploy_status_code and outputs. The zero value
// is that of this machine.
type Deployments struct {
	Hooks    []string // directories of hooks; empty means DefaultHeatHooks
	Deployed string   // what was deployed; empty means DefaultDeployed
	Say      func(format string, args ...any)
}

// DefaultDeployed is where heat-config remembers deployments: ID.json is the
// deployment, ID.notify.json what its hook said, and ID.open is there until
// Heat has been told.
const DefaultDeployed = "/var/lib/heat-config/deployed"

// DefaultHeatHooks are heat-config's directories of hooks, the first first.
func DefaultHeatHooks() []string {
	return []string{"/usr/libexec/heat-config/hooks", "/var/lib/heat-config/hooks"}
}

// maxSaid bounds what a hook may print, in bytes.
const maxSaid = 4 << 20

// Run deploys what was not yet, one after the other, and tells Heat how each
// ended. A deployment that fails is no error: Heat knows. An error says that
// something could not be remembered or told; what could not be told is told by
// the next run.
func (d Deployments) Run(ctx context.Context, doc *metadata.Object) error {
	if d.Deployed = or(d.Deployed, DefaultDeployed); len(d.Hooks) == 0 {
		d.Hooks = DefaultHeatHooks()
	}
	list, _ := doc.Get("deployments")
	items, _ := list.([]any)
	warned, patience := map[string]bool{}, notifyTotal
	var errs []error
	for _, item := range items {
		dep, ok := readDeployment(item)
		if !ok || dep.id == "" {
			d.Say("deployments: passed over one that is no object or has no id")
			continue
		}
		if !dep.component() {
			d.Say("deployment %s: no config for the action %q", fileName(dep.id), dep.inputs["deploy_action"])
			continue
		}
		hook := d.hook(dep.group)
		if hook == "" {
			if dep.group != "" && dep.group != "Heat::Ungrouped" && dep.group != "os-apply-config" && !warned[dep.group] {
				d.Say("deployments of group %q are passed over: there is no hook of that name in %s", dep.group, strings.Join(d.Hooks, ", "))
				warned[dep.group] = true
			}
			continue
		}
		err := d.one(ctx, dep, hook, patience)
		if _, unreached := errors.AsType[offline](err); unreached {
			patience = resendTotal // a machine without a network has waited long enough
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("deployment %s: %w", fileName(dep.id), err))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errors.Join(errs...)
}

// hook is the program for a group, or "".
func (d Deployments) hook(group string) string {
	name := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return -1
	}, group)
	for _, dir := range d.Hooks {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); name != "" && err == nil && fi.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// one deploys one, unless it was, and tells Heat, unless it knows.
func (d Deployments) one(ctx context.Context, dep deployment, hook string, patience time.Duration) error {
	base := filepath.Join(d.Deployed, fileName(dep.id))
	open, err := exists(base + ".open")
	if err != nil {
		return err
	}
	done, err := exists(base + ".json")
	if err != nil || done && !open {
		return err
	}
	var said *metadata.Object
	if done {
		if said, err = readSaid(base + ".notify.json"); err != nil {
			return err
		}
	} else {
		// What is not told stays open, whatever happens from here on.
		if err := mkdirPrivate(d.Deployed); err != nil {
			return err
		}
		if err := atomicfile.Write(base+".open", nil, 0o600); err != nil {
			return err
		}
		if err := atomicfile.Write(base+".json", []byte(metadata.JSON(dep.doc)+"\n"), 0o600); err != nil {
			return err
		}
		said = d.invoke(ctx, dep, hook)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := atomicfile.Write(base+".notify.json", []byte(metadata.JSON(said)+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := d.notify(ctx, dep, said, patience); err != nil {
		return err
	}
	return os.Remove(base + ".open")
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// mkdirPrivate makes a directory that only its owner reads.
func mkdirPrivate(dir string) error {
	if err := mkdirSynced(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// readSaid is what a hook said in a run before this one, which could not tell.
func readSaid(path string) (*metadata.Object, error) {
	text, err := readBounded(path, 4*maxSaid)
	if errors.Is(err, fs.ErrNotExist) {
		return result("", "the machine stopped while the hook ran; whether it had done its work is not known", 1), nil
	}
	if err != nil {
		return nil, err
	}
	v, err := metadata.Parse(path, text)
	o, ok := v.(*metadata.Object)
	if err == nil && !ok {
		err = fmt.Errorf("%s: not a JSON object", path)
	}
	return o, err
}

func result(stdout, stderr string, status int) *metadata.Object {
	o := &metadata.Object{}
	o.Set("deploy_stdout", stdout)
	o.Set("deploy_stderr", stderr)
	o.Set("deploy_status_code", metadata.Number(fmt.Sprint(status)))
	return o
}

// bounded keeps the end of what is written to it.
type bounded struct {
	kept []byte
	over bool // the beginning is lost
}

func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if over := len(b.kept) + n - maxSaid; over > 0 {
		b.over = true
		gone := min(over, len(b.kept))
		b.kept = b.kept[:copy(b.kept, b.kept[gone:])]
		p = p[max(0, n-maxSaid):]
	}
	if len(b.kept)+len(p) > cap(b.kept) && cap(b.kept) >= 1<<18 {
		b.kept = slices.Grow(b.kept, maxSaid-len(b.kept)) // once, not in steps that are garbage
	}
	b.kept = append(b.kept, p...)
	return n, nil
}

// end is as much of it as Heat takes, as text.
func (b *bounded) end() string {
	return strings.ToValidUTF8(string(b.kept[max(0, len(b.kept)-maxNotice):]), "\ufffd")
}

// invoke runs a hook and returns what Heat is to know.
func (d Deployments) invoke(ctx context.Context, dep deployment, hook string) *metadata.Object {
	d.Say("deployment %s: group %s", fileName(dep.id), dep.group)
	var out, log bounded
	x := command.Exec{
		Args: []string{hook}, Stdin: strings.NewReader(metadata.JSON(dep.doc)), Stdout: &out, Log: &log, Bond: command.Leave,
	}
	err := x.Run(ctx)
	status := 0
	if e, ok := errors.AsType[*command.ExitError](err); ok {
		status = e.Status
	} else if err != nil {
		status = 1
		_, _ = io.WriteString(&log, err.Error())
	}
	if out.over && status == 0 {
		status = 1 // its own word on that is in what is lost
		_, _ = fmt.Fprintf(&log, "the hook printed more than %d MiB: whether it succeeded is not known\n", maxSaid>>20)
	}
	o := result(out.end(), log.end(), status)
	if !out.over {
		v, err := metadata.Parse("hook", out.kept)
		if said, ok := v.(*metadata.Object); ok && err == nil {
			o = said
		}
	}
	if code, _ := o.Get("deploy_status_code"); plainText(code) != "0" && code != nil || status != 0 {
		d.Say("deployment %s: hook %s: status %s", fileName(dep.id), filepath.Base(hook), plainText(code))
	}
	return o
}

// maxNotice bounds what Heat is told, in bytes: it takes 1 MiB.
const maxNotice = 950000

// notifyTotal bounds how long Heat is tried for one deployment, until it could
// not be reached for that long.
const notifyTotal = 60 * time.Second

// notify tells Heat what a hook said, where Heat wants to know.
func (d Deployments) notify(ctx context.Context, dep deployment, said *metadata.Object, patience time.Duration) error {
	url := dep.inputs["deploy_signal_id"]
	for _, other := range [][2]string{{"deploy_queue_id", "Zaqar"}, {"deploy_auth_url", "Keystone"}} {
		if _, ok := dep.inputs[other[0]]; ok && url == "" {
			d.Say("deployment %s: Heat is not told: signals by %s are not known here; use CFN_SIGNAL, TEMP_URL_SIGNAL or NO_SIGNAL", fileName(dep.id), other[1])
			return nil
		}
	}
	if url == "" {
		return nil
	}
	method := "POST"
	if dep.inputs["deploy_signal_verb"] == "PUT" {
		method = "PUT"
	}
	m := message{what: "signal of deployment", method: method, url: url, body: trim(said)}
	err := deliver(ctx, []message{m}, patience)
	if _, unreached := errors.AsType[offline](err); err != nil && !unreached && ctx.Err() == nil {
		d.Say("%v", err) // an answer is final, as for heat-config-notify
		return nil
	}
	return err
}

// trim is what a hook said as JSON, the beginnings of long output cut off so
// that Heat takes it.
func trim(said *metadata.Object) []byte {
	text := metadata.JSON(said)
	for range 8 {
		over := len(text) - maxNotice
		if over <= 0 {
			break
		}
		said = metadata.Merge(said)
		for _, key := range []string{"deploy_stdout", "deploy_stderr"} {
			value, _ := said.Text(key)
			// Their share of what is too much, and one byte for what is rounded.
			cut := min(len(value), int(float64(len(value))/float64(len(text))*float64(over))+1)
			if cut > 0 {
				said.Set(key, strings.ToValidUTF8(value[cut:], ""))
			}
		}
		text = metadata.JSON(said)
	}
	return []byte(text)
}
