"""Starts a Slurm on this machine, with two nodes and accounting, beside any that may be here; and stops it again."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

HOME = Path("/var/lib/litlab-slurm")
"""All that it has; not in the project, since the users `munge` and `mysql` must get there."""
CONF = HOME / "slurm.conf"
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
PACKAGES = "slurm-wlm slurmdbd munge mariadb-server"
NODES = ("n1", "n2")
PATIENCE = 30
"""Seconds in which a daemon is up, or has ended."""


def main() -> None:
    """`up` prints what tells Slurm's commands where it is; `down` leaves nothing of it."""
    actions = {"up": up, "down": down}
    if sys.argv[1:2] not in (["up"], ["down"]) or len(sys.argv) > 2:
        sys.exit("usage: scripts/dev/local-slurm up|down")
    if os.geteuid() != 0:
        sys.exit("scripts/dev/local-slurm: run it as root: it starts daemons as the users munge and mysql")
    actions[sys.argv[1]]()


def up() -> None:
    """Start whatever Slurm consists of; if it is up already, do nothing."""
    if missing := [daemon for daemon in DAEMONS if shutil.which(daemon, path=_path()) is None]:
        sys.exit(f"scripts/dev/local-slurm: {', '.join(missing)} is not installed: apt-get install {PACKAGES}")
    if not _is_up():
        down()
        try:
            _start()
        except BaseException:
            down()
            raise
    print(f"export SLURM_CONF={CONF}")


def down() -> None:
    """Cancel its jobs, stop its daemons, the last that was started first, and remove what they have written."""
    if _is_up():
        _slurm("scancel", "--user=root")
        _wait_until(lambda: not _slurm("squeue", "--noheader"), "the jobs' end")
    started = sorted(HOME.glob("*.pid"), key=lambda file: file.stat().st_mtime, reverse=True)
    for pid in started:
        _stop(int(pid.read_text()))
    shutil.rmtree(HOME, ignore_errors=True)


def _stop(pid: int) -> None:
    process = Path(f"/proc/{pid}")
    with suppress(OSError):
        if (process / "comm").read_text().strip() in DAEMONS:  # and not one that has got its number since
            os.kill(pid, signal.SIGTERM)
            _wait_until(lambda: not process.exists(), f"the end of process {pid}")


def _is_up() -> bool:
    return CONF.exists() and "UP" in _slurm("scontrol", "ping")


def _start() -> None:
    HOME.mkdir(mode=0o755)
    _start_munge()
    _start_database()
    (HOME / "slurmdbd.conf").touch(0o600)
    (HOME / "slurmdbd.conf").write_text(_slurmdbd_conf())
    CONF.write_text(_slurm_conf())
    _daemon("slurmdbd")
    _wait_until(lambda: _slurm("sacctmgr", "--immediate", "add", "cluster", "litlab"), "slurmdbd")
    _daemon("slurmctld", "-c")
    for node in NODES:
        _daemon("slurmd", "-N", node)
    _wait_until(lambda: _slurm("sinfo", "--noheader", "--states=idle", "--format=%D") == str(len(NODES)), "the nodes")


def _start_munge() -> None:
    folder = HOME / "munge"
    folder.mkdir(mode=0o755)
    key = folder / "key"
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    for path in (folder, key):
        shutil.chown(path, "munge", "munge")
    files = {"key": key, "pid": folder / "pid", "log": folder / "log", "seed": folder / "seed"}
    options = [f"--{name}-file={file}" for name, file in files.items()]
    _daemon("munged", f"--socket={folder}/socket", *options, user="munge")
    (HOME / "munged.pid").write_text((folder / "pid").read_text())


def _start_database() -> None:
    folder = HOME / "database"
    folder.mkdir(mode=0o755)
    shutil.chown(folder, "mysql", "mysql")
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}", "--user=mysql", "--skip-test-db"]
    subprocess.run(install, check=True, capture_output=True)
    files = [f"--datadir={folder}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
    _daemon("setsid", "--fork", "mariadbd", "--no-defaults", "--user=mysql", "--skip-networking", *files)
    _wait_until(lambda: (folder / "pid").exists() and (folder / "socket").exists(), "mariadbd")
    (HOME / "mariadbd.pid").write_text((folder / "pid").read_text())


def _slurmdbd_conf() -> str:
    return f"""AuthType=auth/munge
AuthInfo=socket={HOME}/munge/socket
DbdHost=localhost
DbdPort=16819
SlurmUser=root
StorageType=accounting_storage/mysql
StorageUser=root
PidFile={HOME}/slurmdbd.pid
LogFile={HOME}/slurmdbd.log
"""


def _slurm_conf() -> str:
    host = socket.gethostname().partition(".")[0]
    cores = max(1, (os.cpu_count() or 1) // len(NODES))
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10 // len(NODES)
    size = f"CPUs={cores} RealMemory={megabytes}"
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={16830 + index} {size}"
        for index, name in enumerate(NODES)
    )
    # A job that is put back into the queue waits until its credential has expired: 2 minutes, if nothing is said.
    return f"""ClusterName=litlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthInfo=socket={HOME}/munge/socket,cred_expire=5
StateSaveLocation={HOME}/state
SlurmdSpoolDir={HOME}/%n
SlurmctldPidFile={HOME}/slurmctld.pid
SlurmdPidFile={HOME}/slurmd-%n.pid
SlurmctldLogFile={HOME}/slurmctld.log
SlurmdLogFile={HOME}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={megabytes // cores}
JobRequeue=1
ReturnToService=2
KillWait=15
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
AccountingStoragePass={HOME}/munge/socket
{nodes}
PartitionName=main Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
"""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _environment() -> dict[str, str]:
    own = {"SLURM_CONF": str(CONF), "MYSQL_UNIX_PORT": f"{HOME}/database/socket", "PATH": _path()}
    return os.environ | own


def _daemon(*command: str, user: str | None = None) -> None:
    """Start a daemon, which goes to the background by itself."""
    whose: dict[str, Any] = {}
    if user:
        whose = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    with (HOME / "daemons.log").open("a+") as log:
        before = log.tell()
        started = subprocess.run(command, env=_environment(), stdout=log, stderr=log, **whose)
        log.seek(before)
        if started.returncode:
            sys.exit(f"scripts/dev/local-slurm: {command[0]} does not start: {log.read().strip()}")


def _slurm(*command: str) -> str:
    """What one of Slurm's commands prints; nothing where it fails."""
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def _wait_until(condition: Callable[[], Any], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"scripts/dev/local-slurm: waited {PATIENCE} seconds for {what}; see {HOME}")
        time.sleep(0.1)


main()
