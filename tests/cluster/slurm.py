"""A real SLURM on this machine: munged, slurmctld and slurmd, as root, without systemd."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=300
ReturnToService=2
MpiDefault=none
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=spot Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=CANCEL
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def is_installed() -> bool:
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "munged", "sbatch"))


class Cluster:
    """Daemons of ours alone, with their files in `root`."""

    def __init__(self, root: Path):
        self.root = root
        self.daemons: dict[str, subprocess.Popen] = {}
        self.env = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "slurm.conf").write_text(CONF.format(root=self.root))
        self.munge()
        self.controller()
        self.run("slurmd", "-D", "-N", "localhost")
        self.until_idle()

    def munge(self) -> None:
        """The system's socket, which libmunge looks for; a daemon that runs is used as it is."""
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        user = pwd.getpwnam("munge")
        for name in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
            Path(name).mkdir(parents=True, exist_ok=True)
            os.chown(name, user.pw_uid, user.pw_gid)
        Path("/run/munge").chmod(0o755)
        self.daemons["munged"] = subprocess.Popen(
            ["munged", "--foreground"],
            user="munge",
            group="munge",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0)

    def controller(self) -> None:
        self.run("slurmctld", "-D")

    def run(self, *command: str) -> None:
        log = (self.root / f"{command[0]}.out").open("a")
        self.daemons[command[0]] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        log.close()

    def restart_controller(self) -> None:
        self.daemons["slurmctld"].kill()
        self.daemons["slurmctld"].wait()
        time.sleep(3)
        self.controller()

    def until_idle(self) -> None:
        until(lambda: "idle" in self.ask("sinfo", "-h", "-p", "low", "-o", "%T"))

    def ask(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        return done.stdout

    def jobs(self) -> list[str]:
        """ARRAY_TASK of the jobs that run now."""
        return self.ask("squeue", "-h", "--array", "-t", "RUNNING", "-o", "%i").split()

    def stop(self) -> None:
        self.ask("scancel", "--me")
        time.sleep(2)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()
            daemon.wait()


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.2)


@contextlib.contextmanager
def cluster(root: Path) -> Iterator[Cluster]:
    found = Cluster(root)
    try:
        found.start()
        yield found
    finally:
        found.stop()
