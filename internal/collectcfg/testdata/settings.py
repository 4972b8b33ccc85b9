# Reads each case's files and command line as os-collect-config does, in a
# process of its own, and prints every setting, or the exit status.
import json
import os
import sys

from os_collect_config import collect

NAMES = json.loads(sys.argv[1])


def settings(case):
    os.chdir(case["Dir"])
    os.environ.clear()
    os.environ.update(e.split("=", 1) for e in case["Env"])
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    collect.setup_conf()
    try:
        collect.CONF(args=case["Args"] or [], prog="os-collect-config", version="v")
        out = {}
        for name in NAMES:
            group, _, dest = name.rpartition(".")
            where = getattr(collect.CONF, group) if group else collect.CONF
            out[name] = getattr(where, dest)
        return out
    except SystemExit as e:
        return {"status": e.code or 0}
    except BaseException as e:
        return {"status": 1, "why": repr(e)}


results = []
for case in json.load(sys.stdin):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(r)
        with os.fdopen(w, "w") as f:
            json.dump(settings(case), f)
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        results.append(json.load(f))
    os.waitpid(pid, 0)
json.dump(results, sys.stdout)
