package collectcfg

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/collectcfg/oslo"
	"goldsmith/internal/command"
)

// ConfigName is what configuration files are called, in the home directory or,
// without one there, in /etc. A directory NAME.d beside it is read as well.
const ConfigName = "os-collect-config.conf"

// Config is what configuration files and command line say.
type Config struct {
	*oslo.Settings
	Original      bool     // as os-collect-config
	Collectors    []string // names of sources, in order
	Min, Max      time.Duration
	Splay         time.Duration // the longest wait before the first collection
	Converged     time.Duration // 0: does not end by itself
	Repair        string        // report, restore or empty
	OneTime       bool
	Force, Print  bool
	Command       string
	Cache, Backup string // directories
}

// Load reads the command line and the files it names, else the machine's.
// original reads them as os-collect-config. Errors that ask for the help text
// or the version are those of package oslo.
func Load(args []string, original bool) (*Config, error) {
	p := oslo.Parser{Options: Options(!original), Home: home(), Getenv: os.LookupEnv, Lenient: !original}
	p.Files, p.Dirs = machineFiles(p.Home, "/etc")
	s, err := p.Parse(args)
	if err != nil {
		return nil, problem(err)
	}
	c := &Config{Settings: s, Original: original}
	return c, problem(c.take())
}

// home is the user's home directory; services are often started without HOME.
func home() string {
	if dir := os.Getenv("HOME"); dir != "" {
		return dir
	}
	if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil {
		return u.HomeDir
	}
	return ""
}

// machineFiles are the configuration files that are there: of files and of
// directories each the first.
func machineFiles(dirs ...string) (files, confDirs []string) {
	first := func(name string) []string {
		for _, d := range dirs {
			path := filepath.Join(d, name)
			if _, err := os.Stat(path); d != "" && err == nil {
				return []string{path}
			}
		}
		return nil
	}
	return first(ConfigName), first(ConfigName + ".d")
}

// problem gives an error its status and remedy.
func problem(err error) error {
	if e, ok := errors.AsType[*oslo.UsageError](err); ok {
		return &command.Error{Status: command.StatusUsage, Err: e, Hint: "see --help"}
	}
	if e, ok := errors.AsType[*oslo.ValueError](err); ok {
		return &command.Error{Status: command.StatusUsage, Err: e, Hint: "see --help"}
	}
	if e, ok := errors.AsType[*oslo.FileError](err); ok {
		return command.BadInput(e, "see docs/templates.md for the settings of collectcfg")
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return command.BadInput(err, "see --config-file and --config-dir")
	}
	return err
}

func (c *Config) take() error {
	text := func(name string) string { t, _ := c.Text(name); return t }
	c.Command, c.Cache, c.Backup = text("command"), text("cachedir"), text("backup_cachedir")
	c.OneTime, c.Force, c.Print = c.Bool("one_time") || c.Bool("force"), c.Bool("force"), c.Bool("print_only")
	c.Collectors = c.List("collectors")
	c.Min, c.Max, c.Splay = c.seconds("min_polling_interval"), c.seconds("polling_interval"), c.seconds("splay")
	if c.Original {
		return nil
	}
	separator := func(r rune) bool { return r == ',' || r == ' ' }
	c.Collectors = strings.FieldsFunc(strings.Join(c.Collectors, ","), separator)
	if c.Min <= 0 || c.Max <= 0 {
		return &oslo.ValueError{Problem: "a polling interval is a positive number of seconds, such as 30"}
	}
	if t := text("converged_timeout"); t != "" {
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 {
			return &oslo.ValueError{Problem: fmt.Sprintf("converged-timeout: %q is no duration, such as 30s", t)}
		}
		c.Converged = d
	}
	if c.Repair = text("repair"); c.Repair != "" && !slices.Contains(RepairModes, c.Repair) {
		return &oslo.ValueError{Problem: fmt.Sprintf("repair: %q is neither report nor restore", c.Repair)}
	}
	return nil
}

// maxSeconds bounds what a setting can ask for.
const maxSeconds = 1e6

func (c *Config) seconds(name string) time.Duration {
	f, _ := c.Float(name)
	return time.Duration(min(max(f, 0), maxSeconds) * float64(time.Second))
}

// NewCache is the cache that the configuration asks for.
func (c *Config) NewCache() *Cache {
	return &Cache{Dir: c.Cache, Backup: c.Backup, Original: c.Original}
}

// Sources makes the collectors that the configuration names.
func (c *Config) Sources(cache *Cache) ([]Source, error) {
	known := SourceNames()
	if c.Original {
		known = OriginalCollectors
	}
	var all []Source
	var seed *NoCloud
	for _, name := range c.Collectors {
		if !slices.Contains(known, name) && (c.Original || replaced[name] == "") {
			return nil, command.Usage(fmt.Sprintf("no such source: %q", name), "the sources are "+strings.Join(known, ", "))
		}
		if slices.ContainsFunc(all, func(s Source) bool { return s.Name == name }) {
			continue // named twice
		}
		if remedy := replaced[name]; remedy != "" {
			if c.Original && !c.configured(name) {
				continue
			}
			return nil, command.Usage("source "+name+": not supported", remedy)
		}
		s := c.source(name, seed, cache)
		if n, ok := s.(*NoCloud); ok {
			seed = n
		}
		all = append(all, Source{name, s})
	}
	return all, nil
}

// configured says that the original would use one of its sources that ours
// does not have.
func (c *Config) configured(name string) bool {
	for _, key := range []string{"auth_url", "user_id", "password", "project_id"} {
		if _, ok := c.Text(name + "." + key); !ok {
			return false
		}
	}
	return true
}

// timeout is a source's, 10 s where the setting is none.
func (c *Config) timeout(source string) time.Duration {
	if d := c.seconds(source + ".timeout"); d > 0 {
		return d
	}
	return 10 * time.Second
}

func (c *Config) source(name string, seed *NoCloud, cache *Cache) Collector {
	text := func(key string) string { t, _ := c.Text(name + "." + key); return t }
	keys := c.List("deployment_key")
	switch name {
	case "local":
		return Local{c.List("local.path"), c.Original}
	case "nocloud":
		return &NoCloud{Seed: text("seed"), devices: machineDevices}
	case "heat_local":
		return HeatLocal{c.List("heat_local.path")}
	case "config_drive":
		return ConfigDrive{machineDevices}
	case "instance_data":
		return InstanceData{text("path")}
	case "ec2":
		return &EC2{
			URL: text("metadata_url"), Timeout: c.timeout(name), Original: c.Original, Cache: cache,
			devices: machineDevices,
		}
	case "cfn":
		return &CFN{
			URL: text("metadata_url"), Hint: text("heat_metadata_hint"), CAFile: text("ca_certificate"),
			Stack: text("stack_name"), Paths: c.List("cfn.path"), KeyID: text("access_key_id"),
			SecretKey: text("secret_access_key"), Timeout: c.timeout(name),
			Keys: c.List("cfn.deployment_key"), Original: c.Original,
		}
	case "request":
		q := &Request{Name: name, URL: text("metadata_url"), Timeout: c.timeout(name), Keys: keys, Original: c.Original}
		if !c.Original {
			q.TokenFile = text("token_file")
		}
		return q
	default: // imgpipe
		return &Request{
			Name: name, URL: text("url"), TokenFile: text("token_file"), CAFile: text("ca_certificate"),
			Timeout: c.timeout(name), Keys: keys, Seed: seed,
		}
	}
}

// Changed returns a function that says whether the configuration files are
// other ones than they were.
func (c *Config) Changed() func() bool {
	files := c.Read
	if c.Original { // does not look at directories
		files = c.Files
	}
	before := digest(files)
	return func() bool { return digest(files) != before }
}

// digest is one of what can be read of the files.
func digest(files []string) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			h.Write(b)
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Log opens the file that log-file and log-dir name, or returns stderr. The
// caller closes it.
func (c *Config) Log(stderr io.Writer) (io.WriteCloser, error) {
	name, _ := c.Text("log_file")
	dir, _ := c.Text("log_dir")
	switch {
	case name == "" && dir == "":
		return stays{stderr}, nil
	case name == "":
		name = filepath.Join(dir, "os-collect-config.log")
	case !filepath.IsAbs(name):
		name = filepath.Join(dir, name)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, command.BadInput(err, "see --log-file")
	}
	return f, nil
}

// stays is a writer that is not closed.
type stays struct{ io.Writer }

func (stays) Close() error { return nil }
