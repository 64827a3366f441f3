"""The wheel carries the configs and the studies, from their one copy, as lstm_jax.configs and
lstm_jax.experiments. All else stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # a checkout has them beside the package
            return
        for file in (*Path("configs").glob("*.py"), *Path("experiments").glob("*/study.py")):
            target = Path(self.build_lib, "lstm_jax", file)
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildPy})
