package pipeline

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/yamlfile"
)

// Channel is a tag that images are promoted to, and the policy that they must
// satisfy (docs/formats.md). [Gate] decides.
type Channel struct {
	Name string `yaml:"name" json:"name"`
	// From names the channel that an image must have been in before; empty
	// means none.
	From string `yaml:"from" json:"from,omitempty"`
	// Requires are the kinds of evidence that must be there, each a pass.
	Requires []Requirement `yaml:"requires" json:"requires,omitempty"`
	// Soak is how long From must have held the image without a break, such as
	// 24h or 7d; empty means no time at all.
	Soak      string     `yaml:"soak" json:"soak,omitempty"`
	Approvals *Approvals `yaml:"approvals" json:"approvals,omitempty"`
	Freeze    []Window   `yaml:"freeze" json:"freeze,omitempty"`
	// SignedBy names the files of public keys whose evidence counts, relative
	// to this file; empty means that all evidence counts, signed or not.
	SignedBy []string `yaml:"signed-by" json:"signed_by,omitempty"`
	// Reruns says whether evidence counts whose tests passed only when they
	// were run again: "count", which is the default, or "refuse".
	Reruns string `yaml:"reruns" json:"reruns,omitempty"`
	// Sign is the file of a private key, relative to this file, that signs the
	// promotion, and the image as a release; empty means neither is signed.
	Sign string `yaml:"sign" json:"sign,omitempty"`
	// Registry is HOST/REPOSITORY where the tag is moved, too.
	Registry string `yaml:"registry" json:"registry,omitempty"`
}

// Requirement is one kind of evidence, or several of which one is enough. A
// kind is that of the evidence (libvirt-smoke), or that with the firmware of
// the machine (libvirt-smoke-uefi).
type Requirement []string

// UnmarshalYAML reads a text, or a mapping with the list "any".
func (r *Requirement) UnmarshalYAML(n *yaml.Node) error {
	bad := fmt.Errorf("line %d: expected a kind of evidence, or any: [KIND, ...]", n.Line)
	switch {
	case n.Kind == yaml.ScalarNode && n.Value != "":
		*r = Requirement{n.Value}
		return nil
	case n.Kind != yaml.MappingNode || len(n.Content) != 2 || n.Content[0].Value != "any":
		return &yaml.TypeError{Errors: []string{bad.Error()}}
	}
	var kinds []string
	if err := n.Content[1].Decode(&kinds); err != nil || len(kinds) == 0 {
		return &yaml.TypeError{Errors: []string{bad.Error()}}
	}
	*r = kinds
	return nil
}

// String is such as "libvirt-smoke" or "any of metal-smoke, libvirt-smoke".
func (r Requirement) String() string {
	if len(r) == 1 {
		return r[0]
	}
	return "any of " + strings.Join(r, ", ")
}

// Approvals say how many people must agree, and who may. The authors of an
// image never may: who wrote the commit, who started the run.
type Approvals struct {
	Count int      `yaml:"count" json:"count"`
	Of    []string `yaml:"of" json:"of"` // names of people, and of groups with "@" before
	// Expires is how long an approval counts; empty means for ever.
	Expires string `yaml:"expires" json:"expires,omitempty"`
	// People are Of with the groups' members in place of the groups. Reading
	// the file fills it.
	People []string `yaml:"-" json:"people"`
}

// Policies are channels, and the groups of people that they name: a part of a
// pipeline file, or a file of its own.
type Policies struct {
	APIVersion string
	Groups     map[string][]string
	Channels   []Channel
}

// LoadPolicies reads the channels of a file: one of channels, or a pipeline's,
// of which nothing else is looked at. The error names the file and the line of
// everything that is wrong.
func LoadPolicies(file string) (*Policies, error) {
	var d document
	f, err := yamlfile.Read(file, &d)
	if err != nil {
		return nil, err
	}
	p := &Policies{APIVersion: d.APIVersion, Groups: d.Groups, Channels: d.Channels}
	errs := p.check(f)
	if p.APIVersion != APIVersion {
		errs = append(errs, f.Errorf([]any{"apiVersion"}, "apiVersion %q: this program reads %q", p.APIVersion, APIVersion))
	}
	if err := yamlfile.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// Channel returns the channel called name, or nil.
func (p *Policies) Channel(name string) *Channel {
	for i := range p.Channels {
		if p.Channels[i].Name == name {
			return &p.Channels[i]
		}
	}
	return nil
}

// Policies returns the channels of a pipeline file.
func (p *Pipeline) Policies() *Policies {
	return &Policies{APIVersion: p.APIVersion, Groups: p.Groups, Channels: p.Channels}
}

// Channel returns the channel called name, or nil.
func (p *Pipeline) Channel(name string) *Channel { return p.Policies().Channel(name) }

// checkChannels returns everything that is wrong with a file's channels and
// groups.
func (p *Pipeline) checkChannels() []error { return p.Policies().check(p.file) }

// personRE is the form of a person's or a group's name: a login, an address.
var personRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}$`)

// Bounds of what one file may hold.
const (
	maxChannels = 64
	maxListed   = 256 // entries of a list in a channel or a group
)

// checker collects what is wrong with a file.
type checker struct {
	file *yamlfile.File
	errs []error
}

func (c *checker) bad(at []any, format string, args ...any) {
	c.errs = append(c.errs, c.file.Errorf(at, format, args...))
}

func (p *Policies) check(f *yamlfile.File) []error {
	c := &checker{file: f}
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		members := p.Groups[name]
		if !nameRE.MatchString(name) || len(members) == 0 || len(members) > maxListed {
			c.bad([]any{"groups", name}, "group %q: lower case letters, digits and '-', with 1 to %d members", name, maxListed)
		}
		for j, m := range members {
			if !personRE.MatchString(m) {
				c.bad([]any{"groups", name, j}, "group %s: %q is no name of a person", name, m)
			}
		}
	}
	if len(p.Channels) > maxChannels {
		c.bad([]any{"channels"}, "%d channels: at most %d", len(p.Channels), maxChannels)
		return c.errs
	}
	seen := map[string]bool{}
	for i := range p.Channels {
		ch := &p.Channels[i]
		if !nameRE.MatchString(ch.Name) || seen[ch.Name] {
			c.bad([]any{"channels", i, "name"}, "channel name %q: lower case letters, digits and '-', and only once", ch.Name)
		}
		seen[ch.Name] = true
		p.checkChannel(c, i)
	}
	p.checkFrom(c)
	return c.errs
}

func (p *Policies) checkChannel(c *checker, i int) {
	ch := &p.Channels[i]
	at := func(keys ...any) []any { return append([]any{"channels", i}, keys...) }
	for j, r := range ch.Requires {
		for _, kind := range r {
			if !nameRE.MatchString(kind) {
				c.bad(at("requires", j), "channel %s: %q is not a kind of evidence", ch.Name, kind)
			}
		}
	}
	if len(ch.Requires) > maxListed || len(ch.Freeze) > maxListed || len(ch.SignedBy) > maxListed {
		c.bad(at(), "channel %s: a list has more than %d entries", ch.Name, maxListed)
	}
	if _, err := span(ch.Soak); err != nil {
		c.bad(at("soak"), "channel %s: soak: %v", ch.Name, err)
	}
	if ch.Soak != "" && ch.From == "" {
		c.bad(at("soak"), "channel %s: soak needs from: the channel that images soak in", ch.Name)
	}
	if ch.Reruns != "" && ch.Reruns != "count" && ch.Reruns != "refuse" {
		c.bad(at("reruns"), "channel %s: reruns %q: expected count or refuse", ch.Name, ch.Reruns)
	}
	if strings.ContainsAny(ch.Registry, "@ \t") || ch.Registry != "" && !strings.Contains(ch.Registry, "/") {
		c.bad(at("registry"), "channel %s: registry %q: expected HOST/REPOSITORY without a tag", ch.Name, ch.Registry)
	}
	for j, w := range ch.Freeze {
		if _, err := w.parse(); err != nil {
			c.bad(at("freeze", j), "channel %s: freeze: %v", ch.Name, err)
		}
	}
	if ch.Approvals != nil {
		p.checkApprovals(c, ch, at)
	}
}

// checkApprovals also puts the members in place of the groups.
func (p *Policies) checkApprovals(c *checker, ch *Channel, at func(...any) []any) {
	a := ch.Approvals
	a.People = nil
	for j, who := range a.Of {
		group, isGroup := strings.CutPrefix(who, "@")
		switch {
		case isGroup && p.Groups[group] == nil:
			c.bad(at("approvals", "of", j), "channel %s: no group %q in groups", ch.Name, group)
		case isGroup:
			a.People = append(a.People, p.Groups[group]...)
		case !personRE.MatchString(who):
			c.bad(at("approvals", "of", j), "channel %s: %q is no name of a person", ch.Name, who)
		default:
			a.People = append(a.People, who)
		}
	}
	slices.Sort(a.People)
	a.People = slices.Compact(a.People)
	if a.Count < 1 || a.Count > len(a.People) {
		c.bad(at("approvals", "count"), "channel %s: approvals: count %d of %d people", ch.Name, a.Count, len(a.People))
	}
	if _, err := span(a.Expires); err != nil {
		c.bad(at("approvals", "expires"), "channel %s: expires: %v", ch.Name, err)
	}
}

// checkFrom checks that channels follow each other without a circle.
func (p *Policies) checkFrom(c *checker) {
	for i, ch := range p.Channels {
		if ch.From == "" {
			continue
		}
		at := []any{"channels", i, "from"}
		if p.Channel(ch.From) == nil {
			c.bad(at, "channel %s: from %q is not one of the channels", ch.Name, ch.From)
			continue
		}
		next := p.Channel(ch.From)
		for n := 0; next != nil && n < len(p.Channels); n++ {
			if next.Name == ch.Name {
				c.bad(at, "channel %s comes from itself, directly or through others", ch.Name)
				break
			}
			next = p.Channel(next.From)
		}
	}
}

// span reads a duration as Go writes it, or a number of days (7d); empty is 0.
func span(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, nerr := strconv.ParseUint(days, 10, 16)
		d, err = time.Duration(n)*24*time.Hour, nerr
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q: expected a duration such as 90m, 24h or 7d", text)
	}
	return d, nil
}

// ParseSpan reads a duration as channels have it: 90m, 24h, 7d.
func ParseSpan(text string) (time.Duration, error) {
	if text == "" {
		return 0, errors.New("no duration")
	}
	return span(text)
}

// soak is the channel's soak time; a checked file has no wrong one.
func (c *Channel) soak() time.Duration {
	d, _ := span(c.Soak)
	return d
}
