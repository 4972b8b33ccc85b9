package ipmi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"goldsmith/internal/command"
)

// maxPassword bounds a file that is read for a password, in bytes; IPMI's hold
// 20.
const maxPassword = 1 << 10

// ReadPassword reads a BMC's password from a file of one line, whose end does
// not belong to it. Errors are bad input and name the file.
func ReadPassword(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err
		}
		return "", command.BadInput(fmt.Errorf("%s: %w", file, err), "it holds the controller's password, one line")
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPassword))
	if err != nil {
		return "", command.BadInput(err, "")
	}
	b = bytes.TrimRight(b, "\r\n")
	if len(b) == 0 || bytes.ContainsAny(b, "\x00\n") {
		return "", command.BadInput(fmt.Errorf("%s: not a password", file), "it must hold one line")
	}
	return string(b), nil
}
