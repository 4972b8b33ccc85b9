package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"goldsmith/internal/command"
)

// printTemplates prints the directory of templates as it was given; with --json
// also that of files, both as whoever is elsewhere finds them.
func (a *app) printTemplates(io command.IO) error {
	if !a.json {
		fmt.Fprintln(io.Stdout, a.templates)
		return nil
	}
	var tree struct {
		Templates string `json:"templates"`
		Output    string `json:"output"`
	}
	var err error
	if tree.Templates, err = absolute(a.templates); err == nil {
		tree.Output, err = absolute(a.output)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(io.Stdout).Encode(tree)
}

// absolute is the absolute path of a directory, without symbolic links if it is there.
func absolute(dir string) (string, error) {
	if path, err := filepath.EvalSymlinks(dir); err == nil {
		dir = path
	}
	return filepath.Abs(dir)
}
