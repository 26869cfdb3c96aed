"""Base once, variants by addition: overlays are short, and no object is written down twice."""

from collections import Counter

import pytest
import yaml
from conftest import OVERLAYS, ROOT


def problems(name, text, lines_max=40):
    if len(text.splitlines()) >= lines_max:
        yield f"{name} has {len(text.splitlines())} lines"


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_are_short(name):
    folder = ROOT / "k8s/overlays" / name
    assert [p.name for p in folder.iterdir()] == ["kustomization.yaml"]
    assert list(problems(name, (folder / "kustomization.yaml").read_text())) == []


def test_no_object_is_written_twice():
    seen = Counter()
    for folder in ("k8s", "istio", "monitoring"):
        for path in (ROOT / folder).rglob("*.yaml"):
            if path.name == "kustomization.yaml" or "tests" in path.parts:
                continue
            for o in yaml.load_all(path.read_text(), yaml.CSafeLoader):
                if isinstance(o, dict) and "kind" in o and o["metadata"]["name"] not in ("any", "service"):
                    seen[o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]] += 1
    assert [key for key, n in seen.items() if n > 1] == []


def test_the_bad_is_rejected():
    assert list(problems("long", "a\n" * 40)) == ["long has 40 lines"]
