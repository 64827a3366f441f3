"""A launcher as a user would write one: it notes the commands for somebody else to run."""

from lstm_jax.errors import UsageError
from lstm_jax.option import Flag


class Launcher:
    FLAGS = (Flag("host", "", "mine: where the workers run"),)

    def __init__(self, options):
        if not options["host"]:
            raise UsageError("--launcher=mylauncher needs --host=NAME")
        self.host, self.count = options["host"], options["workers"] or 1

    def submit(self, workdir, packs):
        (workdir / "commands").write_text(self.describe(workdir, packs))

    def describe(self, workdir, packs):
        worker = "python -m lstm_jax.sweep.workers.worker"
        return "\n".join(f"ssh {self.host} {worker} {workdir}" for _ in range(self.count))

    def poll(self):
        return []

    def cancel(self):
        pass

    @staticmethod
    def take_back(workdir):
        (workdir / "taken_back").touch()
