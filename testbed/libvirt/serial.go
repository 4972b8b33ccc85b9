package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"goldsmith/testbed"
)

// terminalForm is the name of a pseudo terminal.
var terminalForm = regexp.MustCompile(`^/dev/pts/[0-9]+$`)

// OpenSerial implements testbed.Serial, for a machine that is on and whose
// serial port is a pseudo terminal. QEMU notices within a second that somebody
// is there: what the machine prints before that is in the console's text only.
// The connection ends with the machine's run. One can be open at a time: another
// would get half of the text.
func (m *control) OpenSerial(context.Context) (io.ReadWriteCloser, error) {
	path, err := m.terminal()
	if err != nil {
		return nil, err
	}
	m.serial.Lock()
	defer m.serial.Unlock()
	if m.opened {
		return nil, m.fault(testbed.Stolen, "open the serial port", errors.New("it is open already"))
	}
	// The bed's terminals are the host's: it has no /dev of its own.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, m.fault(testbed.Broken, "open the serial port", err)
	}
	if fi, err := f.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return nil, m.fault(testbed.Broken, "open the serial port", errors.Join(err, fmt.Errorf("%s: no terminal", path), f.Close()))
	}
	m.opened = true
	return &terminal{f: f, closed: sync.OnceValue(func() error {
		m.serial.Lock()
		defer m.serial.Unlock()
		m.opened = false
		return f.Close()
	})}, nil
}

// terminal finds the serial port's pseudo terminal in the running domain.
func (m *control) terminal() (string, error) {
	defer m.host.limit().Stop()
	desc, err := m.host.l.DomainGetXMLDesc(m.dom, 0)
	if err != nil {
		return "", fmt.Errorf("machine %s: open the serial port: %w", m.name, err)
	}
	state, _, err := m.host.l.DomainGetState(m.dom, 0)
	if err != nil {
		return "", fmt.Errorf("machine %s: open the serial port: %w", m.name, err)
	}
	if golibvirt.DomainState(state) == golibvirt.DomainShutoff {
		return "", fmt.Errorf("machine %s: open the serial port: it is off", m.name)
	}
	var d struct {
		Serial []struct {
			Type   string `xml:"type,attr"`
			Source struct {
				Path string `xml:"path,attr"`
			} `xml:"source"`
		} `xml:"devices>serial"`
	}
	if err := xml.Unmarshal([]byte(desc), &d); err != nil {
		return "", m.fault(testbed.Broken, "open the serial port", err)
	}
	if len(d.Serial) == 0 || d.Serial[0].Type != "pty" || !terminalForm.MatchString(d.Serial[0].Source.Path) {
		return "", m.fault(testbed.Unsupported, "open the serial port", errors.New("it has none that is a pseudo terminal"))
	}
	return d.Serial[0].Source.Path, nil
}

// terminal is an open serial port.
type terminal struct {
	f      *os.File
	closed func() error
}

// typeLimit bounds a Write: a machine that does not look at its serial port
// takes some kilobytes and then no more.
const typeLimit = 10 * time.Second

func (t *terminal) Read(p []byte) (int, error) {
	n, err := t.f.Read(p)
	if errors.Is(err, unix.EIO) || errors.Is(err, os.ErrClosed) { // QEMU has ended; we have
		err = io.EOF
	}
	return n, err
}

func (t *terminal) Write(p []byte) (int, error) {
	if err := t.f.SetWriteDeadline(time.Now().Add(typeLimit)); err != nil {
		return 0, err
	}
	return t.f.Write(p)
}

// Close may be called twice.
func (t *terminal) Close() error { return t.closed() }
