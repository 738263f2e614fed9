"""Read many damaged files of every format that hwsearch reads: whatever is wrong with one, the answer must be an error of hwsearch's own.

    python benchmarks/damaged_files.py [--mutants 20000] [--seed 1]

The mutants are spread evenly over the formats of ``tests/formats.py``; the suite reads 300 of each with another seed. Each follows from the
format, its number and the seed alone, so that what is found here can be found again. Prints a line for each format and the faults; exits
with 1 where there are any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from formats import WINGS, faults

from hwsearch.interop import ForeignDataWarning


def main() -> None:
    """Read the mutants of all formats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=20000, help="in all formats together")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeignDataWarning)
        place = Path(name)
        (place / "work").mkdir()
        formats = [format for wing in WINGS.values() for format in wing(place / "work")]
        each = -(-options.mutants // len(formats))
        wrong = 0
        for number, format in enumerate(formats):
            folder = place / str(number)
            whole = folder / "whole"
            whole.mkdir(parents=True)
            format.use(format.put(whole, format.whole))
            found = list(faults(format, folder, range(each), options.seed))
            wrong += len(found)
            print(f"{format.name}: {each} read, {len(found)} faults", *found, sep="\n    ", flush=True)
    print(f"{each * len(formats)} damaged files of {len(formats)} formats: {wrong} faults")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
