"""A pair of backups that is an hour old at most is always in the other region: interval + distance in the pair + duration + copy.

The intervals are those of the schedules; the other two are bounds that infra/ (replication within 15 minutes) and the job
(its deadline) keep.
"""

import sys
import tomllib

import pytest
from conftest import ROOT
from objects import named, where

sys.path.insert(0, str(ROOT / "ops"))
import plan  # noqa: E402

RECOVERY_POINT_MINUTES = 60
REPLICATION_MINUTES = 15


def minutes(cron):
    """The minutes of an hour at which it runs, if it runs every hour."""
    first, *others = cron.split()
    return sorted(int(m) for m in first.split(",")) if others == ["*"] * 4 else []


def interval(at):
    return max(b - a for a, b in zip(at, at[1:] + [at[0] + 60])) if at else 24 * 60


def schedules(objects):
    for o in named(objects, "CronJob"):
        if "backup" in o["metadata"]["name"]:
            # The deadline bounds the job; it is expected to end long before.
            yield o, minutes(o["spec"]["schedule"]), 10
    for o in named(objects, "ScyllaCluster"):
        for task in o["spec"].get("backups", []):
            yield o, minutes(task["cron"]), 10
    for o in named(objects, "Schedule"):
        yield o, minutes(o["spec"]["schedule"]), 5


def problems(objects):
    found = {o["kind"]: at for o, at, _ in schedules(objects)}
    journeys = found.get("ScyllaCluster", [])
    for o, at, duration in schedules(objects):
        # A warehouse is of use with the journey store before it, so what counts is how old that is.
        apart = max((b - a for a, b in zip(journeys, at)), default=0) if o["kind"] == "CronJob" else 0
        lost = interval(at) + apart + duration + REPLICATION_MINUTES
        if lost > RECOVERY_POINT_MINUTES:
            yield f"{where(o)}: up to {lost} minutes are lost"
        if o["kind"] == "CronJob" and o["spec"]["jobTemplate"]["spec"].get("activeDeadlineSeconds", 86_400) > interval(at) * 60:
            yield f"{where(o)} may still run when the next is due"
    warehouse = found.get("CronJob")
    if not warehouse or not journeys:
        yield "warehouse and journey store are not both backed up"
    elif len(warehouse) != len(journeys) or any(b - a < 5 for a, b in zip(journeys, warehouse)):
        yield "the warehouse must be backed up after the journey store, or a restored warehouse lacks what nobody can make again"


@pytest.mark.parametrize("level", plan.LEVELS)
def test_the_recovery_time_is_met(level, prod):
    """Hours to decide, to build, to bring the larger store back, and to catch up: what ops/plan.py sizes the stores by."""
    p = plan.plan(*plan.LEVELS[level], tomllib.loads((ROOT / "ops/prices.toml").read_text()))
    assert plan.DECIDE_HOURS + plan.BUILD_HOURS + p.restore_seconds / 3600 + plan.CATCH_UP_HOURS <= plan.RECOVERY_HOURS
    (gp3,) = named(prod, "StorageClass")
    assert int(gp3["parameters"]["throughput"]) * 2**20 == plan.VOLUME_BYTES_PER_SECOND


def test_the_recovery_point_is_met(cluster):
    assert list(problems(cluster)) == []


def test_the_bad_is_rejected(bad):
    seldom, before, journeys = bad
    assert list(problems([seldom])) == [
        "CronJob databases/clickhouse-backup: up to 1465 minutes are lost",
        "warehouse and journey store are not both backed up",
    ]
    assert list(problems([before, journeys])) == [
        "the warehouse must be backed up after the journey store, or a restored warehouse lacks what nobody can make again"
    ]
