"""What carries files to a board and back: this text is handed to the board's own Python, so it uses the standard library only.

``python -c TEXT VERB FOLDER ...`` calls one of the functions below.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable


def have(folder: str) -> None:
    """Print the files that are there, a line each."""
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".part"):
                path = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
                sys.stdout.buffer.write(os.fsencode(path) + b"\n")  # which need not be text


def take(folder: str) -> None:
    """Write files from standard input: a line "SIZE NAME", then SIZE bytes; a file is there whole or not at all."""
    while line := sys.stdin.buffer.readline():
        size, name = line.decode().rstrip("\n").split(" ", 1)
        data = sys.stdin.buffer.read(int(size))
        if len(data) < int(size):
            sys.exit("the connection was cut")
        path = os.path.join(folder, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.part", "wb") as file:
            file.write(data)
        os.replace(f"{path}.part", path)
        print(name, flush=True)


def give(folder: str, name: str, start: str, digest: str) -> None:
    """Print a position, and the bytes of a file from there on: ``start``, if the SHA-256 of what comes before is ``digest``, else 0."""
    with open(os.path.join(folder, *name.split("/")), "rb") as file:
        same = hashlib.sha256(file.read(int(start))).hexdigest() == digest
        if not same:
            file.seek(0)
        sys.stdout.buffer.write(f"{file.tell()}\n".encode())
        shutil.copyfileobj(file, sys.stdout.buffer)


def drop(folder: str) -> None:
    """Delete a folder."""
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {"have": have, "take": take, "give": give, "drop": drop}
    verbs[sys.argv[1]](*sys.argv[2:])
