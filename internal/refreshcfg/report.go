package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/metadata"
)

// Reporter tells whoever deployed the machine how runs end. The zero value is
// that of this machine.
type Reporter struct {
	Base     string // the directory of the phases; empty means DefaultBase
	State    string // the directory for what is remembered; empty means DefaultState
	Deployed string // which deployments were told of; empty means DefaultTold
	Console  string // empty means Console
}

// DefaultTold holds an empty file for each deployment of the group
// os-apply-config that Heat was told of.
const DefaultTold = "/var/lib/os-apply-config-deployments/deployed"

// unsentRecord is the outcome that could not be reported. It holds no secret:
// where it goes is in the metadata.
const unsentRecord = "unsent.json"

// unsent is unsent.json.
type unsent struct {
	For string `json:"for"` // a digest of to whom; what is for another is not sent
	outcome
}

// recipient are the metadata that say whom to tell.
type recipient struct {
	signal, token, handle, instance string
	deployments                     []any
}

func recipientOf(doc *metadata.Object) (r recipient) {
	r.signal, _ = doc.Text("completion-signal")
	r.token, _ = doc.Text("completion-token")
	r.handle, _ = doc.Text("completion-handle")
	r.instance, _ = doc.Text("instance-id")
	list, _ := doc.Get("deployments")
	r.deployments, _ = list.([]any)
	return r
}

func (r recipient) digest() string {
	return sum(marshal([]string{r.signal, r.token, r.handle, r.instance}))
}

// own is our signal, to a server that gave a token.
func (r recipient) own(o outcome) []message {
	if r.signal == "" || r.token == "" {
		return nil
	}
	return []message{{what: "completion signal", method: "POST", url: r.signal, token: r.token, body: marshal(o)}}
}

// heat are the signals to Heat of a run that succeeded. Heat takes the first
// one for final, so that a run that failed, and is tried again, sends none.
func (r recipient) heat(told string) []message {
	var list []message
	if r.instance != "" {
		body := marshal(outcome{"SUCCESS", "Configuration Complete", r.instance, "Finished os-refresh-config."})
		if r.handle != "" {
			list = append(list, message{what: "completion handle", method: "PUT", url: r.handle, body: body, only200: true})
		}
		if r.signal != "" && r.token == "" {
			list = append(list, message{what: "completion signal", method: "POST", url: r.signal, body: body, only200: true})
		}
	}
	for _, item := range r.deployments {
		d, ok := readDeployment(item)
		url := d.inputs["deploy_signal_id"]
		if !ok || d.group != "os-apply-config" || d.id == "" || url == "" {
			continue
		}
		mark := filepath.Join(told, fileName(d.id))
		if _, err := os.Stat(mark); err == nil {
			continue
		}
		body := marshal(struct {
			Stdout string `json:"deploy_stdout"`
			Status string `json:"deploy_status_code"`
		}{fmt.Sprintf("os-apply-config deployment %s completed", d.id), "0"})
		list = append(list, message{what: "signal of deployment " + fileName(d.id), method: "POST", url: url, body: body, only200: true, taken: func() error {
			return errors.Join(mkdirSynced(told, 0o755), atomicfile.Write(mark, nil, 0o644))
		}})
	}
	return list
}

// Report tells how a run ended, failed being its error, and whether there was
// somebody to tell. What cannot be told within a minute is kept for the next
// run, and shown on the console where no server was reached.
func (r Reporter) Report(ctx context.Context, doc *metadata.Object, failed error) (told bool, err error) {
	to := recipientOf(doc)
	o := outcomeOf(failed, to.instance, to.token)
	list := to.own(o)
	if failed == nil && !r.hasOwn() {
		list = append(list, to.heat(or(r.Deployed, DefaultTold))...)
	}
	s := state{or(r.State, DefaultState)}
	if len(list) == 0 {
		return false, s.removeUnsent()
	}
	err = deliver(ctx, list, signalTotal)
	if err == nil {
		return true, s.removeUnsent()
	}
	if _, ok := errors.AsType[offline](err); ok {
		o.show(or(r.Console, Console))
	}
	return false, errors.Join(err, s.write(unsentRecord, unsent{to.digest(), o}))
}

// hasOwn tells whether the image has the hook of tripleo-image-elements that
// signals to Heat.
func (r Reporter) hasOwn() bool {
	fi, err := os.Stat(filepath.Join(or(r.Base, DefaultBase), "post-configure.d", "99-refresh-completed"))
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// resendTotal bounds how long a run waits to tell of the one before it.
const resendTotal = 5 * time.Second

// Resend tries once more to tell what the run before could not, and whether it
// did. What it still cannot tell stays: this run's end takes its place.
func (r Reporter) Resend(ctx context.Context, doc *metadata.Object) bool {
	s := state{or(r.State, DefaultState)}
	var u unsent
	if there, err := s.read(unsentRecord, &u); err != nil || !there {
		return false
	}
	to := recipientOf(doc)
	if u.For != to.digest() {
		return false
	}
	list := to.own(u.outcome)
	if u.Status == "SUCCESS" && !r.hasOwn() {
		list = append(list, to.heat(or(r.Deployed, DefaultTold))...)
	}
	ctx, cancel := context.WithTimeout(ctx, resendTotal)
	defer cancel()
	return len(list) > 0 && deliver(ctx, list, resendTotal) == nil && s.removeUnsent() == nil
}

func (s state) removeUnsent() error {
	err := os.Remove(filepath.Join(s.dir, unsentRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
