package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// inputs are values of a pipeline file's inputs: --set NAME=VALUE.
type inputs map[string]string

// setFlag declares --set.
func setFlag(fs *flag.FlagSet, in *inputs) {
	*in = inputs{}
	fs.Var(in, "set", "give the pipeline file's input a value: `NAME=VALUE`; may be given several times")
}

func (in *inputs) String() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(*in)) {
		all = append(all, name+"="+(*in)[name])
	}
	return strings.Join(all, " ")
}

// Set implements flag.Value.
func (in *inputs) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("expected NAME=VALUE")
	}
	if old, ok := (*in)[name]; ok && old != value {
		return fmt.Errorf("input %s is given twice", name)
	}
	(*in)[name] = value
	return nil
}
