package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/testbed"
	"goldsmith/testbed/ipmi"
)

// powerVerbs are what 'imgpipe power' can do.
var powerVerbs = []string{"status", "on", "off", "shutdown", "reset", "cycle", "boot", "sensors", "events"}

// bootDevices are the words for what to start from; none takes a choice back.
var bootDevices = []string{"none", string(testbed.FromDisk), string(testbed.FromNetwork), string(testbed.FromCD), string(testbed.FromSetup)}

// powerOptions are the flags of 'imgpipe power'.
type powerOptions struct {
	user, passwordFile, quirks  string
	operator, forGood, uefi, js bool
	timeout                     time.Duration
}

// powerResult is what --json prints: docs/formats.md, "Result of imgpipe power".
type powerResult struct {
	Addr    string                  `json:"addr"`
	Power   string                  `json:"power,omitempty"`
	Boot    *bootResult             `json:"boot,omitempty"`
	Sensors []testbed.Sensor        `json:"sensors,omitempty"`
	Events  []testbed.HardwareEvent `json:"events,omitempty"`
}

// bootResult is what a machine starts from; no device is its own order.
type bootResult struct {
	Device   testbed.Device   `json:"device"`
	Once     bool             `json:"once"`
	Firmware testbed.Firmware `json:"firmware,omitempty"`
}

func powerCommand() *command.Command {
	var o powerOptions
	return &command.Command{
		Name:  "power",
		Args:  strings.Join(powerVerbs, "|") + " ADDRESS [DEVICE]",
		Short: "switch a server on and off through its BMC",
		Long: `
Talks IPMI 2.0 to the management controller (BMC) at ADDRESS, which is a host or host:port. What was
told is confirmed: "off" ends well when the BMC has said off twice. "shutdown" presses the power
button and waits; "cycle" is off and on; "boot" says, or with a DEVICE (` + strings.Join(bootDevices, ", ") + `) chooses,
what the next start is from; "sensors" and "events" list what the BMC has.

The password comes from a file or from the environment variable ` + passwordVariable + `, never from the
command line.`,
		Example: `imgpipe power status 192.0.2.7 --user admin --password-file bmc.password`,
		Words:   powerVerbs,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&o.user, "user", "", "log in as `name`")
			fs.StringVar(&o.passwordFile, "password-file", "", "read the password from `file`")
			fs.BoolVar(&o.operator, "operator", false, "log in with privilege OPERATOR, for users that have no more")
			fs.BoolVar(&o.forGood, "persistent", false, "boot: for every start, not only the next")
			fs.BoolVar(&o.uefi, "uefi", false, "boot: start with UEFI, where the machine can do both")
			fs.StringVar(&o.quirks, "quirks", "", "YAML `file` with what this BMC does otherwise")
			fs.DurationVar(&o.timeout, "timeout", 5*time.Minute, "give up after `duration`")
			fs.BoolVar(&o.js, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error { return o.run(ctx, io, args) },
	}
}

func (o *powerOptions) run(ctx context.Context, io command.IO, args []string) error {
	const usage = "imgpipe power status 192.0.2.7 --user admin --password-file bmc.password"
	if len(args) < 2 || len(args) > 3 || len(args) == 3 && args[0] != "boot" {
		return command.Usage("power needs a verb and an address", usage)
	}
	verb, addr := args[0], args[1]
	if !slices.Contains(powerVerbs, verb) {
		return command.Usage(fmt.Sprintf("power %q: expected one of %s", verb, strings.Join(powerVerbs, ", ")), usage)
	}
	boot, err := o.boot(args[2:])
	if err != nil {
		return err
	}
	c := ipmi.Config{Name: addr, Addr: addr, User: o.user, Operator: o.operator}
	if c.Password, err = password(o.passwordFile); err != nil {
		return err
	}
	if c.Adjust, err = quirksOf(o.quirks); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	m, err := ipmi.Open(ctx, c)
	if err != nil {
		return explained(err)
	}
	r := powerResult{Addr: addr}
	err = r.do(ctx, m, verb, boot)
	if err := errors.Join(err, m.Disconnect()); err != nil {
		return explained(err)
	}
	if o.js {
		enc := json.NewEncoder(io.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	return r.print(io.Stdout)
}

// boot is what the words after "boot ADDRESS" ask for; nil when they only ask.
func (o *powerOptions) boot(words []string) (*testbed.Boot, error) {
	if len(words) == 0 {
		return nil, nil
	}
	if !slices.Contains(bootDevices, words[0]) {
		return nil, command.Usage(fmt.Sprintf("boot %q: expected one of %s", words[0], strings.Join(bootDevices, ", ")), "")
	}
	if words[0] == "none" {
		return &testbed.Boot{}, nil
	}
	b := &testbed.Boot{Device: testbed.Device(words[0]), Once: !o.forGood}
	if o.uefi {
		b.Firmware = testbed.UEFI
	}
	return b, nil
}

// passwordVariable holds a BMC's password where no file does.
const passwordVariable = "IMGPIPE_BMC_PASSWORD"

// password reads it from a file, without the end of its line, or from the
// environment.
func password(file string) (string, error) {
	if file == "" {
		if p, ok := os.LookupEnv(passwordVariable); ok {
			return p, nil
		}
		return "", command.Usage("no password given", "use --password-file, or the environment variable "+passwordVariable)
	}
	return ipmi.ReadPassword(file)
}

// unreadable is a file that was named and cannot be read.
func unreadable(file string, err error) error {
	return command.BadInput(fmt.Errorf("%s: %w", file, rootCause(err)), "")
}

func quirksOf(file string) (func(*ipmi.Quirks), error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, unreadable(file, err)
	}
	return ipmi.ParseQuirks(file, text)
}

// explained gives a BMC's fault a remedy.
func explained(err error) error {
	f, ok := errors.AsType[*testbed.Fault](err)
	if !ok {
		return err
	}
	return command.Hint(err, map[testbed.FaultKind]string{
		testbed.Silent:      "is the address right, is UDP port 623 open on the way, and is IPMI over LAN enabled in the BMC?",
		testbed.Denied:      "check --user, the password, and the user's privilege in the BMC; --operator asks for less",
		testbed.Unconfirmed: "ask again with 'imgpipe power status'; look at the machine itself if the answers contradict each other",
		testbed.Stolen:      "somebody else is logged in to the BMC; try again when they have gone",
		testbed.Broken:      "reset the BMC from its web page; see docs/operations.md",
		testbed.Unsupported: "this BMC cannot do that; docs/formats.md says which quirks there are",
	}[f.Kind])
}

// do does what the verb says and keeps what there is to say.
func (r *powerResult) do(ctx context.Context, m *ipmi.Machine, verb string, boot *testbed.Boot) error {
	var err error
	switch verb {
	case "on":
		err = m.PowerOn(ctx)
	case "off":
		err = m.PowerOff(ctx)
	case "shutdown":
		err = m.Shutdown(ctx)
	case "reset":
		err = m.Reset(ctx)
	case "cycle":
		err = m.Cycle(ctx)
	case "boot":
		if boot != nil {
			err = m.SetBoot(ctx, *boot)
		}
		if err == nil {
			var b testbed.Boot
			b, err = m.BootOrder(ctx)
			r.Boot = &bootResult{b.Device, b.Once, b.Firmware}
		}
		return err
	case "sensors":
		r.Sensors, err = m.Sensors(ctx)
		return err
	case "events":
		r.Events, err = m.HardwareEvents(ctx)
		return err
	}
	if err != nil {
		return err
	}
	p, err := m.Power(ctx)
	r.Power = p.String()
	return err
}

func (r *powerResult) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	switch {
	case r.Power != "":
		fmt.Fprintf(t, "%s: %s\n", r.Addr, r.Power)
	case r.Boot != nil && r.Boot.Device == "":
		fmt.Fprintf(t, "%s: its own order\n", r.Addr)
	case r.Boot != nil:
		fmt.Fprintf(t, "%s: %s, %s %s\n", r.Addr, r.Boot.Device, map[bool]string{true: "once", false: "for good"}[r.Boot.Once], r.Boot.Firmware)
	}
	for _, s := range r.Sensors {
		fmt.Fprintf(t, "%s\t%g %s\t%s\n", s.Name, s.Value, s.Unit, s.State)
	}
	for _, e := range r.Events {
		at := "no time"
		if !e.Time.IsZero() {
			at = e.Time.Format(time.RFC3339)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\n", e.ID, at, e.What)
	}
	return t.Flush()
}
