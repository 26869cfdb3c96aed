"""Every variable that a pod is given is a configuration key that its binary knows; the services' own sources say which.

A service is checked from the moment on that it has a process of its own (services/NAME/src/process.rs).
"""

import re

import pytest
from conftest import CLUSTERS, ROOT
from objects import containers, named, namespace

PREFIX = "ATTRIBUTION_"
# Read by libraries, not by the configuration.
OTHERS = {"TOKIO_WORKER_THREADS", "SCYLLA_USER", "SCYLLA_PASSWORD"}
# The crate of each name in a path such as `ingestion::Config`, and the Deployment of each crate.
CRATES = {"ingestion": "ingestion", "attribution_service": "attribution", "query_api": "query-api", "ml_gateway": "ml-gateway", "standalone": "standalone"}
DEPLOYMENTS = {"ingestion": "ingestion", "attribution-engine": "attribution", "query-api": "query-api", "ml-gateway": "ml-gateway"}
PROCESSES = {name: folder for name, folder in DEPLOYMENTS.items() if (ROOT / "services" / folder / "src/process.rs").exists()}


def sources(folder):
    return "\n".join(path.read_text() for path in sorted((ROOT / folder / "src").rglob("*.rs")))


def fields(struct, folder):
    """Fields of a struct, by name, with their types; None for what is no struct of ours."""
    for where in (folder, "libs/service"):
        if match := re.search(rf"pub struct {struct} \{{\n(.*?)\n\}}", sources(where), re.S):
            return re.findall(r"^    pub (\w+): ([\w:<>]+),", match[1], re.M)
    return None


def keys(struct, folder, depth=0):
    """All keys below a struct, as variables write them: `LIMITS__CONNECTIONS_MAX`."""
    out = set()
    for name, kind in fields(struct, folder) or []:
        kind = re.sub(r"^Option<(.*)>$", r"\1", kind)
        crate, _, type_name = kind.rpartition("::")
        below = keys(type_name, f"services/{CRATES[crate]}" if crate in CRATES else folder, depth + 1) if depth < 4 else set()
        out |= {f"{name}__{key}" for key in below} or {name}
    return {key.upper() for key in out}


def variables(objects, deployment):
    """Names of all variables of a Deployment's container: its own, of its ConfigMaps and of its Secrets' templates."""
    ns = namespace(deployment)
    for container in containers(deployment):
        yield from (v["name"] for v in container.get("env", []))
        for source in container.get("envFrom", []):
            for o in named(objects, "ConfigMap"):
                if namespace(o) == ns and o["metadata"]["name"] == source.get("configMapRef", {}).get("name"):
                    yield from o["data"]
            for o in named(objects, "ExternalSecret"):
                if namespace(o) == ns and o["spec"]["target"]["name"] == source.get("secretRef", {}).get("name"):
                    yield from o["spec"]["target"]["template"]["data"]


def problems(objects, deployment, known):
    for name in variables(objects, deployment):
        if name.startswith(PREFIX):
            if name.removeprefix(PREFIX) not in known:
                yield f"{deployment['metadata']['name']}: no configuration key for {name}"
        elif name not in OTHERS:
            yield f"{deployment['metadata']['name']}: nobody reads {name}"


@pytest.mark.parametrize("overlay", CLUSTERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_every_variable_is_a_key(overlay, name, rendered):
    folder = f"services/{PROCESSES[name]}"
    known = keys("Process", "libs/service") | keys("ProcessConfig", folder)
    assert {"LISTEN", "LIMITS__CONNECTIONS_MAX", "SETTINGS__FILE"} <= known
    objects = rendered(overlay)
    deployment = next(o for o in named(objects, "Deployment") if o["metadata"]["name"] == name)
    assert list(problems(objects, deployment, known)) == []


def standalone():
    known = keys("Config", "services/standalone")
    return known if "LISTEN" in known else known | keys("Process", "libs/service")


def test_every_variable_of_the_one_process_is_a_key(rendered):
    objects = rendered("dev")
    known = standalone()
    assert {"LISTEN", "DATA", "INGESTION__BACKLOG_EVENTS_MAX"} <= known
    assert list(problems(objects, named(objects, "Deployment")[0], known)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad, bad[0], standalone())) == [
        "attribution: no configuration key for ATTRIBUTION_KAFKA_BROKERS",
        "attribution: nobody reads GO_ENV",
        "attribution: no configuration key for ATTRIBUTION_LIMITS__CONNECTION_MAX",
    ]
