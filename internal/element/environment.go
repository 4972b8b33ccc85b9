package element

import (
	"strings"

	"gopkg.in/yaml.v3"
)

// YAML is the mapping of element names to directories that hooks find in
// IMAGE_ELEMENT_YAML, keys sorted.
func YAML(elements []*Element) string {
	paths := map[string]string{}
	for _, e := range elements {
		paths[e.Name] = e.Dir
	}
	text, err := yaml.Marshal(paths)
	if err != nil {
		panic(err) // a map of strings can always be written
	}
	return string(text)
}

// ArrayFunction is the body of the exported shell function
// get_image_element_array, whose output makes an associative array of names
// and directories:
//
//	eval declare -A elements=($(get_image_element_array))
//
// A shell finds it in the variable BASH_FUNC_get_image_element_array%%. Words
// are quoted twice: for the function, and for the eval that it is meant for.
func ArrayFunction(elements []*Element) string {
	var words []string
	for _, e := range elements {
		words = append(words, "["+e.Name+"]="+quoteUnlessPlain(e.Dir))
	}
	return "() { echo " + quote(strings.Join(words, " ")) + "; }"
}

// quoteUnlessPlain leaves words alone that a shell does not look into.
func quoteUnlessPlain(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%,=", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return quote(s)
}

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
