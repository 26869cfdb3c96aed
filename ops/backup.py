#!/usr/bin/env python3
"""Copies the data of `attribution serve` while it runs, and brings a copy back: journey store and warehouse follow from the log.

    ops/backup.py --data ./data --to /backups [--go]                         a new folder of /backups, named by its moment
    ops/backup.py --restore /backups/2026-11-25T103000Z --data ./data [--go] into a folder that has no log

Without --go nothing is written: it says what it would do. What was acknowledged before the copy began is in it, so what a lost
disk costs is the time between two copies. A cluster's stores have backups of their own (k8s/components/backups).
"""

import argparse
import os
import pathlib
import shutil
import sys
import time

BLOCK_BYTES = 4096
# Settings and their editions come after the log: an event is decided under the edition it came in with.
AFTER_THE_LOG = ["editions", "settings.toml", "api-key"]


def copy_growing(source, target):
    """Copies a file that is appended to, from its end to its beginning: whatever is in the copy, all before it is too."""
    with open(source, "rb") as read, open(target, "wb") as write:
        size = os.fstat(read.fileno()).st_size
        write.truncate(size)
        for at in reversed(range(0, size, BLOCK_BYTES)):
            block = os.pread(read.fileno(), BLOCK_BYTES, at)
            # What was set aside and not written yet stays a hole.
            if block.strip(b"\0"):
                os.pwrite(write.fileno(), block, at)
        os.fsync(write.fileno())


def copy(source, target, growing=False):
    target.parent.mkdir(parents=True, exist_ok=True)
    if growing:
        copy_growing(source, target)
    else:
        shutil.copyfile(source, target)
    shutil.copystat(source, target)


def files(path):
    """The files at or below a path; none where there is nothing."""
    return [path] if path.is_file() else sorted(below for below in path.rglob("*") if below.is_file())


def back_up(data, target):
    # A segment that begins meanwhile is not in this list, and so not in the copy.
    for path in files(data / "log"):
        if path.name != "lock":
            copy(path, target / path.relative_to(data), growing=True)
    for name in AFTER_THE_LOG:
        for path in files(data / name):
            copy(path, target / path.relative_to(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=pathlib.Path)
    way.add_argument("--restore", type=pathlib.Path)
    parser.add_argument("--go", action="store_true")
    arguments = parser.parse_args()
    source = arguments.restore or arguments.data
    if not (source / "log/log.meta").exists():
        sys.exit(f"{source} has no log")
    if arguments.restore:
        target = arguments.data
        if (target / "log").exists():
            sys.exit(f"{target} has a log already: move it away first")
    else:
        target = arguments.to / time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
        if target.exists():
            sys.exit(f"{target} is there already")
    if not arguments.go:
        return print(f"would copy log, editions, settings and key of {source} to {target}")
    # Whole or not at all.
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    back_up(source, partial)
    os.sync()
    if target.exists():
        for path in files(partial):
            (target / path.relative_to(partial)).parent.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.relative_to(partial))
        shutil.rmtree(partial)
    else:
        partial.rename(target)
    print(target)


if __name__ == "__main__":
    main()
