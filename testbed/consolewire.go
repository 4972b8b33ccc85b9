package testbed

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"regexp"
)

// What ConsoleShell and the machine's shell say to each other.

// consoleSum is the checksum of a question or an answer as it is sent, in
// base64: what sha256sum prints.
func consoleSum(coded []byte) string {
	h := sha256.Sum256(coded)
	return hex.EncodeToString(h[:])
}

// consoleQuestion makes the line that has a shell run a script and print the
// answer. A line that arrives damaged is not run. The number makes the answer's
// mark another one each time; nothing in the line looks like that mark, since a
// terminal may echo the line.
func consoleQuestion(number int, script string) (line, id string) {
	coded := base64.StdEncoding.EncodeToString([]byte(script))
	sum := consoleSum([]byte(coded))
	id = fmt.Sprintf("%d-%s", number, sum[:8])
	// The script is a shell of its own: what it does to its files and directory
	// is not ours.
	line = fmt.Sprintf(`q=%s;if [ "$(printf %%s "$q"|sha256sum)" = '%s  -' ];then `+
		`a=$(printf %%s "$q"|base64 -d|sh 2>/dev/null|base64);set -- $(printf %%s "$a"|sha256sum);`+
		`printf '\n@%%s<\n%%s\n@%%s>%%s\n@%%s>%%s\n' %s "$a" %s $1 %s $1;fi`, coded, sum, id, id, id)
	return line, id
}

// kernelLine is what the kernel prints, from wherever in a line it began.
var kernelLine = regexp.MustCompile(`(<[0-9]+>)?\[ *[0-9]+\.[0-9]{6}\](\[ *[CT][0-9]+\])? [^\n]*\n`)

// consoleReply looks for the answer with that id in a console's text:
//
//	@ID<
//	BASE64
//	@ID>CHECKSUM
//	@ID>CHECKSUM
//
// Each line may have others before and after it, and each end is enough. done
// says that nothing more is to come. What was printed into the answer is cut out
// where it is lines of their own, or the kernel's; what does not fit the
// checksum then is errConsoleDamaged, and never an answer.
func consoleReply(text []byte, id string) (body []byte, done bool, err error) {
	if i := bytes.Index(text, []byte("@"+id+"<")); i > 0 {
		text = text[i:] // what is before it may be much
	}
	text = bytes.ReplaceAll(text, []byte("\r"), nil)
	for _, t := range [][]byte{text, withoutKernel(text)} {
		if body, done, err = plainReply(t, []byte("@"+id+"<\n"), []byte("@"+id+">")); done && err == nil {
			break
		}
	}
	return body, done, err
}

func withoutKernel(text []byte) []byte { return kernelLine.ReplaceAll(text, nil) }

// plainReply is consoleReply of a text that nothing more can be cut out of.
func plainReply(text, begin, end []byte) (body []byte, done bool, err error) {
	const sumSize = 2 * sha256.Size
	ends := 0
	for at := 0; ; {
		i := bytes.Index(text[at:], end)
		if i < 0 || len(text) < at+i+len(end)+sumSize {
			break
		}
		ends++
		if b, ok := between(text[:at+i], begin, string(text[at+i+len(end):][:sumSize])); ok {
			return b, true, nil
		}
		at += i + len(end)
	}
	if ends == 0 {
		return nil, false, nil
	}
	return nil, ends > 1, errConsoleDamaged
}

// between reads the answer that begins in text, if it has that checksum.
func between(text, begin []byte, sum string) ([]byte, bool) {
	i := bytes.LastIndex(text, begin)
	if i < 0 {
		return nil, false
	}
	coded := base64Lines(text[i+len(begin):])
	if consoleSum(coded) != sum {
		return nil, false
	}
	b, err := base64.StdEncoding.DecodeString(string(coded)) // it skips line feeds
	return b, err == nil
}

// base64Lines leaves out the lines that are something else.
func base64Lines(text []byte) []byte {
	var all [][]byte
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSuffix(line, []byte("\n")); base64Line.Match(line) {
			all = append(all, line)
		}
	}
	return bytes.Join(all, []byte("\n"))
}

var base64Line = regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2}$`)
