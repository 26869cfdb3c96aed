"""`python -m attribution_ml [--check]`: trains both models into `ml/models`, or checks that they come out the same."""

import json
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from . import fraud, table, value

ROOT = Path(__file__).resolve().parent.parent
# What another machine's arithmetic may change of a metric.
TOLERANCE = 1e-4


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) if check else ROOT / "models"
        golden = Path(scratch) if check else ROOT / "golden"
        for name, train in (("fraud", fraud.train), ("value", value.train)):
            begin = time.perf_counter()
            print(name, json.dumps(train(models, golden), indent=1), file=sys.stderr)
            print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
            if check:
                compare(name, models)
        table.write(golden)
        if check:
            table.compare(golden, ROOT / "golden")


def compare(name, models):
    """Fails when a metric is not the committed one."""
    fresh, committed = (
        tomllib.loads((folder / name / "1" / "model.toml").read_text()) for folder in (models, ROOT / "models")
    )
    for metric, expected in committed["metrics"].items():
        if abs(fresh["metrics"][metric] - expected) > TOLERANCE * max(1, abs(expected)):
            raise SystemExit(f"{name}: {metric} is {fresh['metrics'][metric]}, committed is {expected}")
    digests = "the same" if fresh["sha256"] == committed["sha256"] else "another"
    print(f"{name}: the metrics are the committed ones; the model has {digests} digest", file=sys.stderr)


if __name__ == "__main__":
    main()
