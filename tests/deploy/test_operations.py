"""The scripts of recovery, with commands that only write down what they were asked: nothing changes without --go."""

import os
import subprocess

import pytest
from conftest import ROOT

CHANGING = ("annotate", "set env", "DROP", "RESTORE DATABASE", "ALTER TABLE", "sctool restore", "PATCH")

KUBECTL = r"""#!/bin/bash
echo "kubectl $*" >> "$CALLS"
case "$*" in
  *"backup list"*) printf '%s\n' "- sm_20261125090002UTC" "- sm_20261125092002UTC" "- sm_20261125094002UTC" "- sm_20261125100002UTC" ;;
  *"sctool restore"*) echo "restore/7ddaa89e-d6ae-4292-8d6b-1ab8fa13d39b" ;;
  *"sctool progress"*"restore/7ddaa89e-d6ae-4292-8d6b-1ab8fa13d39b"*) printf 'Run:\t\tx\nStatus:\t\t%s\n' "${RESTORED:-DONE}" ;;
  *"sum(total_rows)"*) echo "${ROWS:-0}" ;;
  *" logs "*) echo 'it is not ready: journey store and warehouse belong to the event log 7ddaa89e-d6ae-4292-8d6b-1ab8fa13d39b, and this one is' ;;
  *"get service edge"*) echo lb.example ;;
  *"--raw"*) echo '{"data":{"result":[{"value":[1,"'${BEHIND:-3}'"]}]}}' ;;
  *"system.replicas"*) echo 0 ;;
esac
"""
AWS = r"""#!/bin/bash
echo "aws $*" >> "$CALLS"
for at in 00:05 09:05 09:25 09:45; do
  name=2026-11-25/2026-11-25T${at/:/}; [ $at = 00:05 ] && name=2026-11-25/whole
  echo "2026-11-25 $at:31       1234 clickhouse/us-east-1/$name/.backup"
  echo "2026-11-25 $at:30       9999 clickhouse/us-east-1/$name/data/x.bin"
done
"""
CURL = r"""#!/bin/bash
echo "curl $*" >> "$CALLS"
case "$*" in *openapi*) exit "${ANSWERS:-22}" ;; esac
"""


@pytest.fixture
def run(tmp_path):
    calls = tmp_path / "calls"
    for name, text in (("kubectl", KUBECTL), ("aws", AWS), ("curl", CURL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def go(script, *arguments, **environment):
        calls.write_text("")
        path = f"{tmp_path}:{os.environ['PATH']}"
        said = subprocess.run([ROOT / "ops" / script, *arguments], capture_output=True, text=True,
                              env={**os.environ, "PATH": path, "CALLS": str(calls), **environment})  # fmt: skip
        return said, [c for c in calls.read_text().splitlines() if any(word in c for word in CHANGING)]

    return go


RESTORE = ["--context", "c", "--bucket", "attribution-backups-us-east-1", "--of", "us-east-1"]
FAILOVER = ["--context", "c", "--from", "us-east-1", "--name", "api.example.com"]


def test_the_pair_is_the_newest_whose_journey_store_is_older(run):
    said, changed = run("restore.sh", *RESTORE, "--before", "2026-11-25T10:00")
    assert said.returncode == 0, said.stderr
    assert "warehouse 2026-11-25/2026-11-25T0945, journey store sm_20261125094002UTC" in said.stdout
    assert changed == []
    said, _ = run("restore.sh", *RESTORE, "--before", "2026-11-25T09:45")
    assert "warehouse 2026-11-25/2026-11-25T0925, journey store sm_20261125092002UTC" in said.stdout


def test_go_does_what_was_printed(run):
    said, changed = run("restore.sh", *RESTORE, "--before", "2026-11-25T10:00", "--go")
    assert said.returncode == 0, said.stderr
    assert [next(w for w in CHANGING if w in c) for c in changed] == ["annotate", "sctool restore", "DROP", "RESTORE DATABASE", *["ALTER TABLE"] * 3, "annotate"]
    assert all(c.startswith("kubectl --context c ") for c in changed)
    assert "clickhouse/us-east-1/2026-11-25/2026-11-25T0945" in changed[3]
    assert [c.split("attribution.")[1] for c in changed[4:7]] == ["touches", "conversions", "identities"]


def test_attribution_does_not_go_on_over_half_a_journey_store(run):
    said, changed = run("restore.sh", *RESTORE, "--before", "2026-11-25T10:00", "--go", RESTORED="ERROR")
    assert said.returncode != 0 and "ERROR" in said.stderr
    assert "paused-replicas-" not in "".join(changed)


@pytest.mark.parametrize("arguments", [["--before", "2026-11-25T09:05"], ["--before", "yesterday"]])
def test_without_a_pair_nothing_is_touched(run, arguments):
    said, changed = run("restore.sh", *RESTORE, *arguments, "--go")
    assert said.returncode != 0 and changed == []


def test_a_cluster_that_holds_data_is_refused(run):
    said, changed = run("restore.sh", *RESTORE, "--before", "2026-11-25T10:00", "--go", ROWS="7")
    assert said.returncode != 0 and "holds rows" in said.stderr and changed == []
    said, changed = run("restore.sh", *RESTORE, "--before", "2026-11-25T10:00", "--go", "--over-what-is-there", ROWS="7")
    assert said.returncode == 0 and len(changed) == 8


def test_stores_of_another_regions_log_are_refused(run):
    said, changed = run("restore.sh", "--context", "c", "--bucket", "attribution-backups-eu-west-1", "--of", "us-east-1", "--go")
    assert said.returncode == 2 and "another log" in said.stderr and changed == []
    said, changed = run("restore.sh", *RESTORE, "--copies-in", "eu-west-1", "--go")
    assert said.returncode == 2 and "no bucket of copies" in said.stderr and changed == []


def test_copies_of_a_lost_region_are_gone_on_with_in_the_new_log(run):
    copies = ["--context", "c", "--bucket", "attribution-copies-us-east-1", "--of", "us-east-1", "--before", "2026-11-25T10:00"]
    said, changed = run("restore.sh", *copies, "--go")
    assert said.returncode == 2 and changed == []
    said, changed = run("restore.sh", *copies, "--copies-in", "eu-west-1")
    assert said.returncode == 0 and "ATTRIBUTION_CONTINUES=ID" in said.stdout and changed == []
    said, changed = run("restore.sh", *copies, "--copies-in", "eu-west-1", "--go")
    assert said.returncode == 0, said.stderr
    assert "https://attribution-copies-us-east-1.s3.eu-west-1.amazonaws.com/clickhouse/us-east-1/2026-11-25/2026-11-25T0945" in changed[3]
    resumed = next(i for i, c in enumerate(changed) if "paused-replicas-" in c)
    assert changed[resumed + 1 :] == ["kubectl --context c -n processing set env deploy/attribution-engine ATTRIBUTION_CONTINUES=7ddaa89e-d6ae-4292-8d6b-1ab8fa13d39b"]


def test_staging_has_a_bucket_of_its_own(run):
    bucket = "attribution-backups-us-east-1-staging"
    said, changed = run("restore.sh", "--context", "c", "--bucket", bucket, "--of", "us-east-1", "--before", "2026-11-25T10:00", "--go")
    assert said.returncode == 0, said.stderr
    assert f"https://{bucket}.s3.us-east-1.amazonaws.com/clickhouse/us-east-1/2026-11-25/2026-11-25T0945" in changed[3]


def test_a_region_that_answers_is_not_failed_over(run):
    said, changed = run("failover.sh", *FAILOVER, "--go", ANSWERS="0")
    assert said.returncode != 0 and "still answers" in said.stderr and changed == []


def test_failover_prints_first(run):
    said, changed = run("failover.sh", *FAILOVER)
    assert said.returncode == 0, said.stderr
    assert "would run: curl" in said.stdout and changed == []


def test_the_name_moves_last_and_only_when_all_is_well(run):
    cloudflare = {"CLOUDFLARE_ZONE": "z", "CLOUDFLARE_RECORD": "r", "CLOUDFLARE_TOKEN": "t"}
    said, changed = run("failover.sh", *FAILOVER, "--go", **cloudflare)
    assert said.returncode == 0, said.stderr
    assert len(changed) == 1 and "PATCH" in changed[-1] and "lb.example" in changed[-1]
    said, changed = run("failover.sh", *FAILOVER, "--go", BEHIND="4000", **cloudflare)
    assert said.returncode != 0 and "4000 s behind" in said.stderr
    assert not any("PATCH" in c for c in changed)


@pytest.mark.parametrize("script", ["restore.sh", "verify.sh", "failover.sh"])
def test_without_a_context_nothing_happens(run, script):
    said, changed = run(script, "--go")
    assert said.returncode == 2 and changed == []
