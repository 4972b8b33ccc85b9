package collectcfg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
)

// DefaultConfig is the configuration file.
const DefaultConfig = "/etc/os-collect-config.conf"

// Config is what the configuration file and the command line say.
type Config struct {
	Command    string // for the shell; empty means to print what was collected
	Cache      string
	Collectors []string // names of sources, in order
	OneTime    bool     // end after the first collection
	Force      bool     // run the command without a change too; implies OneTime
	Print      bool     // print what was collected; do not run the command
	Min, Max   time.Duration
	LocalDirs  []string
	Seed       string // a directory to read instead of a seed device
}

// Defaults are the settings of a machine without a configuration file.
func Defaults() Config {
	return Config{
		Cache: DefaultCache, Collectors: slices.Clone(Collectors), LocalDirs: []string{DefaultLocal},
		Min: time.Second, Max: 30 * time.Second,
	}
}

// Collectors are the names of the sources there are.
var Collectors = []string{"nocloud", "local"}

// Read takes the settings of an INI file into the configuration. Settings
// that it does not know belong to other programs' sources, and are passed
// over; a file that is not there is an error of its own kind, fs.ErrNotExist.
func (c *Config) Read(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	settings, err := parseINI(string(data))
	for _, s := range settings {
		if err != nil {
			break
		}
		if err = c.set(s); err != nil {
			err = &lineError{s.line, err.Error()}
		}
	}
	if e, ok := errors.AsType[*lineError](err); ok {
		return command.BadInput(fmt.Errorf("%s:%d: %s", path, e.line, e.problem), "see docs/templates.md for the settings of collectcfg")
	}
	return err
}

func (c *Config) set(s setting) (err error) {
	last := s.values[len(s.values)-1]
	switch s.section + "/" + s.key {
	case "DEFAULT/command":
		c.Command = last
	case "DEFAULT/cachedir":
		c.Cache = last
	case "DEFAULT/collectors":
		c.Collectors = nil
		for _, v := range s.values {
			c.Collectors = append(c.Collectors, strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })...)
		}
	case "DEFAULT/one-time":
		c.OneTime, err = truth(last)
	case "DEFAULT/force":
		c.Force, err = truth(last)
	case "DEFAULT/print":
		c.Print, err = truth(last)
	case "DEFAULT/min-polling-interval":
		c.Min, err = seconds(last)
	case "DEFAULT/polling-interval":
		c.Max, err = seconds(last)
	case "local/path":
		c.LocalDirs = s.values
	case "nocloud/seed":
		c.Seed = last
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.key, err)
	}
	return nil
}

func truth(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true", "yes", "on":
		return true, nil
	case "0", "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

func seconds(s string) (time.Duration, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0 && n < 1e6) {
		return 0, fmt.Errorf("%q is no number of seconds", s)
	}
	return time.Duration(n * float64(time.Second)), nil
}

// Sources makes the collectors that the configuration names.
func (c *Config) Sources() ([]Source, error) {
	var all []Source
	for _, name := range c.Collectors {
		var s Collector
		switch name {
		case "local":
			s = Local{c.LocalDirs}
		case "nocloud":
			s = &NoCloud{Seed: c.Seed}
		default:
			return nil, command.Usage(fmt.Sprintf("no such source: %q", name), "the sources are "+strings.Join(Collectors, ", "))
		}
		all = append(all, Source{name, s})
	}
	return all, nil
}

// setting is one setting of an INI file, with every value it was given.
type setting struct {
	section, key string
	values       []string
	line         int // of the last value
}

// lineError is a problem of a configuration file.
type lineError struct {
	line    int
	problem string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.problem) }

// parseINI reads the format of oslo.config: sections, "key = value", a key
// given again adds a value, a line that begins with a blank continues the
// last. "_" and "-" are the same in a key.
func parseINI(text string) ([]setting, error) {
	var all []setting
	section, current, n := "DEFAULT", -1, 0
	for line := range strings.Lines(text) {
		n++
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "":
			current = -1
		case trimmed[0] == '#' || trimmed[0] == ';':
		case line[0] == ' ' || line[0] == '\t':
			if current < 0 {
				return nil, &lineError{n, "a continuation of nothing"}
			}
			v := all[current].values
			v[len(v)-1] += "\n" + trimmed
		case trimmed[0] == '[':
			name, ok := strings.CutSuffix(trimmed[1:], "]")
			if !ok || name == "" {
				return nil, &lineError{n, "a section is written [name]"}
			}
			section, current = name, -1
		default:
			i := strings.IndexAny(trimmed, "=:")
			if i < 1 {
				return nil, &lineError{n, "a setting is written key = value"}
			}
			key := strings.ReplaceAll(strings.TrimSpace(trimmed[:i]), "_", "-")
			value := strings.TrimSpace(trimmed[i+1:])
			if len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
				value = value[1 : len(value)-1]
			}
			current = slices.IndexFunc(all, func(s setting) bool { return s.section == section && s.key == key })
			if current < 0 {
				all, current = append(all, setting{section: section, key: key}), len(all)
			}
			all[current].values, all[current].line = append(all[current].values, value), n
		}
	}
	return all, nil
}

// ReadDefault reads the machine's configuration file if there is one.
func (c *Config) ReadDefault() error {
	err := c.Read(DefaultConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
