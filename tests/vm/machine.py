"""Boots a Debian in QEMU and runs the scripts of this folder in it; `scripts/vm` calls it."""

import atexit
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "target" / "vm"
PROGRAM = Path(os.environ.get("TRESOR", ROOT / "target/release/tresor")).resolve()
JOBS = ["nfs", "automount", "filesystems", "power"]
PACKAGES = (
    "linux-image-cloud-amd64 systemd-sysv udev dbus kmod iproute2 nfs-common nfs-kernel-server fuse3 acl attr rsync "
    "dosfstools exfatprogs xfsprogs btrfs-progs e2fsprogs procps"
)
# Runs the job that lies on the second disk, and turns the machine off.
UNIT = """[Unit]
After=multi-user.target
[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/sh -c 'mount /dev/vdb /job; cd /root; PATH=/job:$PATH bash -eu /job/run >/job/out 2>&1; \
echo $? >/job/status; sync; systemctl poweroff'
[Install]
WantedBy=multi-user.target
"""
PATIENCE = 3600
FILE_SYSTEMS = os.environ.get("TRESOR_VM_DISKS", "ext4 xfs btrfs vfat exfat").split()
CUTS = int(os.environ.get("TRESOR_VM_CUTS", "10"))


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def make_machine():
    """An image of a whole Debian; made once."""
    image = WORK / "root.img"
    if image.exists():
        return
    WORK.mkdir(parents=True, exist_ok=True)
    root = WORK / "root"
    shutil.rmtree(root, ignore_errors=True)
    print("making a machine from Debian's packages", flush=True)
    archive = WORK / "root.tar"
    include = "--include=" + ",".join(PACKAGES.split())
    run("mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", archive)
    root.mkdir()
    run("tar", "-C", root, "-xpf", archive, "--exclude=./dev/*")
    archive.unlink()
    (root / "job").mkdir()
    units = root / "etc/systemd/system"
    (units / "job.service").write_text(UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/job.service").symlink_to("../job.service")
    for name, pattern in [("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")]:
        shutil.copy(next((root / "boot").glob(pattern)), WORK / name)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, WORK / "root.new", "2500M", stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    (WORK / "root.new").rename(image)


def accelerator():
    """KVM if it works here; that it is there says little on a machine that is virtual itself."""
    if os.access("/dev/kvm", os.W_OK):
        probe = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-display", "none", "-S", "-monitor", "stdio"]
        if subprocess.run(probe, input=b"quit\n", capture_output=True).returncode == 0:
            return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


class Machine:
    """One that runs a job. Its folder holds what the job finds in /job."""

    def __init__(self, name, script, words="", files=(), disks=(), size="900M"):
        self.folder, self.image = WORK / name, WORK / f"{name}.img"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run("strip", "-o", self.folder / "tresor", PROGRAM)
        shutil.copy(HERE / script, self.folder / "run")
        shutil.copy(HERE / "lib.sh", self.folder)
        (self.folder / "words").write_text(words)
        for file in files:
            shutil.move(file, self.folder)
        self.image.unlink(missing_ok=True)
        run("mke2fs", "-q", "-t", "ext4", "-d", self.folder, self.image, size, stdout=subprocess.DEVNULL)
        self.socket = WORK / f"{name}.qmp"
        self.socket.unlink(missing_ok=True)
        command = ["qemu-system-x86_64", *accelerator(), "-m", "1536", "-smp", "2", "-display", "none", "-nic", "none"]
        command += ["-serial", "stdio", "-monitor", "none", "-no-reboot", "-qmp", f"unix:{self.socket},server,wait=off"]
        command += ["-kernel", WORK / "vmlinuz", "-initrd", WORK / "initrd"]
        command += ["-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0"]
        command += ["-drive", f"file={WORK / 'root.img'},if=virtio,format=raw,snapshot=on"]
        for disk in (self.image, *disks):
            command += ["-drive", f"file={disk},if=virtio,format=raw"]
        self.lines = []
        self.process = subprocess.Popen([str(w) for w in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").strip())

    def said(self, word):
        """What stands behind this word in the lines on the machine's console."""
        return [line.split(word, 1)[1].strip() for line in list(self.lines) if word in line]

    def tell(self, what):
        """A command to QEMU itself."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            stream = connection.makefile("rw")
            stream.readline()
            for command in ["qmp_capabilities", what]:
                stream.write(json.dumps({"execute": command}) + "\n")
                stream.flush()
                while "return" not in json.loads(stream.readline()):
                    pass

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ended(self):
        """What the job has printed, and whether it went well."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        read = lambda name: run("debugfs", "-R", f"cat {name}", self.image, capture_output=True).stdout.decode()
        return read("out"), read("status").strip() == "0"


def power():
    """A machine backs up, forgets and prunes without end. Its disk is copied now and then while it stands
    still: that is what a disk holds when the power fails, since what the machine's kernel has only in memory
    isn't on it. Another machine then looks at all copies."""
    copies, said, rng = [], [], random.Random(1)
    for kind in FILE_SYSTEMS:
        disk = WORK / "power-disk.img"
        disk.unlink(missing_ok=True)
        run("truncate", "-s", "384M", disk)
        machine = Machine(f"power-{kind}", "power_work.sh", kind, disks=[disk])
        atexit.register(machine.kill)
        wait(lambda: machine.said("SAVED "))
        for cut in range(CUTS):
            time.sleep(rng.uniform(0.5, 6))
            machine.tell("stop")
            # What the console has said before, its reader has by now.
            time.sleep(0.3)
            saved, forgotten = machine.said("SAVED "), machine.said("FORGETTING ")
            copy = WORK / f"cut-{kind}-{cut}.img"
            run("cp", "--sparse=always", disk, copy)
            machine.tell("cont")
            copies.append(copy)
            said.append((copy.name, kind, saved, forgotten))
        machine.kill()
    lines = [" ".join([name, kind, *(s for s in saved if s.split()[0] not in gone)]) for name, kind, saved, gone in said]
    return Machine("power-look", "power_look.sh", "\n".join(lines) + "\n", copies, size="24G").ended()


def wait(until):
    end = time.time() + PATIENCE / 6
    while not until():
        if time.time() > end:
            raise SystemExit("the machine says nothing")
        time.sleep(0.2)


def main():
    jobs = sys.argv[1:] or JOBS
    if unknown := set(jobs) - set(JOBS):
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(JOBS)}")
    make_machine()
    failed = []
    for job in jobs:
        print(f"== {job}", flush=True)
        out, well = power() if job == "power" else Machine(job, f"{job}.sh").ended()
        print(out, end="", flush=True)
        print("ok" if well else "FAILED", flush=True)
        failed += [] if well else [job]
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
