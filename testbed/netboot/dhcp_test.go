package netboot

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"goldsmith/internal/command"
)

// at knows the machine of these tests.
func at(a netip.Addr) (string, bool) { return "node1", a == netip.MustParseAddr("10.77.0.50") }

// quiet is a server that only answers when it is asked by a test.
func quiet(t *testing.T, b *Boot) *Server {
	t.Helper()
	s := &Server{cfg: Config{Interface: "x", Address: netip.MustParsePrefix("10.77.0.1/24"), Secret: []byte("s"), Loaders: t.TempDir(),
		Lookup: func(mac net.HardwareAddr) (Machine, bool) {
			return Machine{Name: "node1", Address: netip.MustParseAddr("10.77.0.50"), Boot: b}, mac.String() == testMAC.String()
		}, At: at}}
	for _, name := range []string{biosLoader, uefiLoader} {
		if err := os.WriteFile(filepath.Join(s.cfg.Loaders, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.configure(); err != nil {
		t.Fatal(err)
	}
	return s
}

func message(t *testing.T, mac net.HardwareAddr, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(mac, mods...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnswer(t *testing.T) {
	s := quiet(t, nil)
	is := dhcpv4.WithMessageType
	arch := func(a iana.Arch) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClientArch(a)) }
	wants := func(ip string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
	}
	from := func(ip string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(ip))) }
	ipxe := dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE"))
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	const script = "http://10.77.0.1:8080/netboot/52-54-00-77-00-01/"
	for _, c := range []struct {
		name  string
		m     *dhcpv4.DHCPv4
		want  dhcpv4.MessageType
		file  string // beginning of the boot file
		class string
		said  string // part of the event
	}{
		{"stranger", message(t, stranger), 0, "", "", "not in the inventory"},
		{"discover", message(t, testMAC), dhcpv4.MessageTypeOffer, "", "", ""},
		{"BIOS", message(t, testMAC, arch(iana.INTEL_X86PC)), dhcpv4.MessageTypeOffer, biosLoader, "", ""},
		{"UEFI as EBC", message(t, testMAC, arch(iana.EFI_BC)), dhcpv4.MessageTypeOffer, uefiLoader, "", ""},
		{"UEFI", message(t, testMAC, is(dhcpv4.MessageTypeRequest), arch(iana.EFI_X86_64)), dhcpv4.MessageTypeAck, uefiLoader, "", "starts from the network"},
		{"HTTP boot", message(t, testMAC, arch(iana.EFI_X86_64_HTTP)), dhcpv4.MessageTypeOffer, "http://10.77.0.1:8080/netboot/snponly.efi", "HTTPClient", ""},
		{"no loader", message(t, testMAC, is(dhcpv4.MessageTypeRequest), arch(iana.EFI_ARM64)), dhcpv4.MessageTypeAck, "", "", "nothing is there for"},
		{"iPXE", message(t, testMAC, arch(iana.INTEL_X86PC), ipxe), dhcpv4.MessageTypeOffer, script, "", ""},
		{"iPXE of a ROM", message(t, testMAC, arch(iana.EFI_X86_64), dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(175), []byte{1})), dhcpv4.MessageTypeOffer, script, "", ""},
		{"its own", message(t, testMAC, is(dhcpv4.MessageTypeRequest), wants("10.77.0.50"), from("10.77.0.1")), dhcpv4.MessageTypeAck, "", "", ""},
		{"another's", message(t, testMAC, is(dhcpv4.MessageTypeRequest), wants("10.77.0.51")), dhcpv4.MessageTypeNak, "", "", "not its own"},
		{"another server's", message(t, testMAC, is(dhcpv4.MessageTypeRequest), from("10.77.0.2")), 0, "", "", "another DHCP server"},
		{"declined", message(t, testMAC, is(dhcpv4.MessageTypeDecline)), 0, "", "", "declines"},
		{"released", message(t, testMAC, is(dhcpv4.MessageTypeRelease)), 0, "", "", ""},
		{"relayed", message(t, testMAC, dhcpv4.WithRelay(net.IP{10, 1, 1, 1})), 0, "", "", ""},
		{"a reply", message(t, testMAC, func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply }), 0, "", "", ""},
	} {
		r, said := s.answer(c.m)
		if !strings.Contains(said, c.said) || c.said == "" && said != "" {
			t.Errorf("%s: says %q; want %q", c.name, said, c.said)
		}
		if r == nil || c.want == 0 {
			if r != nil || c.want != 0 {
				t.Errorf("%s: answer %v; want %v", c.name, r, c.want)
			}
			continue
		}
		if r.MessageType() != c.want || !strings.HasPrefix(r.BootFileNameOption(), c.file) || c.file == "" && r.BootFileNameOption() != "" ||
			r.ClassIdentifier() != c.class || !r.ServerIdentifier().Equal(net.IP{10, 77, 0, 1}) {
			t.Errorf("%s: answer is\n%s", c.name, r.Summary())
		}
		if c.want != dhcpv4.MessageTypeNak && (!r.YourIPAddr.Equal(net.IP{10, 77, 0, 50}) || r.HostName() != "node1") {
			t.Errorf("%s: answer is for %v, %q", c.name, r.YourIPAddr, r.HostName())
		}
	}
}

func FuzzAnswer(f *testing.F) {
	m, err := dhcpv4.NewDiscovery(testMAC)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(m.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		if r, _ := quiet(t, nil).answer(m); r != nil && len(r.ToBytes()) > 1400 {
			t.Errorf("an answer of %d bytes", len(r.ToBytes()))
		}
	})
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	b := &Boot{Kernel: filepath.Join(dir, "k"), Initrd: filepath.Join(dir, "i"), Cmdline: "quiet token=x"}
	for path, text := range map[string]string{b.Kernel: "the kernel", b.Initrd: "the initramfs"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := quiet(t, b)
	h := s.httpServer().Handler
	get := func(url, from string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, url, nil)
		r.RemoteAddr = from + ":1024"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const node1 = "10.77.0.50"
	url := func(file string) string { return s.fileURL(testMAC, file) }
	for _, c := range []struct {
		url, from string
		code      int
		want      string
	}{
		{url("script"), node1, 200, "initrd=initrd quiet token=x\n"},
		{url("linux"), node1, 200, "the kernel"},
		{url("initrd"), node1, 200, "the initramfs"},
		{url("other"), node1, 404, ""},
		{url("script"), "10.77.0.51", 404, ""}, // another machine
		{strings.Replace(url("script"), s.key(testMAC), s.key(net.HardwareAddr{1, 2, 3, 4, 5, 6}), 1), node1, 404, ""},
		{strings.Replace(url("script"), "52-54", "zz-zz", 1), node1, 404, ""},
		{s.URL() + "/netboot/snponly.efi", node1, 200, "snponly.efi"},
		{s.URL() + "/netboot/snponly.efi", "10.77.0.51", 404, ""},
		{s.URL() + "/netboot/" + "../../etc/passwd", node1, 307, ""}, // cleaned by the library
		{s.URL() + "/", node1, 404, ""},
	} {
		if code, body := get(c.url, c.from); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s from %s: %d %q; want %d %q", c.url, c.from, code, body, c.code, c.want)
		}
	}
	for _, line := range []string{"a\nreboot", "a || reboot", "a && x", "a ${mac}", "#a"} {
		b.Cmdline = line
		if code, body := get(url("script"), node1); code != 500 || strings.Contains(body, line) {
			t.Errorf("the command line %q is served: %d %q", line, code, body)
		}
	}
}

func TestBadConfig(t *testing.T) {
	ok := Config{Interface: "x", Address: netip.MustParsePrefix("10.77.0.1/24"), Loaders: t.TempDir(),
		Lookup: func(net.HardwareAddr) (Machine, bool) { return Machine{}, false }, At: at}
	v6, missing := ok, ok
	v6.Prefix6 = netip.MustParsePrefix("fd77::/48")
	missing.Address = netip.Prefix{}
	for want, c := range map[string]Config{"install ipxe": ok, "fd12:3456:789a:1::/64": v6, "10.77.0.1/24": missing} {
		_, err := Start(t.Context(), c)
		if err == nil || !strings.Contains(command.HintOf(err), want) {
			t.Errorf("Start = %v, hint %q; want %q", err, command.HintOf(err), want)
		}
	}
}

// What a machine does again and again is told once, and no number of machines
// fills the memory.
func TestEventsAreBounded(t *testing.T) {
	told := 0
	s := &Server{cfg: Config{Event: func(Event) { told++ }}, recent: map[Event]time.Time{}}
	for range 50 {
		s.event(testMAC, "node1", "starts from the network")
	}
	s.event(testMAC, "node1", "is told to start its own disk")
	if told != 2 {
		t.Errorf("told %d times; want 2", told)
	}
	for i := range 3 * maxRecent {
		s.event(net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}, "", "asks for an address")
	}
	if told > maxRecent || len(s.recent) > maxRecent {
		t.Errorf("told %d times, %d remembered", told, len(s.recent))
	}
}
