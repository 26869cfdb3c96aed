"""What every rule reads: the rendered overlays, and the bad example that it must reject."""

import os
import pathlib
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLUSTERS = ["staging", "prod", "prod-eu-west-1", "prod-ap-south-1"]
OVERLAYS = ["dev", *CLUSTERS]
# Production with every component that it may have besides.
OPTIONAL = "optional"
BAD = pathlib.Path(__file__).parent / "bad"


def render(folder):
    kubectl = ROOT / ".tools/py/bin/kubectl"
    text = subprocess.run([kubectl, "kustomize", ROOT / folder], check=True, capture_output=True, text=True).stdout
    return list(yaml.load_all(text, yaml.CSafeLoader))


@pytest.fixture(scope="session")
def rendered():
    cache = {}

    def get(overlay):
        if overlay not in cache:
            cache[overlay] = render("tests/deploy/optional" if overlay == OPTIONAL else f"k8s/overlays/{overlay}")
        return cache[overlay]

    return get


@pytest.fixture(params=[*OVERLAYS, OPTIONAL])
def overlay(request, rendered):
    return rendered(request.param)


@pytest.fixture(params=[*CLUSTERS, OPTIONAL])
def cluster(request, rendered):
    return rendered(request.param)


@pytest.fixture(scope="session")
def prod(rendered):
    return rendered("prod")


@pytest.fixture
def bad(request):
    """The objects of bad/NAME.yaml for the rule test_NAME.py."""
    name = request.path.stem.removeprefix("test_")
    return list(yaml.load_all((BAD / f"{name}.yaml").read_text(), yaml.CSafeLoader))


@pytest.fixture
def program():
    """A program by its name; `make test` has built all of them."""

    def path(name):
        built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / name
        if not built.exists():
            pytest.skip(f"there is no {built}: cargo build -p attribution-cli -p ingestion -p attribution-service -p query-api -p ml-gateway")
        return built

    return path


@pytest.fixture
def attribution(program):
    return program("attribution")
