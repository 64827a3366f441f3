"""Print the lowest versions that pyproject.toml allows, as constraints: of what runs and of dev."""

import re
import tomllib
from pathlib import Path

if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for wanted in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        if found := re.fullmatch(r"([\w.-]+)>=([\w.]+)", wanted):
            print(f"{found[1]}=={found[2]}")
