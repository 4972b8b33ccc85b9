package netboot

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
)

// TestTFTP asks for a loader, as firmware does (RFC 1350), from the address of a
// machine and from another.
func TestTFTP(t *testing.T) {
	network, _, j := start(t, func(net.HardwareAddr) (Machine, bool) { return Machine{}, false })
	for _, a := range []string{"10.77.0.50/32", "10.77.0.51/32"} {
		if err := network.Exec(t.Context(), command.Exec{Args: []string{"ip", "address", "add", a, "dev", "lo"}}); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(from, file string) (kind byte) {
		t.Helper()
		err := network.Do(func() error {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(from)})
			if err != nil {
				return err
			}
			defer c.Close()
			server := &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 69}
			_, err = c.WriteToUDP([]byte("\x00\x01"+file+"\x00octet\x00"), server)
			b := make([]byte, 1024)
			n, rerr := 0, c.SetReadDeadline(time.Now().Add(10*time.Second))
			if rerr == nil {
				n, rerr = c.Read(b)
			}
			if n > 1 {
				kind = b[1]
			}
			_, werr := c.WriteToUDP([]byte("\x00\x05\x00\x00enough\x00"), server) // ends a transfer
			return errors.Join(err, rerr, werr)
		})
		if err != nil {
			t.Fatal(err)
		}
		return kind
	}
	const data, refused = 3, 5
	for _, c := range []struct {
		from, file string
		want       byte
	}{
		{"10.77.0.50", biosLoader, data},
		{"10.77.0.50", "/" + uefiLoader, data},
		{"10.77.0.50", "other", refused},
		{"10.77.0.51", biosLoader, refused},
		{"10.77.0.1", uefiLoader, refused},
	} {
		if got := ask(c.from, c.file); got != c.want {
			t.Errorf("%s from %s: a packet of kind %d; want %d", c.file, c.from, got, c.want)
		}
	}
	if want := biosLoader + " is asked for from 10.77.0.51, which is no machine's"; !strings.Contains(j.String(), want) {
		t.Errorf("no event %q in:\n%s", want, j)
	}
}
