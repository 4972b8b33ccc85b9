package applycfg

import (
	"slices"
	"strings"
	"unicode"
)

// secretEnds are ends of words that say that a value is a secret.
var secretEnds = []string{"password", "passwd", "passphrase", "secret", "token", "credential"}

// passWords end with pass and mean no password.
var passWords = []string{"bypass", "compass", "overpass", "surpass", "trespass", "underpass"}

// keyKinds are words beside key, or in one with it, that say that it is a secret.
var keyKinds = []string{"private", "secret", "access", "api", "master", "ssh", "rsa", "pem"}

// secretWord says that one of a name's words says that its value is a secret. It
// is for names that are values, of which there are many that only have such a
// word in another: keystone_region, kernel.keys.maxkeys.
func secretWord(name string) bool {
	all := nameWords(name)
	for i, w := range all {
		kind, isKey := strings.CutSuffix(w, "key")
		switch {
		case endsWith(w, secretEnds), strings.HasSuffix(w, "pass") && !endsWith(w, passWords):
			return true
		case isKey && kind != "":
			if endsWith(kind, keyKinds) {
				return true
			}
		case isKey && (i > 0 && slices.Contains(keyKinds, all[i-1]) ||
			i == len(all)-1 || len(all[i+1]) == 1 || slices.Contains(keyKinds, all[i+1])):
			return true // KEY_A as KEY_1
		}
	}
	return false
}

func endsWith(word string, ends []string) bool {
	return slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(word, end) })
}

// nameWords are the words of a name in lower case, which signs, digits and capitals
// part, without the s of a plural.
func nameWords(name string) []string {
	var b strings.Builder
	all := []rune(name)
	for i, r := range all {
		switch {
		case !unicode.IsLetter(r):
			b.WriteByte(' ')
			continue
		case i > 0 && unicode.IsUpper(r) && (unicode.IsLower(all[i-1]) || i+1 < len(all) && unicode.IsLower(all[i+1])):
			b.WriteByte(' ') // sshKey, APIKey
		}
		b.WriteRune(unicode.ToLower(r))
	}
	words := strings.Fields(b.String())
	for i, w := range words {
		if !strings.HasSuffix(w, "ss") { // access, pass
			words[i] = strings.TrimSuffix(w, "s")
		}
	}
	return words
}
