"""A copy of a log that grows meanwhile has a beginning of it without a gap, and a drill gets back what it lost."""

import subprocess
import sys
import threading

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "ops"))
import backup  # noqa: E402

RECORD = 24
SIZE = 1 << 20


@pytest.fixture
def growing(tmp_path):
    """A file of a size that is set aside, filled from the beginning while the test runs."""
    path, stop = tmp_path / "segment", threading.Event()
    path.write_bytes(bytes(SIZE))

    def fill():
        with open(path, "r+b", buffering=0) as file:
            for number in range(SIZE // RECORD):
                if stop.is_set():
                    return
                file.write(f"{number + 1:0{RECORD}d}".encode())

    thread = threading.Thread(target=fill)
    thread.start()
    yield path
    stop.set()
    thread.join()


def whole_records(path):
    text = path.read_bytes()
    return [text[at : at + RECORD] for at in range(0, len(text) - RECORD + 1, RECORD)]


def test_a_copy_of_a_growing_file_has_no_gap(growing, tmp_path):
    for round_number in range(20):
        before = sum(r != bytes(RECORD) for r in whole_records(growing))
        backup.copy_growing(growing, tmp_path / f"copy{round_number}")
        copied = whole_records(tmp_path / f"copy{round_number}")
        there = [r == f"{n + 1:0{RECORD}d}".encode() for n, r in enumerate(copied)]
        end = there.index(False) if False in there else len(there)
        # The record at the end may be torn, everything behind it is empty.
        assert end >= before and all(r == bytes(RECORD) for r in copied[end + 1 :])


def run(*arguments):
    return subprocess.run([ROOT / "ops/backup.py", *arguments], capture_output=True, text=True)


def test_it_is_dry_by_default_whole_and_never_over_what_is_there(tmp_path):
    data, copies = tmp_path / "data", tmp_path / "copies"
    (data / "log/p0000").mkdir(parents=True)
    (data / "journeys").mkdir()
    for name in ("log/log.meta", "log/lock", "log/p0000/0.segment", "settings.toml", "api-key", "journeys/table"):
        (data / name).write_text(name)
    (data / "api-key").chmod(0o600)
    assert run("--data", data, "--to", copies).returncode == 0 and not copies.exists()
    said = run("--data", data, "--to", copies, "--go")
    assert said.returncode == 0, said.stderr
    assert run("--restore", said.stdout.strip(), "--data", data, "--go").returncode != 0
    restored = tmp_path / "restored"
    assert run("--restore", said.stdout.strip(), "--data", restored, "--go").returncode == 0
    there = {str(p.relative_to(restored)): p.read_text() for p in restored.rglob("*") if p.is_file()}
    assert there == {name: name for name in ("log/log.meta", "log/p0000/0.segment", "settings.toml", "api-key")}
    assert (restored / "api-key").stat().st_mode & 0o777 == 0o600
    assert run("--data", tmp_path / "nothing", "--to", copies, "--go").returncode != 0


def test_a_drill_gets_back_what_it_lost(attribution):
    said = subprocess.run([ROOT / "ops/drill.py", "--program", attribution, "--events", "300"], capture_output=True, text=True)
    print(said.stdout)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "0 lost" in said.stdout and "each counted once" in said.stdout
