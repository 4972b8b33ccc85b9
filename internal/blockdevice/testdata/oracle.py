"""Runs diskimage-builder's block device layer over cases, without touching a device.

Reads a JSON list of cases from standard input and writes a list of results. The programs it would
run are noted; sgdisk is really run, on the image file, and the master boot record really written.
"""
import json, logging, os, shutil, subprocess, sys, tempfile
sys.dont_write_bytecode = True
logging.disable(logging.CRITICAL)
import yaml
from diskimage_builder.block_device import blockdevice, config, utils
from diskimage_builder.block_device.level0 import localloop
from diskimage_builder.block_device.level1 import lvm, partitioning
from diskimage_builder.block_device.level2 import mkfs
from diskimage_builder.block_device.level3 import mount

commands, images = [], {}


def fake(cmd):
    assert all(isinstance(c, str) for c in cmd), cmd
    commands.append(cmd)
    if cmd[0] == "losetup" and "--show" in cmd:
        images["/dev/loop%d" % len(images)] = cmd[-1]
        return "/dev/loop%d\n" % (len(images) - 1)
    if cmd[0] == "sgdisk" and sgdisk:
        subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return ""


for module in (blockdevice, localloop, lvm, partitioning, mkfs, mount):
    if hasattr(module, "exec_sudo"):
        module.exec_sudo = fake


def run(case, work, out):
    params = dict(case["params"])
    params.update({"image-dir": work, "build-dir": work, "mount-base": "/nowhere", "config": work + "/config.yaml"})
    with open(params["config"], "w") as f:
        f.write(case["yaml"])
    out["graph"] = config.config_tree_to_graph(yaml.safe_load(open(params["config"])))
    json.dumps(out["graph"])
    bd = blockdevice.BlockDevice(params)
    bd.cmd_init()
    out["points"] = bd._config_get_all_mount_points()
    root = bd._config_get_mkfs(bd._config_get_mount("/")["base"])
    out["label"], out["type"] = root["label"], root["type"]
    state = blockdevice.BlockDeviceState()
    graph, order = config.create_graph(bd.config, params, state)
    out["order"] = [n.name for n in order]
    out["edges"] = sorted([a, b] for a, b in graph.edges())
    out["plan"] = True
    for n in order:
        n.create()
    state.save_state(bd.state_json_file_name)
    state["blockdev"]["image0"]["image"]
    bd.cmd_writefstab()
    out["fstab"] = open(work + "/states/block-device/fstab").read()
    out["devices"] = list(state["blockdev"])
    out["mkfs"] = [c for c in commands if c[0] == "mkfs"]
    out["ok"] = True


if __name__ == "__main__":
    results = []
    for i, case in enumerate(json.load(sys.stdin)):
        commands.clear()
        sgdisk = case.get("sgdisk")
        images.clear()
        work = tempfile.mkdtemp()
        out, sizes = {}, []
        try:
            run(case, work, out)
        except (Exception, SystemExit) as e:
            out["error"] = "%s: %s" % (type(e).__name__, e)
        for size in case.get("sizes", []):
            try:
                sizes.append(utils.parse_abs_size_spec(size))
            except Exception:
                sizes.append(None)
        out["sizes"] = sizes
        if out.get("ok") and images:
            dest = os.path.join(sys.argv[1], str(i))
            os.mkdir(dest)
            for path in images.values():
                shutil.move(path, dest)
        shutil.rmtree(work)
        results.append(out)
    json.dump(results, sys.stdout)
