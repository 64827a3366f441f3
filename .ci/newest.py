"""Print the newest python3.X that is installed here, if it is newer than the one running this.

Looks on PATH and among pyenv's versions; a shim that starts nothing does not count.
"""

import os
import subprocess
import sys
from pathlib import Path

VERSION = "import sys; print(sys.version_info[0] * 1000 + sys.version_info[1])"


def candidates() -> list[Path]:
    folders = [Path(folder) for folder in os.get_exec_path()]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += pyenv.glob("versions/*/bin")
    return [path for folder in folders for path in sorted(folder.glob("python3.[1-9][0-9]"))]


def version(python: Path) -> int:
    """3013 for 3.13; 0 where it does not run."""
    done = subprocess.run([python, "-c", VERSION], capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else 0


if __name__ == "__main__":
    newest = max([Path(sys.executable), *candidates()], key=version)
    if version(newest) > version(Path(sys.executable)):
        print(newest)
