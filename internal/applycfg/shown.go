package applycfg

import (
	"strings"

	"goldsmith/internal/command"
)

// shown is what may be shown of a file.
type shown interface {
	// mask masks what is secret in the file's content, line by line.
	mask(body string) string
	// hide masks secrets in another text.
	hide(text string) string
	// prove says what of the content is public; the zero value when nobody knows.
	prove(body string) proof
	// keys are those whose values are known to be secret.
	keys() keySet
}

// rendered is what may be shown of a file that was made of metadata.
type rendered struct {
	r *renderer
	// again makes the file of metadata without secrets. Nil: nobody knows what
	// a program does with them.
	again func(*Secrets) ([]byte, error)
}

func (v *rendered) hide(text string) string { return v.r.secrets().hide(text) }
func (v *rendered) keys() keySet            { return v.r.secrets().keys() }

func (v *rendered) mask(body string) string {
	s := v.r.secrets()
	if !s.some() {
		return body
	}
	if v.again != nil {
		if masked, err := v.again(s); err == nil {
			return s.hide(string(masked))
		}
	}
	return stars(body)
}

// prove makes the file again only if a secret in it could not be found: that
// takes as long as to make it.
func (v *rendered) prove(body string) proof {
	s := v.r.secrets()
	switch {
	case !s.some():
		return prove(body, body)
	case v.again == nil:
		return proof{}
	case s.short:
		return prove(body, v.mask(body))
	}
	return prove(body, s.hide(body))
}

// recalled is what may be shown of a file of which only a proof is left.
type recalled struct {
	proof proof
	under keySet   // what was known to be secret
	now   *Secrets // that are known now
}

func (v *recalled) mask(body string) string { return v.now.hide(v.proof.mask(body)) }
func (v *recalled) hide(text string) string { return v.now.hide(text) }
func (v *recalled) keys() keySet            { return v.under }

func (v *recalled) prove(body string) proof {
	if v.proof.sum == "" || v.proof.sum != digest(body) {
		return proof{}
	}
	return v.proof
}

// maskedLines are the lines of a file's content as they may be shown. nil shows
// nothing.
func maskedLines(s shown, body string) []string {
	if s != nil {
		masked := lines(s.mask(body))
		if len(masked) == len(lines(body)) {
			return masked
		}
	}
	return lines(stars(body))
}

// keysOf are the keys whose values are known to be secret where jobs are
// planned; other ones where nobody knows.
func keysOf(jobs []job, other keySet) keySet {
	for i := range jobs {
		if jobs[i].shown != nil {
			return jobs[i].shown.keys()
		}
	}
	return other
}

// withoutSecrets removes the metadata's secrets from lines that a program
// printed, which may be the last of several. Of a line of which only the end is
// there, nothing is left: a secret may have begun before it.
func (r *renderer) withoutSecrets(lines []string) []string {
	if len(lines) == 0 || !r.secrets().some() {
		return lines
	}
	kept := make([]string, len(lines))
	for i, l := range lines {
		if strings.HasPrefix(l, command.Cut) {
			l = stars(l)
		}
		kept[i] = l
	}
	return strings.Split(r.secrets().hide(strings.Join(kept, "\n")), "\n")
}
