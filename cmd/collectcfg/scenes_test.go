package main

import "strings"

// scenes are what the original and ours are compared in.
func scenes() []scene {
	local := map[string]string{"l/b": `{"x": 1e3, "y": [1, 2], "z": {}}`, "l/a.json": `{"é": "\u00e9\ud83d\ude00", "n": null}`, "l/.hidden": "x", "l/sub/y": "{}"}
	show := `-c 'echo $$OS_CONFIG_FILES; cat cache/*.json'`
	base := "--cachedir cache --backup-cachedir backup --local-path l "
	one := base + "--one-time " + show + " local"
	cfn := "--cachedir cache --backup-cachedir backup --cfn-metadata-url URL/v1/server/ --cfn-access-key-id key --cfn-secret-access-key " + cfnSecret + " --cfn-stack-name 'my stack~*' "
	const (
		refused   = "settings that the original warns of are refused"
		escapes   = "names of deployments that are no file names are escaped"
		signature = "every request is signed by itself; the original's second signature is wrong"
		traceback = "a source whose answer is damaged is passed over; the original ends"
		parents   = "directories above the cache are made"
	)
	all := []scene{
		{name: "print", files: local, steps: []string{base + "--print local", base + "local"}},
		{name: "print beats force", files: local, steps: []string{base + "--print --force -c false local"}},
		{name: "one time", files: local, steps: []string{one, one}},
		{name: "change", files: local, steps: []string{one, "> l/b {\"x\":2}", one, "> l/b {\"x\" : 2 }", one, "> l/new []", one}},
		{name: "force", files: local, steps: []string{base + "--force " + show + " local", base + "--force " + show + " local"}},
		{name: "failing command", files: local, steps: []string{
			base + "--one-time -c 'exit 7' local", base + "--one-time -c 'exit 7' local", one, base + "--one-time -c 'exit 7' local", base + "--force -c 'exit 8' local"}},
		{name: "command ended by a signal", files: local, steps: []string{base + "--force -c 'kill -9 $$$$' local"}},
		{name: "command not there", files: local, steps: []string{base + "--force -c ./none local"}},
		{name: "no data", steps: []string{base + "--one-time " + show + " local", base + "--print local", base + "--force " + show + " local"}},
		{name: "no JSON", files: map[string]string{"l/a": "{}", "l/b": "{"}, steps: []string{one, base + "local"}},
		{name: "empty directory", files: map[string]string{"l/.x": ""}, steps: []string{one, base + "local"}},
		{name: "two directories", files: map[string]string{"l/b": "1", "m/a": "2", "m/b": "3"}, steps: []string{
			base + "--local-path m --one-time " + show + " local", base + "--local-path m local"}},
		{name: "cachedir below nothing", files: local, steps: []string{"--cachedir no/cache --backup-cachedir no/backup --local-path l --force -c true local"}, why: parents},
		{name: "no collectors left", files: local, steps: []string{base + "--heat_local-path none --print heat_local heat zaqar request cfn"}},
		{name: "heat_local", files: map[string]string{"h1": `{"a": {"x": 1}, "b": 1}`, "h2": `{"a": {"y": 2}}`, "h3": "{"}, steps: []string{
			"--heat_local-path h1 --heat_local-path h2 heat_local", "--heat_local-path h3 --heat_local-path none --heat_local-path h2 heat_local", "--heat_local-path h3 heat_local"}},
		{name: "heat_local, other values", files: map[string]string{"h1": `[]`, "h2": `[1]`, "h3": `"x"`, "h4": `{}`, "h5": `{"a": 1}`}, steps: []string{
			"--heat_local-path h1 heat_local", "--heat_local-path h2 heat_local", "--heat_local-path h3 heat_local", "--heat_local-path h4 --heat_local-path h5 heat_local"}},
		{name: "request", steps: []string{
			"--request-metadata-url URL/meta request", "--cachedir cache --backup-cachedir backup --request-metadata-url URL/meta --one-time " + show + " request"}},
		{name: "request, text", steps: []string{"--request-metadata-url URL/latin request", "--request-metadata-url URL/utf8 request", "--request-metadata-url URL/moved request"}},
		{name: "request, not there", steps: []string{"--request-metadata-url URL/none request", "--request-metadata-url http://127.0.0.1:1/ request", "--request-metadata-url URL/broken request"}},
		{name: "deployment keys", steps: []string{
			"--request-metadata-url URL/keys request", "--request-metadata-url URL/keys --deployment-key other --deployment-key more --deployment-key deployments request"}},
		{name: "ec2", steps: []string{
			"--ec2-metadata-url URL/ec2 ec2", "--cachedir cache --backup-cachedir backup --ec2-metadata-url URL/ec2 --one-time " + show + " ec2",
			"--cachedir cache --backup-cachedir backup --ec2-metadata-url URL/none --one-time " + show + " ec2", "--cachedir cache --ec2-metadata-url URL/none ec2"}},
		{name: "ec2, not there", steps: []string{"--ec2-metadata-url URL/none ec2", "--ec2-metadata-url http://127.0.0.1:1/x ec2"}},
		{name: "ec2, cache of no use", files: map[string]string{"cache/ec2.json": "{"}, steps: []string{"--cachedir cache --ec2-metadata-url URL/ec2 ec2"}},
		{name: "cfn", steps: []string{cfn + "--cfn-path server.Metadata cfn", cfn + "--cfn-path server.Metadata --one-time " + show + " cfn"}},
		{name: "cfn, below", steps: []string{cfn + "--cfn-path server.Metadata.sub cfn", cfn + "--cfn-path server.Metadata.sub.deep cfn"}},
		{name: "cfn, not there", steps: []string{
			cfn + "--cfn-path server.Metadata.none cfn", cfn + "--cfn-path server.None cfn", cfn + "--cfn-path server cfn", cfn + "cfn",
			strings.ReplaceAll(cfn, "server", "broken") + "--cfn-path server.Metadata cfn", strings.ReplaceAll(cfn, "server", "none") + "--cfn-path server.Metadata cfn"}},
		{name: "cfn, hint", files: map[string]string{"hint": "URL\n"}, steps: []string{
			"--cfn-heat-metadata-hint hint --cfn-access-key-id k --cfn-secret-access-key s --cfn-stack-name s --cfn-path r.Metadata cfn"}},
		{name: "cfn, two paths", steps: []string{cfn + "--cfn-path server.Metadata --cfn-path other.Metadata cfn"}, why: signature},
		{name: "cfn, its own deployment key", steps: []string{cfn + "--cfn-deployment-key none --cfn-path server.Metadata cfn", cfn + "--deployment-key none --cfn-path server.Metadata cfn"}},
		{name: "several", files: local, steps: []string{cfn + "--local-path l --request-metadata-url URL/meta --ec2-metadata-url URL/ec2 --cfn-path server.Metadata --one-time " + show + " local cfn request ec2"}},
		{name: "the order counts", files: local, steps: []string{base + "--request-metadata-url URL/meta --one-time " + show + " request local", base + "--request-metadata-url URL/meta --one-time " + show + " local request"}},
		{name: "a source that goes", files: local, steps: []string{
			base + "--request-metadata-url URL/meta --one-time " + show + " request local", base + "--request-metadata-url URL/none --one-time " + show + " request local",
			"> l/b 1", base + "--request-metadata-url URL/none --one-time " + show + " request local"}},
	}
	return append(append(all, settingScenes(local, show, refused)...),
		scene{name: "request, no object", steps: []string{"--request-metadata-url URL/list request"}, why: traceback},
		scene{name: "damaged XML", steps: []string{strings.ReplaceAll(cfn, "URL/v1/server/", "URL/meta") + "--cfn-path server.Metadata cfn"}, why: traceback},
		scene{name: "deployments whose names lead elsewhere", steps: []string{
			"--cachedir a/b/cache --backup-cachedir backup --request-metadata-url URL/escape --one-time -c true request"}, why: escapes,
			files: map[string]string{"a/b/c": ""}},
		scene{name: "deployment without config", steps: []string{"--request-metadata-url URL/half request"}, why: traceback},
	)
}

// settingScenes are about files, flags and the environment.
func settingScenes(local map[string]string, show, refused string) []scene {
	with := func(conf string) map[string]string {
		files := map[string]string{"os-collect-config.conf": conf}
		for k, v := range local {
			files[k] = v
		}
		return files
	}
	conf := "[DEFAULT]\ncachedir = cache\nbackup_cachedir = backup\ncollectors = local\none_time = True\ncommand = echo $$OS_CONFIG_FILES $cachedir ${local.path} \\$HOME\n[local]\npath = l\n"
	return []scene{
		{name: "settings", files: with(conf), steps: []string{"", "--force", "--print", "--print-cachedir", "--cachedir other --print-cachedir", "--noone-time --print"}},
		{name: "settings, another file", files: map[string]string{"l/x": "1", "os-collect-config.conf": "[DEFAULT]\ncachedir = no\n", "a.conf": conf, "b.conf": "[DEFAULT]\ncachedir = b\n"}, steps: []string{
			"--config-file a.conf", "--config-file a.conf --config-file b.conf --print-cachedir", "--config-file b.conf --cachedir c --print-cachedir",
			"--cachedir c --config-file b.conf --print-cachedir", "--config-fil b.conf --print-cachedir"}},
		{name: "settings, directories", files: map[string]string{"d/a.conf": "[DEFAULT]\ncachedir = a\n", "d/b.conf": "[DEFAULT]\ncachedir = b\n", "d/c": "[DEFAULT]\ncachedir = c\n",
			"os-collect-config.conf.d/x.conf": "[DEFAULT]\ncachedir = x\n"}, steps: []string{
			"--config-dir d --print-cachedir", "--print-cachedir", "--config-dir none --print-cachedir"}},
		{name: "settings, lists", files: with("[local]\npath = l\npath = m\n[DEFAULT]\ncollectors = heat_local\ncollectors = local\n"), steps: []string{
			"", "--local-path n", "local", "local heat_local"}},
		{name: "settings, dialect", files: with("# x\n[DEFAULT]\n; y\ncachedir: \"a b\"\n  c\n[ODD]\nx=1\n[Local]\npath='l'\n"), steps: []string{"--print-cachedir", "local"}},
		{name: "settings, hyphens", files: with("[DEFAULT]\nprint-cachedir = true\nbackup-cachedir = x\n"), steps: []string{"--print local --local-path l"}},
		{name: "settings, wrong", files: map[string]string{"a": "cachedir = x\n", "b": "[DEFAULT\n", "c": "[DEFAULT]\nnonsense\n", "d": "[DEFAULT]\n\n  x\n", "e": "[DEFAULT]\n= x\n"}, steps: []string{
			"--config-file a", "--config-file b", "--config-file c", "--config-file d", "--config-file e", "--config-file none"}},
		{name: "settings, no option", files: with("[DEFAULT]\ncommand = echo $NONE\n"), steps: []string{"--print-cachedir", "--config-file os-collect-config.conf local"}},
		{name: "settings, wrong values", files: with("[DEFAULT]\nforce = maybe\n"), steps: []string{"--print-cachedir", "--config-file none"}, why: refused},
		{name: "flags, wrong values", steps: []string{"--splay x --print-cachedir"}, why: refused},
		{name: "environment", files: with(conf), steps: []string{
			"OS_DEFAULT__CACHEDIR=env --print-cachedir", "OS_DEFAULT__CACHEDIR=env --cachedir c --print-cachedir",
			"OS_DEFAULT__CACHEDIR=env --config-file none2 --print-cachedir", "OS_LOCAL__PATH=l --print heat_local"}},
		{name: "flags", files: local, steps: []string{
			"--forc --cached cache --backup-c backup --local-p l -cecho local", "-i5 -d --cachedir=x --print-cachedir", "-dcfoo --print-cachedir", "-i 5 --print-cachedir",
			"--version", "--c x", "--nope", "-x", "--print-cachedir=1", "--cachedir", "--cachedir --force", "-c", "local --print-cachedir heat_local",
			"--print-cachedir -- local", "--local-path l -- local", "--print-cachedir --noprint-cachedir --heat_local-path none heat_local", "--cachedir -- x", "--cachedir -5 --print-cachedir",
			"--keystone-cache_ttl 5 --zaqar-use-websockets --log-dir . --use-json --print-cachedir", "none", "--force none"}},
	}
}
