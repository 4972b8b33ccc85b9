# Runs Debian's os-collect-config for each case of the JSON on standard input,
# each in a directory and a process of its own, and prints the exit statuses.
import json
import os
import sys
import traceback

from os_collect_config import collect


def run(args):
    """One run of the program, as its script in /usr/bin does it."""
    try:
        status = collect.__main__(["os-collect-config"] + args)
    except SystemExit as e:
        status = e.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return (status or 0) & 255


def child(case, args):
    os.chdir(case["Dir"])
    os.environ.clear()
    os.environ.update(e.split("=", 1) for e in case["Env"])
    for fd, name in ((1, "stdout"), (2, "stderr")):
        f = os.open(case["Dir"] + "." + name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(f, fd)
    os._exit(run(args))


for line in sys.stdin:
    case = json.loads(line)
    pid = os.fork()
    if pid == 0:
        child(case, case["Args"] or [])
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
