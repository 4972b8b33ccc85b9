package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"goldsmith/internal/metadata"
)

// configLabel is the label of a config drive, in any mix of cases.
const configLabel = "config-2"

// ConfigDrive reads OpenStack's config drive, version 2: a file system
// labelled config-2.
type ConfigDrive struct{ devices blockDevices }

// Notify wakes when a block device changes.
func (c ConfigDrive) Notify(ctx context.Context, wake func()) error {
	return c.devices.notify(ctx, wake)
}

// Collect delivers one document, "config_drive": the object of
// openstack/latest/meta_data.json, with instance-id and local-hostname from
// its uuid and hostname where it has none; without that file, the object of
// ec2/latest/meta-data.json. openstack/latest/user_data is kept beside it.
func (c ConfigDrive) Collect(context.Context) ([]Document, error) {
	var d Document
	err := c.devices.with(configLabel, func(_ string, v volume) (err error) {
		d, err = readConfigDrive(v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return []Document{d}, nil
}

func readConfigDrive(v volume) (Document, error) {
	const name = "config_drive"
	data, err := v.ReadFile("openstack/latest/meta_data.json", maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = v.ReadFile(ec2OnDrive, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			return Document{}, unavailable{err}
		}
	}
	if err != nil {
		return Document{}, err
	}
	d := document(name, data)
	if o, ok := d.Value.(*metadata.Object); ok {
		o = metadata.Merge(o)
		for _, f := range [][2]string{{"instance-id", "uuid"}, {"local-hostname", "hostname"}} {
			if v, ok := o.Text(f[1]); ok {
				setMissing(o, f[0], v)
			}
		}
		d.Value = o
	}
	switch user, err := v.ReadFile("openstack/latest/user_data", maxFile); {
	case err == nil:
		d.Keep = map[string][]byte{name + ".user-data": user}
	case !errors.Is(err, fs.ErrNotExist):
		d.Note = err.Error()
	}
	return d, nil
}

// ec2OnDrive is where a config drive keeps what the EC2 service says.
const ec2OnDrive = "ec2/latest/meta-data.json"

// InstanceData reads what cloud-init found out about the machine.
type InstanceData struct{ Path string }

// Notify wakes when the file comes, goes or changes.
func (i InstanceData) Notify(ctx context.Context, wake func()) error {
	return watch(ctx, []string{i.Path}, wake)
}

// Collect delivers one document, "instance_data": what cloud-init has under
// ds and v1, with instance-id and local-hostname from there.
func (i InstanceData) Collect(context.Context) ([]Document, error) {
	data, err := readBounded(unix.AT_FDCWD, i.Path, unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, unavailable{err}
	}
	d := document("instance_data", data)
	all, ok := d.Value.(*metadata.Object)
	if !ok {
		// cloud-init replaces the file as a whole: this is no half of it.
		return nil, unavailable{fmt.Errorf("%s: no JSON object", i.Path)}
	}
	doc := &metadata.Object{}
	for _, key := range []string{"ds", "v1"} {
		if v, ok := all.Get(key); ok {
			doc.Set(key, v)
		}
	}
	for _, f := range [][2]string{{"instance-id", "v1.instance_id"}, {"local-hostname", "v1.local_hostname"}} {
		if v, ok := all.Text(f[1]); ok {
			doc.Set(f[0], v)
		}
	}
	d.Value = doc
	return []Document{d}, nil
}
