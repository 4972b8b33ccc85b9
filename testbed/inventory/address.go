package inventory

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
)

// Network is a network that nodes are in, with what was made for it.
type Network struct {
	Name        string
	IPv4        netip.Prefix
	First, Last netip.Addr   // what nodes are given
	IPv6        netip.Prefix // /64
	Interface   string       // imgpipe's network device there; empty: it serves nothing there
	Server      netip.Addr   // imgpipe's address there
	Secret      []byte       // of the interface identifiers, and of what else must not be guessed there
}

// ULA makes a /48 of unique local addresses by the algorithm of RFC 4193,
// section 3.2.2: fd, and the last 40 bits of a hash of the time and of what
// names the machine.
func ULA(now time.Time, machine []byte) netip.Prefix {
	var stamp [8]byte
	const ntpEpoch = 2208988800 // 1900 to 1970, in seconds
	binary.BigEndian.PutUint32(stamp[:4], uint32(now.Unix()+ntpEpoch))
	binary.BigEndian.PutUint32(stamp[4:], uint32(uint64(now.Nanosecond())<<32/1e9))
	sum := sha1.Sum(append(stamp[:], machine...))
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], sum[len(sum)-5:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// StableAddress is a node's address in an IPv6 network: the same as long as
// network, node and secret are, and telling nothing of its hardware (RFC 7217,
// with the node's name as the interface).
func StableAddress(network netip.Prefix, node string, secret []byte) netip.Addr {
	for counter := byte(0); ; counter++ {
		h := hmac.New(sha256.New, secret)
		p := network.Masked().Addr().As16()
		h.Write(p[:8])
		h.Write([]byte(node))
		h.Write([]byte{0, counter})
		copy(p[8:], h.Sum(nil))
		p[8] &^= 2 // the universal/local bit of old interface identifiers (RFC 4291, 2.5.1)
		if id := binary.BigEndian.Uint64(p[8:]); id != 0 && id>>8 != 0xfdffffffffffff {
			return netip.AddrFrom16(p) // not a router's anycast address (RFC 4291, 2.6.1; RFC 2526)
		}
	}
}

// parse reads the addresses of a network; without an IPv6 one the prefix is
// the zero value.
func (s NetworkSpec) parse() (Network, error) {
	n := Network{Name: s.Name}
	if !nameRE.MatchString(s.Name) {
		return n, errors.New("a name has lower case letters, digits and '-'")
	}
	var err error
	if n.IPv4, err = netip.ParsePrefix(s.IPv4); err != nil || !n.IPv4.Addr().Is4() || n.IPv4 != n.IPv4.Masked() {
		return n, fmt.Errorf("ipv4 %q: expected a network such as 10.77.0.0/24", s.IPv4)
	}
	for _, e := range []struct {
		key, text string
		addr      *netip.Addr
	}{{"first", s.First, &n.First}, {"last", s.Last, &n.Last}} {
		if *e.addr, err = netip.ParseAddr(e.text); err != nil || !n.IPv4.Contains(*e.addr) {
			return n, fmt.Errorf("%s %q: expected an address in %v", e.key, e.text, n.IPv4)
		}
	}
	if n.Last.Less(n.First) {
		return n, fmt.Errorf("last %v is before first %v", n.Last, n.First)
	}
	if s.Interface != "" || s.Server != "" {
		n.Interface = s.Interface
		n.Server, err = netip.ParseAddr(s.Server)
		if err != nil || n.Interface == "" || !n.IPv4.Contains(n.Server) || !n.Server.Less(n.First) && !n.Last.Less(n.Server) {
			return n, fmt.Errorf("server %q: expected interface, and an address in %v that no node is given", s.Server, n.IPv4)
		}
	}
	if s.IPv6 == "" {
		return n, nil
	}
	p, err := netip.ParsePrefix(s.IPv6)
	if err != nil || !p.Addr().Is6() || p != p.Masked() || p.Bits() != 48 && p.Bits() != 64 {
		return n, fmt.Errorf("ipv6 %q: expected a /48 or /64, or nothing", s.IPv6)
	}
	n.IPv6 = netip.PrefixFrom(p.Addr(), 64)
	return n, nil
}

// setNetworks keeps the networks of a file, and makes what it leaves out: once,
// so that addresses stay.
func (v *Inventory) setNetworks(ctx context.Context, tx *store.Tx, f *File) error {
	if err := v.setting(ctx, tx, "cap", fmt.Sprint(f.cap())); err != nil {
		return err
	}
	site, err := v.site(ctx, tx)
	if err != nil {
		return err
	}
	for _, s := range f.Networks {
		n, err := s.parse()
		if err != nil {
			return err
		}
		if !n.IPv6.IsValid() {
			if n.IPv6, err = v.subnet(ctx, tx, site.Prefix, n.Name); err != nil {
				return err
			}
		}
		n.Secret = site.Secret
		text, err := json.Marshal(n)
		if err != nil {
			return err
		}
		if err := v.setting(ctx, tx, "network "+n.Name, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// subnet returns the /64 of the site that a network has, or the first that none
// has had: the order of a file does not move addresses.
func (v *Inventory) subnet(ctx context.Context, tx *store.Tx, site netip.Prefix, network string) (netip.Prefix, error) {
	rows, err := tx.Query(ctx, "SELECT value FROM setting WHERE name LIKE 'network %'")
	if err != nil {
		return netip.Prefix{}, err
	}
	defer rows.Close()
	taken := map[netip.Prefix]bool{}
	for rows.Next() {
		var n Network
		if err := scanNetwork(rows, &n); err != nil {
			return netip.Prefix{}, err
		}
		if n.Name == network && site.Contains(n.IPv6.Addr()) {
			return n.IPv6, nil
		}
		taken[n.IPv6] = true
	}
	if err := rows.Err(); err != nil {
		return netip.Prefix{}, err
	}
	a := site.Addr().As16()
	for i := uint16(1); i != 0; i++ {
		binary.BigEndian.PutUint16(a[6:], i)
		if p := netip.PrefixFrom(netip.AddrFrom16(a), 64); !taken[p] {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("all 65,535 networks of the site are taken")
}

func scanNetwork(rows *sql.Rows, n *Network) error {
	var text string
	if err := rows.Scan(&text); err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), n)
}

func (f *File) cap() int {
	if f.Cap == 0 {
		return DefaultCap
	}
	return f.Cap
}

func (v *Inventory) setting(ctx context.Context, tx *store.Tx, name, value string) error {
	_, err := tx.Exec(ctx, "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
	return err
}

// limit is how many tasks may run at once.
func Cap(ctx context.Context, tx *store.Tx) (n int, err error) {
	err = tx.QueryRow(ctx, "SELECT value FROM setting WHERE name = 'cap'").Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return DefaultCap, nil
	}
	return n, err
}

// site is what is made once for an inventory.
type site struct {
	Prefix netip.Prefix // RFC 4193, /48
	Secret []byte
}

func (v *Inventory) site(ctx context.Context, tx *store.Tx) (s site, err error) {
	var text string
	err = tx.QueryRow(ctx, "SELECT value FROM setting WHERE name = 'site'").Scan(&text)
	if err == nil {
		return s, json.Unmarshal([]byte(text), &s)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return s, err
	}
	s.Secret = make([]byte, 32)
	_, _ = rand.Read(s.Secret) // it never fails: crypto/rand
	s.Prefix = ULA(v.now(), s.Secret)
	b, err := json.Marshal(s)
	if err != nil {
		return s, err
	}
	return s, v.setting(ctx, tx, "site", string(b))
}

// Addresses are a node's in its network.
type Addresses struct {
	Network Network
	IPv4    netip.Addr
	IPv6    netip.Addr
}

// Network returns a network by its name; the empty name is the only one there
// is.
func (v *Inventory) Network(ctx context.Context, name string) (n Network, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, "SELECT value FROM setting WHERE name LIKE 'network %' AND (?1 = '' OR name = 'network ' || ?1)", name)
		if err != nil {
			return err
		}
		defer rows.Close()
		found := 0
		for ; rows.Next(); found++ {
			if err := scanNetwork(rows, &n); err != nil {
				return err
			}
		}
		if found != 1 {
			return command.BadInput(fmt.Errorf("network %q: %d are known; expected one", name, found), "'imgpipe node apply FILE' reads the inventory file")
		}
		return rows.Err()
	})
	return n, err
}

// Addresses returns a node's addresses. Its IPv4 address is the lowest that is
// free when it is asked for the first time, and its own from then on.
func (v *Inventory) Addresses(ctx context.Context, node string) (a Addresses, err error) {
	err = v.change(ctx, node, func(tx *store.Tx, n *Node) error {
		var text string
		err := tx.QueryRow(ctx, "SELECT value FROM setting WHERE name = ?", "network "+n.Spec.Network).Scan(&text)
		if err != nil {
			return fmt.Errorf("node %s: network %q is not known: %w", node, n.Spec.Network, err)
		}
		if err := json.Unmarshal([]byte(text), &a.Network); err != nil {
			return err
		}
		a.IPv6 = StableAddress(a.Network.IPv6, node, a.Network.Secret)
		a.IPv4, err = v.lend(ctx, tx, node, a.Network)
		return err
	})
	return a, err
}

func (v *Inventory) lend(ctx context.Context, tx *store.Tx, node string, n Network) (netip.Addr, error) {
	rows, err := tx.Query(ctx, "SELECT address, node FROM address WHERE network = ?", n.Name)
	if err != nil {
		return netip.Addr{}, err
	}
	defer rows.Close()
	taken := map[netip.Addr]bool{}
	for rows.Next() {
		var text, of string
		if err := rows.Scan(&text, &of); err != nil {
			return netip.Addr{}, err
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return a, err
		}
		if of == node && !a.Less(n.First) && !n.Last.Less(a) {
			return a, nil
		}
		taken[a] = of != node
	}
	if err := rows.Err(); err != nil {
		return netip.Addr{}, err
	}
	for a := n.First; !n.Last.Less(a); a = a.Next() {
		if taken[a] {
			continue
		}
		_, err := tx.Exec(ctx, `INSERT INTO address (network, address, node) VALUES (?, ?, ?)
			ON CONFLICT (network, node) DO UPDATE SET address = excluded.address`, n.Name, a.String(), node)
		return a, err
	}
	return netip.Addr{}, command.Busy(fmt.Errorf("network %s: all addresses from %v to %v are taken", n.Name, n.First, n.Last),
		"widen the range in the inventory file")
}
