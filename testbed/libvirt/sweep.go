package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// Sweep removes the machines whose owner is dead, with their files. Connect
// calls it. Domains that are not ours, whatever their name, and machines
// whose owner lives are left alone.
func (h *Host) Sweep(ctx context.Context) error {
	const all = golibvirt.ConnectListDomainsActive | golibvirt.ConnectListDomainsInactive
	limit := h.limit()
	doms, _, err := h.l.ConnectListAllDomains(1, all)
	limit.Stop()
	if err != nil {
		return fmt.Errorf("list machines: %w", err)
	}
	var errs []error
	for _, d := range doms {
		if !strings.HasPrefix(d.Name, namePrefix) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := h.sweepDomain(d); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", d.Name, err))
		}
	}
	return errors.Join(errs...)
}

// sweepDomain removes a domain if its owner is dead, and tells whether it did.
func (h *Host) sweepDomain(d golibvirt.Domain) (bool, error) {
	desc, err := h.l.DomainGetXMLDesc(d, 0)
	if err != nil {
		if golibvirt.IsNotFound(err) { // somebody else was faster
			err = nil
		}
		return err == nil, err
	}
	o, ok := ownerOf(desc)
	if !ok || o.Lock == h.owner.lockPath() || !dead(o.Lock) {
		return false, nil
	}
	// The domain goes last: it is by what the rest is found.
	if err := h.stop(d); err != nil {
		return true, err
	}
	if err := errors.Join(h.removeVolumes(d.Name, o.Pool), removeFiles(o.Dir)); err != nil {
		return true, err
	}
	return true, h.removeDomain(d)
}

// removeDomain stops and undefines a domain. It is no error when it is gone.
func (h *Host) removeDomain(d golibvirt.Domain) error {
	if err := h.stop(d); err != nil {
		return err
	}
	defer h.limit().Stop()
	err := h.l.DomainUndefineFlags(d, golibvirt.DomainUndefineNvram)
	if err != nil && !golibvirt.IsNotFound(err) {
		return fmt.Errorf("undefine: %w", err)
	}
	return nil
}

// stop switches a domain off. It is no error when it is off or gone.
func (h *Host) stop(d golibvirt.Domain) error {
	defer h.limit().Stop()
	err := h.l.DomainDestroyFlags(d, golibvirt.DomainDestroyDefault)
	if err != nil && !is(err, golibvirt.ErrOperationInvalid) && !golibvirt.IsNotFound(err) {
		return fmt.Errorf("power off: %w", err)
	}
	return nil
}

// is tells whether err is libvirtd's error of that number.
func is(err error, n golibvirt.ErrorNumber) bool {
	e, ok := errors.AsType[golibvirt.Error](err)
	return ok && golibvirt.ErrorNumber(e.Code) == n
}
