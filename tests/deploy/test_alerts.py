"""Rules and routes, by Prometheus' and Alertmanager's own tools; and each alert is heard, explained and tested."""

import json
import re
import subprocess

import pytest
import yaml
from conftest import ROOT
from test_metrics import panels, triggers

BIN = ROOT / ".tools/bin"
MONITORING = ROOT / "monitoring"


def run(*command, **options):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)


def alerts():
    for file in ("slo", "causes"):
        for group in yaml.safe_load((MONITORING / f"{file}.yaml").read_text())["spec"]["groups"]:
            yield from (rule for rule in group["rules"] if "alert" in rule)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The rules without their custom resource, beside their tests."""
    out = tmp_path_factory.mktemp("rules")
    for file in ("slo", "causes"):
        spec = yaml.safe_load((MONITORING / f"{file}.yaml").read_text())["spec"]
        for group in spec["groups"]:
            # The tests say how often they evaluate: three days of half minutes would take a minute.
            group.pop("interval", None)
        (out / f"{file}.rules.yaml").write_text(yaml.safe_dump(spec))
        (out / f"{file}.yaml").write_text((MONITORING / "tests" / f"{file}.yaml").read_text())
    return out


def test_generated_files_are_fresh():
    said = run("python3", MONITORING / "generate.py", "--check")
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("file", ["slo", "causes"])
def test_rules_check_and_fire_as_their_tests_say(folder, file):
    for command in (["check", "rules", f"{file}.rules.yaml"], ["test", "rules", f"{file}.yaml"]):
        said = run(BIN / "promtool", *command, cwd=folder)
        assert said.returncode == 0, said.stdout + said.stderr


def test_a_wrong_expectation_is_noticed(folder):
    wrong = (folder / "causes.yaml").read_text().replace("values: 180000x240", "values: 18x240")
    (folder / "wrong.yaml").write_text(wrong)
    said = run(BIN / "promtool", "test", "rules", "wrong.yaml", cwd=folder)
    assert said.returncode != 0 and "EventsMayExpireUnread" in said.stdout + said.stderr


def test_every_alert_is_tested():
    tested = "".join(path.read_text() for path in (MONITORING / "tests").glob("*.yaml"))
    assert [a["alert"] for a in alerts() if f'"{a["alert"]}"' not in tested] == []


def test_every_expression_of_dashboards_and_scalers_parses(tmp_path, prod):
    rules = [
        {"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "5m")}
        for i, (_, expression) in enumerate([*panels(), *triggers(prod)])
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": [r | {"record": f"panel:n{i}"} for i, r in enumerate(rules)]}]}))
    said = run(BIN / "promtool", "check", "rules", file)
    assert said.returncode == 0, said.stdout + said.stderr


def test_dashboards_are_whole():
    for path in (MONITORING / "dashboards").glob("*.json"):
        board = json.loads(path.read_text())
        assert board["uid"] and board["schemaVersion"] >= 39
        assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
        for panel in board["panels"]:
            assert panel["type"] == "timeseries" and panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_the_routes_check():
    said = run(BIN / "amtool", "check-config", MONITORING / "alertmanager.yaml")
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_is_heard_by_whom_its_severity_means():
    receivers = {"page": "pages", "ticket": "tickets", "none": "dead-mans-switch"}
    for severity, name in {(a["labels"]["severity"], a["alert"]) for a in alerts()}:
        said = run(BIN / "amtool", "config", "routes", "test", "--config.file", MONITORING / "alertmanager.yaml",
                   f"severity={severity}", f"alertname={name}")  # fmt: skip
        assert said.stdout.strip() == receivers[severity], name


def test_every_runbook_is_there():
    text = (ROOT / "docs/runbooks.md").read_text()
    there = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}
    wanted = {a["annotations"]["runbook_url"].split("#")[1] for a in alerts()}
    assert wanted - there == set()
