package collectcfg

import (
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/collectcfg/oslo"
)

// option is an entry of the table below.
func option(group, name string, kind oslo.Kind, value, help string, defaults ...string) oslo.Option {
	return oslo.Option{Group: group, Name: name, Kind: kind, Value: value, Help: help, Default: defaults}
}

// short gives an option a letter.
func short(letter string, o oslo.Option) oslo.Option {
	o.Short = letter
	return o
}

// Options are the settings of os-collect-config; with ours true, those that
// only collectcfg has as well, and its own defaults.
func Options(ours bool) []oslo.Option {
	collectors := option("", "collectors", oslo.Multi, "source", "sources, in order", OriginalCollectors...)
	collectors.Words = true
	print := option("", "print", oslo.Bool, "", "print what was collected and exit", "false")
	print.Dest = "print_only"
	all := []oslo.Option{
		short("c", option("", "command", oslo.Text, "command", "`command` to run on change, by the shell")),
		option("", "cachedir", oslo.Text, "directory", "`directory` to keep documents in", DefaultCache),
		option("", "backup-cachedir", oslo.Text, "directory",
			"`directory` to copy that to", "/var/run/os-collect-config"),
		collectors, print,
		option("", "one-time", oslo.Bool, "", "end after the first collection", "false"),
		option("", "min-polling-interval", oslo.Float, "seconds", "first pause between polls, in `seconds`", "1"),
		short("i", option("", "polling-interval", oslo.Float, "seconds",
			"longest pause between polls, in `seconds`", "30")),
		option("", "print-cachedir", oslo.Bool, "", "print the cache directory and exit", "false"),
		option("", "force", oslo.Bool, "", "run the command without a change too; implies --one-time", "false"),
		option("", "deployment-key", oslo.Multi, "key",
			"`key` of a list of deployments, each of which becomes a document; may be repeated", "deployments"),
		option("", "splay", oslo.Float, "seconds", "wait up to so many `seconds` before the first collection", "0"),
		option("ec2", "metadata-url", oslo.Text, "url",
			"`url` of the EC2 metadata", "http://169.254.169.254/latest/meta-data"),
		option("ec2", "timeout", oslo.Float, "seconds", "how long to wait for it, in `seconds`", "10"),
		option("cfn", "metadata-url", oslo.Text, "url", "`url` of Heat's CloudFormation API"),
		option("cfn", "heat-metadata-hint", oslo.Text, "file", "`file` that holds that URL without its /v1/",
			"/var/lib/heat-cfntools/cfn-metadata-server"),
		option("cfn", "ca_certificate", oslo.Text, "file", "`file` of certificates to trust"),
		option("cfn", "stack-name", oslo.Text, "name", "`name` of the stack"),
		option("cfn", "path", oslo.Multi, "path", "`path` of metadata, Resource.field[.key]; may be repeated"),
		option("cfn", "secret-access-key", oslo.Text, "key", "secret `key` to sign with"),
		option("cfn", "access-key-id", oslo.Text, "id", "`id` of that key"),
		option("cfn", "deployment-key", oslo.Multi, "key", "as --deployment-key, for this source", "deployments"),
		option("cfn", "timeout", oslo.Float, "seconds", "how long to wait, in `seconds`", "10"),
		option("heat_local", "path", oslo.Multi, "file", "`file` of the heat_local source; may be repeated",
			"/var/lib/heat-cfntools/cfn-init-data"),
		option("local", "path", oslo.Multi, "directory",
			"`directory` of the local source; may be repeated", DefaultLocal),
		option("request", "metadata-url", oslo.Text, "url", "`url` of the request source"),
		option("request", "timeout", oslo.Float, "seconds", "how long to wait for it, in `seconds`", "10"),
	}
	all = append(all, passedOver()...)
	if ours {
		all = append(all, ownOptions()...)
		for i := range all {
			switch all[i].Flag() {
			case "collectors":
				all[i].Default = OwnCollectors
			case "backup-cachedir":
				all[i].Default = nil
			}
		}
	}
	return all
}

// ownOptions are those that the original does not have.
func ownOptions() []oslo.Option {
	return []oslo.Option{
		option("nocloud", "seed", oslo.Text, "directory", "read the seed from a `directory` instead of a device"),
		option("instance_data", "path", oslo.Text, "file", "`file` that cloud-init keeps instance data in",
			"/run/cloud-init/instance-data-sensitive.json"),
		option("request", "token-file", oslo.Text, "file", "`file` of the bearer token for the request source"),
		option("imgpipe", "url", oslo.Text, "url",
			"`url` of the machine's metadata; empty: metadata-url of the seed"),
		option("imgpipe", "token-file", oslo.Text, "file",
			"`file` of the machine's token; empty: metadata-token of the seed"),
		option("imgpipe", "ca-certificate", oslo.Text, "file", "`file` of certificates to trust"),
		option("imgpipe", "timeout", oslo.Float, "seconds", "how long to wait for an answer, in `seconds`", "10"),
		option("", "converged-timeout", oslo.Text, "duration",
			"end when nothing has changed for this `duration`, such as 30s"),
		option("", "repair", oslo.Text, "mode",
			"when a configured file is edited by hand: report or restore (`mode`)"),
		option("", "repair-command", oslo.Text, "command",
			"applycfg, as a `command` that says which files are not as configured", "applycfg"),
	}
}

// passedOver are options that the original takes and ours has no use for:
// those of sources that are refused, and of its logging.
func passedOver() []oslo.Option {
	var all []oslo.Option
	text := func(group string, names ...string) {
		for _, n := range names {
			all = append(all, option(group, n, oslo.Text, "", ""))
		}
	}
	text("heat", "user-id", "password", "project-id", "auth-url", "stack-id", "resource-name", "region-name")
	text("zaqar", "user-id", "password", "project-id", "auth-url", "queue-id", "region-name", "ca-file")
	text("keystone", "cache_dir")
	text("", "log-date-format", "log-dir", "syslog-log-facility")
	all = append(all, option("keystone", "cache_ttl", oslo.Float, "", ""))
	for _, name := range []string{"use-websockets", "ssl-certificate-validation"} {
		all = append(all, option("zaqar", name, oslo.Bool, "", ""))
	}
	for _, name := range []string{"use-journal", "use-json", "use-syslog", "watch-log-file"} {
		all = append(all, option("", name, oslo.Bool, "", ""))
	}
	i := slices.IndexFunc(all, func(o oslo.Option) bool { return o.Name == "log-dir" })
	all[i].Aliases = []string{"logdir"}
	return append(all,
		oslo.Option{Name: "log-file", Kind: oslo.Text, Aliases: []string{"logfile"}},
		oslo.Option{Name: "log-config-append", Kind: oslo.Text, Aliases: []string{"log-config", "log_config"}},
		short("d", option("", "debug", oslo.Bool, "", "")),
	)
}

// The sources that are asked unless others are named. Those of the original that
// ours lacks are in replaced.
var (
	OriginalCollectors = []string{"heat_local", "ec2", "cfn", "heat", "request", "local", "zaqar"}
	OwnCollectors      = []string{"nocloud", "local"}
)

// sources are ours, and what each is.
var sources = []struct{ name, about string }{
	{"nocloud", "a seed: a file system labelled CIDATA, with goldsmith/metadata.json and meta-data"},
	{"local", "directories of JSON files"},
	{"heat_local", "files that other programs keep Heat's metadata in"},
	{"config_drive", "OpenStack's config drive, a file system labelled config-2"},
	{"instance_data", "what cloud-init found out"},
	{"ec2", "the EC2 metadata service, or what a config drive has of it"},
	{"request", "an object from a web server"},
	{"cfn", "Heat's CloudFormation API"},
	{"imgpipe", "the machine's metadata from imgpipe, with the machine's token"},
}

// SourceNames are the names of our sources.
func SourceNames() []string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = s.name
	}
	return names
}

// RepairModes are what --repair may be.
var RepairModes = []string{"report", "restore"}

// replaced are the original's sources that ours does not have, and what to
// use instead.
var replaced = map[string]string{
	"heat": "use cfn: Heat serves the same metadata there, with the keys of a stack's user" +
		" (software_config_transport POLL_SERVER_CFN)",
	"zaqar": "use cfn (software_config_transport POLL_SERVER_CFN) or request (POLL_TEMP_URL)",
}

// SourceHelp says what each source is, a line each.
func SourceHelp() string {
	lines := make([]string, len(sources))
	for i, s := range sources {
		lines[i] = fmt.Sprintf("  %-14s %s", s.name, s.about)
	}
	return strings.Join(lines, "\n")
}
