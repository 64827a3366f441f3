"""Write golden fixtures anew, all of them or those named; see README.md beside this file."""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def main(names):
    sys.path.insert(0, str(HERE.parent))
    from oracles import libraries

    for name in names or libraries.ORACLES:
        arrays: dict = libraries.compute(name)
        np.savez_compressed(HERE / f"{name}.npz", allow_pickle=False, **arrays)
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
