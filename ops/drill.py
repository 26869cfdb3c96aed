#!/usr/bin/env python3
"""Loses data on purpose, under load, and gets it back: `ops/drill.py --program target/debug/attribution` (make drill).

The real process on a data folder; a client that keeps every acknowledgement. Twice:

  stores   killed, journey store and warehouse deleted: they are rebuilt from the log, and nothing may be lost
  folder   copied by ops/backup.py while events come in, killed later, the folder deleted, the copy brought back: all that was
           acknowledged before the copy began must be there; what the client sends again is counted once

Prints how long it took until the last event was decided again, and how many acknowledged events were lost.
"""

import argparse
import atexit
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

BACKUP = pathlib.Path(__file__).resolve().parent / "backup.py"
BATCH_EVENTS = 50
WAIT_SECONDS_MAX = 600


def eventually(what, attempt):
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not (answer := attempt()):
        if time.monotonic() > end:
            sys.exit(f"{what}: not within {WAIT_SECONDS_MAX} s")
        time.sleep(0.05)
    return answer


class Platform:
    def __init__(self, program, data):
        self.data, self.log = data, data.with_name(f"{data.name}.log")
        # The process and its engine's hold this; it ends when both are gone.
        self.held, held = os.pipe()
        with open(self.log, "w") as log:
            command = [program, "serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=[held])
        os.close(held)
        # Also where the drill fails.
        atexit.register(self.kill)
        self.address = eventually("the start", self.listening)
        eventually("readiness", lambda: self.ask("GET", "/health/ready")[0] == 200)

    def listening(self):
        if self.process.poll() is not None:
            sys.exit(self.log.read_text())
        found = re.search(r'listening.*?address\W+([\d.]+):(\d+)', self.log.read_text())
        return found and (found[1], int(found[2]))

    def ask(self, method, path, body=None):
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=120)) as connection:
            key = (self.data / "api-key").read_text().strip()
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"authorization": f"Bearer {key}", "content-type": "application/json"})  # fmt: skip
            answer = connection.getresponse()
            return answer.status, answer.read()

    def kill(self):
        self.process.kill()
        self.process.wait()
        # The engine's process, which still works on its files, ends soon after.
        os.read(self.held, 1)


class Client(threading.Thread):
    """Sends conversions until the platform dies; keeps what was acknowledged, in order."""

    def __init__(self, platform, name):
        super().__init__(daemon=True)
        self.platform, self.name_of_run, self.acknowledged = platform, name, []
        # Those whose answer did not come may be there too.
        self.sent = 0

    def run(self):
        # The platform is killed under it.
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                batch = [event(f"{self.name_of_run}-{self.sent + i}") for i in range(BATCH_EVENTS)]
                self.sent += BATCH_EVENTS
                status, _ = self.platform.ask("POST", "/v1/events", batch)
                if status == 200:
                    self.acknowledged += [e["event_id"] for e in batch]

    def reaches(self, events):
        eventually("the load", lambda: len(self.acknowledged) >= events or not self.is_alive())
        if not self.is_alive():
            sys.exit("the platform went away under the load")


def event(name):
    return {"event_id": name, "event_type": "conversion", "timestamp": 1767225600000, "device_id": name, "value": "1"}


def counted(platform):
    """Conversions in a report that has everything acknowledged so far."""
    question = {"from": "2026-01-01", "to": "2026-01-02", "models": ["last_touch"], "dimensions": ["conversion"], "measures": ["conversions"]}
    answer = eventually("the report", lambda: (lambda a: a[0] == 200 and a[1])(platform.ask("POST", "/v1/reports?consistency=acknowledged", question)))
    return sum(total["conversions"] for total in json.loads(answer)["totals"])


def lost(platform, events):
    return [e for e in events if platform.ask("GET", f"/v1/conversions/{e}")[0] != 200]


def check(holds, what):
    if not holds:
        sys.exit(f"drill failed: {what}")


def again(program, data, since):
    platform = Platform(program, data)
    total = counted(platform)
    return platform, total, time.monotonic() - since


def stores(program, folder, events):
    data = folder / "stores"
    platform = Platform(program, data)
    client = Client(platform, "stores")
    client.start()
    client.reaches(events)
    platform.kill()
    client.join()
    begin = time.monotonic()
    for store in ("journeys", "warehouse"):
        shutil.rmtree(data / store)
    platform, total, seconds = again(program, data, begin)
    missing = lost(platform, client.acknowledged)
    check(not missing, f"{len(missing)} acknowledged events are gone, such as {missing[:3]}")
    check(len(client.acknowledged) <= total <= client.sent, f"{total} counted of {len(client.acknowledged)} acknowledged and {client.sent} sent")
    platform.kill()
    print(f"stores: {len(client.acknowledged)} acknowledged, journey store and warehouse lost, all back after {seconds:.1f} s, 0 lost")


def whole(program, folder, events):
    data, copies = folder / "folder", folder / "copies"
    platform = Platform(program, data)
    client = Client(platform, "folder")
    client.start()
    client.reaches(events)
    before = len(client.acknowledged)
    said = subprocess.run([sys.executable, BACKUP, "--data", data, "--to", copies, "--go"], capture_output=True, text=True)
    check(said.returncode == 0, said.stderr)
    client.reaches(2 * events)
    platform.kill()
    client.join()
    begin = time.monotonic()
    shutil.rmtree(data)
    back = subprocess.run([sys.executable, BACKUP, "--restore", said.stdout.strip(), "--data", data, "--go"], capture_output=True, text=True)
    check(back.returncode == 0, back.stderr)
    platform, total, seconds = again(program, data, begin)
    missing = lost(platform, client.acknowledged)
    check(not set(missing) & set(client.acknowledged[:before]), "an event that was acknowledged before the copy began is gone")
    check(missing == client.acknowledged[len(client.acknowledged) - len(missing):], "what is gone is not the end of what was acknowledged")
    check(total >= before, f"{total} counted of {before}")
    print(f"folder: {before} acknowledged when the copy began, all back after {seconds:.1f} s; "
          f"of {len(client.acknowledged) - before} since then {len(missing)} lost")
    # The client keeps them and sends them again, and everything else too.
    for at in range(0, len(client.acknowledged), BATCH_EVENTS):
        status, _ = platform.ask("POST", "/v1/events", [event(e) for e in client.acknowledged[at : at + BATCH_EVENTS]])
        check(status == 200, f"sending again: {status}")
    check(not lost(platform, client.acknowledged), "an event sent again is not there")
    total = counted(platform)
    check(len(client.acknowledged) <= total <= client.sent, f"{total} counted of {len(client.acknowledged)} sent again and {client.sent} sent")
    platform.kill()
    print(f"folder: sent again, each counted once: {total:g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--events", type=int, default=5_000, help="acknowledged before anything is lost")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for drill in (stores, whole):
            drill(arguments.program.absolute(), pathlib.Path(folder), arguments.events)


if __name__ == "__main__":
    main()
