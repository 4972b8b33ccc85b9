package netboot

import (
	"bytes"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/pin/tftp/v3"
)

// tftpServer serves iPXE's programs. Over one port: a transfer's own socket
// would be opened outside of the machines' network.
func (s *Server) tftpServer() *tftp.Server {
	t := tftp.NewServer(func(name string, rf io.ReaderFrom) error {
		b, ok := s.loaders[strings.TrimPrefix(name, "/")]
		if !ok {
			return os.ErrNotExist
		}
		out := rf.(tftp.OutgoingTransfer)
		from := out.RemoteAddr()
		if !s.resident(from.AddrPort().Addr(), name) {
			return os.ErrPermission
		}
		out.SetSize(int64(len(b)))
		_, err := rf.ReadFrom(bytes.NewReader(b))
		return err
	}, nil)
	t.SetTimeout(3 * time.Second)
	t.EnableSinglePort()
	return t
}

// resident tells whether a known machine has the address that a loader is asked
// for from: firmware uses the one that it was told.
func (s *Server) resident(from netip.Addr, file string) bool {
	_, ok := s.cfg.At(from.Unmap())
	if !ok {
		s.event(nil, "", "%s is asked for from %v, which is no machine's of the inventory: refused", file, from.Unmap())
	}
	return ok
}

func (s *Server) httpServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /netboot/"+uefiLoader, func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !s.resident(from.Addr(), uefiLoader) {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, uefiLoader, time.Time{}, bytes.NewReader(s.loaders[uefiLoader]))
	})
	mux.HandleFunc("GET /netboot/{mac}/{key}/{file}", s.handleFile)
	if s.cfg.Handler != nil {
		mux.Handle("/", s.cfg.Handler)
	}
	return &http.Server{Handler: mux, ReadHeaderTimeout: 30 * time.Second, ReadTimeout: requestTime, IdleTimeout: 2 * time.Minute}
}

// requestTime bounds how long a request with its body may take to arrive. It is
// more than the longest that an answer is waited for: that ends with it, too.
const requestTime = 2 * time.Minute

// handleFile serves what a machine starts, to that machine only: it must know
// the key and have the address.
func (s *Server) handleFile(w http.ResponseWriter, r *http.Request) {
	mac, err := net.ParseMAC(r.PathValue("mac"))
	if err != nil || !hmac.Equal([]byte(r.PathValue("key")), []byte(s.key(mac))) {
		http.NotFound(w, r)
		return
	}
	m, ok := s.cfg.Lookup(mac)
	from, ferr := netip.ParseAddrPort(r.RemoteAddr)
	if !ok || ferr != nil || from.Addr().Unmap() != m.Address {
		s.event(mac, m.Name, "its files are asked for from %s: refused", r.RemoteAddr)
		http.NotFound(w, r)
		return
	}
	switch file := r.PathValue("file"); {
	case m.Boot.check() != nil:
		s.event(mac, m.Name, "cannot be started: %v", m.Boot.check())
		http.Error(w, "the kernel command line is refused", http.StatusInternalServerError)
	case file == "script":
		s.event(mac, m.Name, "is told to start %s", summary(m.Boot))
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, s.script(mac, m.Boot))
	case file == "linux" && m.Boot != nil:
		s.file(w, r, m.Boot.Kernel)
	case file == "initrd" && m.Boot != nil:
		s.file(w, r, m.Boot.Initrd)
	default:
		http.NotFound(w, r)
	}
}

// file serves a file of this host. Everything about it can be cut and asked for
// again from there.
func (s *Server) file(w http.ResponseWriter, r *http.Request, path string) {
	f, err := os.Open(path)
	if err != nil {
		http.Error(w, "the file is gone", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	http.ServeContent(w, r, "", time.Time{}, f)
}

// script is what iPXE does (https://ipxe.org/scripting). A machine that is to
// start its own disk is sent on: firmware of the UEFI kind takes the next
// entry of its order only when this one has failed.
func (s *Server) script(mac net.HardwareAddr, b *Boot) string {
	if b == nil {
		return "#!ipxe\niseq ${platform} efi && exit 1 ||\nexit 0\n"
	}
	base := s.fileURL(mac, "")
	var t strings.Builder
	t.WriteString("#!ipxe\n")
	fmt.Fprintf(&t, "kernel --name linux %slinux initrd=initrd %s\n", base, b.Cmdline)
	fmt.Fprintf(&t, "initrd --name initrd %sinitrd\n", base)
	// Without it a machine would stay at a prompt that nobody sees.
	t.WriteString("boot || reboot\n")
	return t.String()
}

// check refuses command lines in which iPXE would see commands of its own or
// settings to fill in.
func (b *Boot) check() error {
	if b == nil {
		return nil
	}
	if i := strings.IndexFunc(b.Cmdline, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		return fmt.Errorf("its command line has a control character at %d", i)
	}
	if strings.Contains(b.Cmdline, "${") {
		return errors.New("its command line has ${, which iPXE would fill in")
	}
	for _, w := range strings.Fields(b.Cmdline) {
		if w == "||" || w == "&&" || strings.HasPrefix(w, "#") {
			return fmt.Errorf("its command line has the word %s, which iPXE takes for its own", w)
		}
	}
	return nil
}

func (s *Server) fileURL(mac net.HardwareAddr, file string) string {
	return s.URL() + "/netboot/" + strings.ReplaceAll(mac.String(), ":", "-") + "/" + s.key(mac) + "/" + file
}

func summary(b *Boot) string {
	if b == nil {
		return "its own disk"
	}
	return filepath.Base(b.Kernel)
}
