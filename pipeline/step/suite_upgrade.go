package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
)

// upgradeWith are the parameters of the suite upgrade.
type upgradeWith struct {
	machineWith `yaml:",inline"`
	From        string // a channel of the file, or a digest; empty means the first channel
	First       string // what it means that nothing is in the channel yet: pass or fail; empty means pass
	Restart     string // reboot or kexec; empty means reboot
	Load        string // redis or none; empty means redis where the machine can be reached for it
}

// upgrade brings a machine from the image that was promoted last to the image
// under test, and back, under load.
type upgrade struct {
	with *upgradeWith
	from *registry.Image // set by prepare
}

func newUpgrade(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w upgradeWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	var errs []error
	check := func(ok bool, key, format string, args ...any) {
		if !ok {
			errs = append(errs, p.Errorf(stage, key, format, args...))
		}
	}
	if w.From == "" && len(p.Channels) > 0 {
		w.From = p.Channels[0].Name
	}
	w.First, w.Restart = cmp.Or(w.First, "pass"), cmp.Or(w.Restart, "reboot")
	port, password := redisOf(w.Metadata)
	check(w.From != "", "from", "with.from is missing, and the file has no channels: name what to update from")
	check(w.From == "" || strings.HasPrefix(w.From, "sha256:") || p.Channel(w.From) != nil,
		"from", "with.from %q is neither one of the file's channels nor a digest", w.From)
	check(w.First == "pass" || w.First == "fail", "first", "with.first %q: expected pass or fail", w.First)
	check(w.Restart == "reboot" || w.Restart == "kexec", "restart", "with.restart %q: expected reboot or kexec", w.Restart)
	check(slices.Contains([]string{"", "redis", "none"}, w.Load), "load", "with.load %q: expected redis or none", w.Load)
	check(w.Load != "redis" || password != "", "load", "with.load redis: with.metadata.redis.password is missing; "+
		"without one the server listens on the loopback only")
	check(port >= 1 && port <= 65535, "metadata", "with.metadata.redis.port is not a port")
	st, err := newOnMachine(env, p, stage, &w.machineWith, "upgrade", &upgrade{with: &w})
	return st, yamlfile.Join(append(errs, err)...)
}

// redisOf reads where a machine with these metadata has its server.
func redisOf(metadata map[string]any) (port int, password string) {
	m, _ := metadata["redis"].(map[string]any)
	if port = 6379; m["port"] != nil {
		port, _ = m["port"].(int)
	}
	password, _ = m["password"].(string)
	return port, password
}

// prepare implements preparer: it finds the image to begin with.
func (u *upgrade) prepare(_ context.Context, env Env, j *pipeline.Job) ([]evidence.Test, string, error) {
	images := env.Store.Images
	img, err := images.Image(j.Image)
	if err != nil {
		return nil, "", err
	}
	digest := u.with.From
	if !strings.HasPrefix(digest, "sha256:") {
		tags, err := images.Tags()
		if err != nil {
			return nil, "", err
		}
		if digest = tags[u.with.From]; digest == "" {
			return []evidence.Test{u.first()}, "", nil
		}
	}
	if digest == j.Image {
		// Said of another stage's evidence it would be a proof of nothing.
		return nil, fmt.Sprintf("%s holds this image already: there is nothing to update from, and earlier evidence stands",
			u.with.From), nil
	}
	if u.from, err = images.Image(digest); err != nil {
		return nil, "", err
	}
	return nil, "", errors.Join(updatable(u.from), updatable(img), follows(u.from, img))
}

// first is the test when nothing was ever promoted.
func (u *upgrade) first() evidence.Test {
	t := evidence.Test{Name: "first", Element: "upgrade", Result: evidence.Pass,
		Output: fmt.Sprintf("nothing is in %s yet: no machine runs an image that could be updated to this one\n", u.with.From)}
	if u.with.First == "fail" {
		t.Result, t.Output, t.Class = evidence.Fail, "", evidence.TestFault
		t.Reason = fmt.Sprintf("nothing is in %s yet, and with.first says that this is a failure", u.with.From)
		t.Because = "the stage asks for an image to update from"
	}
	return t
}

// updatable refuses an image that cannot be updated, or not be asked.
func updatable(img *registry.Image) error {
	for _, e := range []string{"imgupdate", "ssh-server"} {
		if !slices.Contains(img.Elements, e) {
			return command.BadInput(fmt.Errorf("image %s %s has no element %s", img.Name, img.Version, e),
				"add "+e+" to the definition's elements")
		}
	}
	return nil
}

// follows refuses what a machine would: docs/updates.md.
func follows(from, to *registry.Image) error {
	switch {
	case from.Name != to.Name:
		return command.BadInput(fmt.Errorf("image %s cannot be updated to %s: they have different names", from.Name, to.Name),
			"deploy other images, do not update to them")
	case from.Version == to.Version:
		return command.BadInput(fmt.Errorf("image %s: two images have version %s", to.Name, to.Version),
			"give each image a version of its own")
	}
	return nil
}

// run implements suite.
func (u *upgrade) run(ctx context.Context, s *subject) ([]evidence.Test, error) {
	s.follows = true
	return s.inParts(ctx, func(ctx context.Context) error {
		if err := s.begin(ctx, u.from.Digest); err != nil {
			return err
		}
		to, err := s.env.Store.Images.Image(s.job.Image)
		if err != nil {
			return err
		}
		load, why := u.load(s)
		if load == nil {
			s.skip("writes", why)
		} else {
			load.start(ctx)
			defer load.end()
			if err := s.part(ctx, "load", func(ctx context.Context) error { return load.begins(ctx) }); err != nil {
				return err
			}
		}
		if err := u.pass(ctx, s, "update", to, load); err != nil {
			return err
		}
		if err := u.pass(ctx, s, "back", u.from, load); err != nil || load == nil {
			return err
		}
		load.end()
		return nil
	})
}

// load is what writes to the machine; without one, it says why.
func (u *upgrade) load(s *subject) (*redisLoad, string) {
	port, password := redisOf(s.metadata)
	switch {
	case u.with.Load == "none":
		return nil, "with.load is none"
	case !slices.Contains(s.img.Elements, "redis"):
		return nil, "the image has no element redis"
	case password == "":
		return nil, "with.metadata.redis.password is not given: the server listens on the loopback only"
	}
	return newRedisLoad(s, port, password), ""
}

func newRedisLoad(s *subject, port int, password string) *redisLoad {
	addr := netip.AddrPortFrom(s.addr, uint16(port)).String()
	return &redisLoad{password: password, prefix: "goldsmith:load:" + strconv.Itoa(s.job.Attempt) + ":",
		dial: func(ctx context.Context) (net.Conn, error) { return s.bench.network().Dial(ctx, "tcp", addr) }}
}

// pass has the machine run another image under load, tests that, and accounts
// for the writes.
func (u *upgrade) pass(ctx context.Context, s *subject, name string, to *registry.Image, load *redisLoad) error {
	from := time.Now()
	err := s.part(ctx, name, func(ctx context.Context) error {
		end, err := s.update(ctx, to.Digest, u.with.Restart)
		if err != nil {
			return err
		}
		s.measure(name+"-seconds", end.seconds, "s")
		if end.verdict != proved {
			return shown(fmt.Sprintf("version %s was %s: %s", to.Version, end.verdict, end.why))
		}
		return nil
	})
	if load != nil {
		if lerr := s.part(ctx, name+"-writes", func(ctx context.Context) error {
			return load.account(ctx, s, name, from)
		}); err == nil {
			err = lerr
		}
	}
	if err != nil {
		return err
	}
	return s.smokeAgain(ctx, to, name)
}

// begins waits until the first writes are acknowledged.
func (l *redisLoad) begins(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, loadLimit, fmt.Errorf("not within %s", loadLimit))
	defer cancel()
	return l.ledger.await(ctx, time.Time{})
}

// account measures what clients noticed since that moment, and looks for every
// write that was ever acknowledged.
func (l *redisLoad) account(ctx context.Context, s *subject, name string, from time.Time) error {
	limited, cancel := context.WithTimeoutCause(ctx, loadLimit, fmt.Errorf("not within %s", loadLimit))
	defer cancel()
	if err := l.ledger.await(limited, time.Now()); err != nil {
		return err
	}
	acks := l.ledger.all()
	s.measure(name+"-downtime", longestGap(acks, from, acks[len(acks)-1].at).Seconds(), "s")
	gone, err := l.lost(limited)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	s.measure(name+"-writes", float64(len(acks)), "writes")
	s.measure(name+"-lost-writes", float64(len(gone)), "writes")
	return lostError(gone, len(acks))
}
