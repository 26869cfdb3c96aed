"""Every variable that a pod is given is known to its program, with a value that it can read: the program itself is asked."""

import os
import re
import subprocess

import pytest
from conftest import CLUSTERS, OPTIONAL
from objects import environment, named

PREFIX = "ATTRIBUTION_"
# Read by libraries, not by the configuration.
OTHERS = {"TOKIO_WORKER_THREADS", "SCYLLA_USER", "SCYLLA_PASSWORD"}
SERVICES = ["ingestion", "attribution-engine", "query-api", "ml-gateway"]


def problems(objects, deployment, program, *arguments):
    name = deployment["metadata"]["name"]
    variables = {key: re.sub(r"{{.*?}}", "secret", value) for key, value in environment(objects, deployment).items()}
    for key in sorted(set(variables) - OTHERS):
        if not key.startswith(PREFIX):
            yield f"{name}: nobody reads {key}"
    # One at a time, so that each is told; all of them together are what the pod has.
    for said in [{key: value} for key, value in sorted(variables.items())] + [variables]:
        printed = subprocess.run([program, *arguments, "--print-config"], env=said, capture_output=True, text=True)
        if printed.returncode:
            yield f"{name}: {', '.join(said) if len(said) == 1 else 'all'}: {printed.stderr.strip()}"


@pytest.mark.parametrize("overlay", [*CLUSTERS, OPTIONAL])
@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_known_to_the_program(overlay, name, rendered, program):
    objects = rendered(overlay)
    (deployment,) = (o for o in named(objects, "Deployment") if o["metadata"]["name"] == name)
    assert f"{PREFIX}LISTEN" in environment(objects, deployment)
    assert list(problems(objects, deployment, program(name))) == []


def test_every_variable_is_known_to_the_one_process(rendered, program):
    objects = rendered("dev")
    assert list(problems(objects, named(objects, "Deployment")[0], program("attribution"), "serve")) == []


def test_the_bad_is_rejected(bad, program):
    found = [line.split(": ")[:2] for line in problems(bad, bad[0], program("ingestion"))]
    assert found == [
        ["ingestion", "nobody reads GO_ENV"],
        ["ingestion", "ATTRIBUTION_KAFKA_BROKERS"],
        ["ingestion", "ATTRIBUTION_LIMITS__CONNECTION_MAX"],
        ["ingestion", "ATTRIBUTION_TRACE_SAMPLE_RATIO"],
        ["ingestion", "all"],
    ]
