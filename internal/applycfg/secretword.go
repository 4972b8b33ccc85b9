package applycfg

import (
	"strings"
	"unicode"
)

// secretWord says that one of a name's words says that its value is a secret. It
// is for names that are values, of which there are many that only have such a
// word in another: keystone_region, kernel.keys.maxkeys.
func secretWord(name string) bool {
	all := nameWords(name)
	for i, w := range all {
		for _, end := range []string{"password", "passwd", "passphrase", "secret", "token", "credential", "apikey",
			"secretkey", "privatekey", "accesskey"} {
			if strings.HasSuffix(w, end) {
				return true
			}
		}
		if w == "pass" || w == "key" && (i == len(all)-1 || i > 0 && all[i-1] == "private") {
			return true
		}
	}
	return false
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
		if w != "pass" {
			words[i] = strings.TrimSuffix(w, "s")
		}
	}
	return words
}
