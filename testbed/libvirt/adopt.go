package libvirt

import (
	"context"
	"fmt"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Adopted is a domain that somebody else has defined.
type Adopted struct{ control }

var _ interface {
	testbed.Machine
	testbed.Shutdowner
	testbed.OffWaiter
	testbed.Resetter
	testbed.Serial
	testbed.BootSelector
	testbed.AgentCaller
} = (*Adopted)(nil)

// Adopt returns the domain of that name, which somebody else has defined. Its
// power, its serial port, and what it starts from can be used; Release gives it
// up and leaves it as it is, on or off, but for a boot device that was set, which
// is taken back. Sweep leaves it alone.
func (h *Host) Adopt(ctx context.Context, name string) (*Adopted, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	defer h.limit().Stop()
	dom, err := h.l.DomainLookupByName(name)
	if golibvirt.IsNotFound(err) {
		return nil, command.BadInput(fmt.Errorf("libvirt %s: no domain %q", h.uri, name), "'virsh list --all' shows those that are there")
	}
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	m := &Adopted{control{host: h, name: name, dom: dom}}
	m.undo = append(m.undo, m.restoreOrder)
	m.watchResets()
	return m, nil
}

// restoreOrder takes a boot device back.
func (m *control) restoreOrder() error {
	m.booting.mu.Lock()
	defer m.booting.mu.Unlock()
	if m.booting.plain == nil {
		return nil
	}
	defer m.host.limit().Stop()
	desc, err := m.host.l.DomainGetXMLDesc(m.dom, golibvirt.DomainXMLInactive)
	if golibvirt.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	l, err := readLayout(desc)
	if err != nil {
		return err
	}
	return m.apply(desc, l, "")
}
