package element

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// IMAGE_ELEMENT, its two relatives and what hooks do with them are
// diskimage-builder's (element_dependencies.py, _output_env_vars).

// Names returns the elements' names, separated by blanks, for IMAGE_ELEMENT.
func Names(elements []*Element) string {
	var names []string
	for _, e := range elements {
		names = append(names, e.Name)
	}
	return strings.Join(names, " ")
}

// YAML returns a mapping from names to directories, sorted by name, for
// IMAGE_ELEMENT_YAML.
func YAML(elements []*Element) string {
	dirs := map[string]string{}
	for _, e := range elements {
		dirs[e.Name] = e.Dir
	}
	if len(dirs) == 0 {
		return "{}\n"
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(dirs)) {
		b.WriteString(yamlScalar(name) + ": " + yamlScalar(dirs[name]) + "\n")
	}
	return b.String()
}

var (
	yamlPlain   = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./+@%=~-]*$`)
	yamlWord    = regexp.MustCompile(`(?i)^(y|n|yes|no|on|off|true|false|null)$`)
	yamlSpecial = regexp.MustCompile(`[^ -~\x{a1}-\x{2027}\x{2030}-\x{d7ff}]`)
)

// yamlScalar writes text so that YAML 1.1 reads it back as the same text.
func yamlScalar(s string) string {
	switch {
	case yamlPlain.MatchString(s) && !yamlWord.MatchString(s):
		return s
	case yamlSpecial.MatchString(s):
		b, _ := json.Marshal(s) // cannot fail; a JSON string is a YAML one
		return string(b)
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// ArrayFunction returns the value of the environment variable
// BASH_FUNC_get_image_element_array%%, by which bash imports the function.
// Hooks call it as
//
//	eval declare -A elements=($(get_image_element_array))
func ArrayFunction(elements []*Element) string {
	return "() {\n  echo \"" + arrayText(elements) + "\"\n}"
}

var shellPlain = regexp.MustCompile(`^[A-Za-z0-9_./+@%=:,-]+$`)

// arrayText is what the function prints, as it stands between double quotes.
// The caller's eval takes it apart again, so that a directory with blanks needs
// quotes of its own.
func arrayText(elements []*Element) string {
	quote := func(s string) string {
		if shellPlain.MatchString(s) {
			return s
		}
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for _, e := range elements {
		b.WriteString("[" + quote(e.Name) + "]=" + quote(e.Dir) + " ")
	}
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(b.String())
}

// Shell is text that sets, in a shell that evaluates it, what hooks are told:
// IMAGE_ELEMENT, IMAGE_ELEMENT_YAML and the function get_image_element_array,
// all exported.
func Shell(elements []*Element) string {
	word := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	return "export IMAGE_ELEMENT=" + word(Names(elements)) + "\n" +
		"export IMAGE_ELEMENT_YAML=" + word(YAML(elements)) + "\n" +
		"get_image_element_array" + ArrayFunction(elements) + "\n" +
		"export -f get_image_element_array\n"
}
