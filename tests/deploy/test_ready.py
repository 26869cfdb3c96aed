"""Placeholders are listed in one place, and an overlay that still has one is refused."""

import functools
import subprocess
import sys

import pytest
from conftest import CLUSTERS, ROOT

sys.path.insert(0, str(ROOT / "ops"))
import ready  # noqa: E402

FILLED = {"123456789012": "210987654321", "sha256:" + "0" * 64: "sha256:" + "ab" * 32, "fs-0000000000000": "fs-0123456789abc", "203.0.113.": "198.18.7."}


@pytest.fixture(scope="module")
def texts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(ROOT / ".tools/py/bin"), prepend=":")
        yield functools.cache(lambda overlay: list(ready.texts(overlay)))


def filled(text):
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


@pytest.mark.parametrize("overlay", CLUSTERS)
def test_an_overlay_as_it_comes_is_refused_and_a_filled_one_is_not(overlay, texts):
    there = texts(overlay)
    assert {line.split(" × ")[1].split(":")[0] for line in ready.left(there)} == set(ready.PLACEHOLDERS)
    assert list(ready.left((file, filled(text)) for file, text in there)) == []


@pytest.mark.parametrize("placeholder", FILLED)
def test_a_single_one_is_enough(placeholder, texts):
    there = texts("prod")
    text = filled("".join(text for _, text in there))
    assert len(list(ready.left([("x", text.replace(FILLED[placeholder], placeholder, 1))]))) == 1


def test_the_list_is_the_documentation_s():
    text = (ROOT / "docs/deploy.md").read_text()
    assert ready.table() in "\n".join(line.strip() for line in text.splitlines()), "print it by ops/ready.py --table"


def test_a_release_asks_before_it_proposes():
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert text.index("ops/promote.sh staging") < text.index("ops/ready.py staging") < text.index("gh pr create")


def test_another_overlay_is_refused():
    assert subprocess.run([ROOT / "ops/ready.py", "dev"], capture_output=True).returncode != 0
