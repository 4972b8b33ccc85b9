package earlyboot

// match tells whether s matches an fnmatch(3) pattern as modules.alias has
// them: "*" is any text, "?" any byte, "[a-z]" one of a set ("[!" or "[^" one
// outside of it), and a backslash takes the next byte as it is. It needs time
// proportional to the product of both lengths at most.
func match(pattern, s string) bool {
	star, mark := -1, 0 // the last "*" seen and where in s it was tried
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := one(pattern[p:], s[i]); ok {
			p, i = p+n, i+1
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// one matches a byte against the first element of a pattern and returns the
// element's length.
func one(pattern string, b byte) (int, bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		if n, ok := set(pattern, b); n > 0 {
			return n, ok
		}
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == b
		}
	}
	return 1, pattern[0] == b
}

// set matches a bracket expression; its length is 0 when it is not closed, and
// then the bracket means itself.
func set(pattern string, b byte) (int, bool) {
	i, not, ok := 1, false, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		not = true
		i++
	}
	for first := i; i < len(pattern); first = -1 {
		lo := pattern[i]
		if lo == ']' && i != first {
			return i + 1, ok != not
		}
		hi := lo
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			hi = pattern[i+2]
			i += 2
		}
		i++
		ok = ok || lo <= b && b <= hi
	}
	return 0, false
}
