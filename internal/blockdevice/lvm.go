package blockdevice

import (
	"context"
	"fmt"
)

// lvmConfig has lvm do by itself what udev would do, look at devices rather
// than at lists of them, and keep nothing of its own.
const lvmConfig = "activation{udev_sync=0 udev_rules=0} " +
	"devices{obtain_device_list_from_udev=0 use_devicesfile=0} backup{backup=0 archive=0} " +
	"global{event_activation=0}"

func lvmCommand(args ...string) []string {
	return append([]string{"lvm", args[0], "--yes", "--config", lvmConfig}, args[1:]...)
}

// makeVolumes makes all of an lvm's volumes: physical ones, groups, logical
// ones.
func (p *Plan) makeVolumes(ctx context.Context, v *volumes, d *Devices) error {
	devices := map[string]string{}
	for _, pv := range v.pvs {
		devices[pv.name] = d.paths[pv.base]
		args := append([]string{"pvcreate"}, pv.options...)
		if err := d.run(ctx, lvmCommand(append(args, devices[pv.name])...)); err != nil {
			return err
		}
	}
	for _, g := range v.vgs {
		args := append([]string{"vgcreate"}, g.options...)
		args = append(args, g.name)
		for _, pv := range g.pvs {
			args = append(args, devices[pv])
		}
		if err := d.run(ctx, lvmCommand(args...)); err != nil {
			return err
		}
		d.groups = append(d.groups, g.name)
	}
	for _, l := range v.lvs {
		if err := d.run(ctx, l.command()); err != nil {
			return err
		}
		if err := appears(ctx, l.device); err != nil {
			return fmt.Errorf("lv %s: %w", l.name, err)
		}
		d.add(l.name, l.device)
	}
	return nil
}

// command makes the logical volume.
func (l *volume) command() []string {
	args := []string{"lvcreate", "--name", l.name}
	if l.kind != "" {
		args = append(args, "--type", l.kind)
	}
	if l.pool != "" {
		args = append(args, "--thinpool", l.pool)
	}
	switch {
	case l.kind == "thin":
		args = append(args, "-V", fmt.Sprintf("%db", l.bytes))
	case l.bytes > 0:
		args = append(args, "-L", fmt.Sprintf("%db", l.bytes))
	default:
		args = append(args, "-l", l.extents)
	}
	args = append(args, l.options...)
	return lvmCommand(append(args, l.group)...)
}
