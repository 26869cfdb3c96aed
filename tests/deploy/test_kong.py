"""Kong's file: in decK's form, to Services that are there, with every route of the contract and none besides."""

import json
import re
from urllib.parse import urlsplit

import yaml
from conftest import ROOT
from objects import named, namespace

# What nobody outside may ask.
CLOSED = ["/metrics"]
# The gRPC services that are not public: those of the gateway of models, asked by attribution alone.
INNER = {"attribution.ml.v1.MlGatewayService", "inference.GRPCInferenceService"}


def file():
    return yaml.safe_load((ROOT / "kong/kong.yaml").read_text())


def problems(kong, prod, rest, grpc):
    upstreams = {o["metadata"]["name"]: {p["port"] for p in o["spec"]["ports"]} for o in named(prod, "Service") if namespace(o) == "edge"}
    for service in kong["services"]:
        url = urlsplit(service["url"])
        if url.port not in upstreams.get(url.hostname, ()):
            yield f"{service['name']}: nobody serves {url.hostname}:{url.port} beside Kong"
        if service.get("retries", 5) != 0:
            yield f"{service['name']}: Kong repeats what may have happened"
    routes = [r for s in kong["services"] for r in s["routes"]]
    # Kong's regular expressions match from the beginning on.
    patterns = [(r["methods"], p.removeprefix("~")) for r in routes if "https" in r["protocols"] for p in r["paths"]]
    for method, path in rest:
        if not any(method in methods and re.match(pattern, path) for methods, pattern in patterns):
            yield f"no route takes {method} {path}"
    for path in CLOSED:
        if any(re.match(pattern, path) for _, pattern in patterns):
            yield f"{path} is open to everybody"
    routed = {p.strip("/") for r in routes if "grpcs" in r["protocols"] for p in r["paths"]}
    yield from (f"no route takes {service}" for service in sorted(grpc - routed))
    yield from (f"no contract has {service}" for service in sorted(routed - grpc))


def rest():
    paths = json.loads((ROOT / "openapi.json").read_text())["paths"]
    return [(m.upper(), re.sub(r"\{\w+\}", "x", p)) for p, ms in paths.items() if p not in CLOSED for m in ms if m in ("get", "post")]


def grpc():
    """Names of all public services of proto/."""
    texts = [path.read_text() for path in (ROOT / "proto").rglob("*.proto")]
    return {
        f"{package}.{name}"
        for text in texts
        for package in re.findall(r"^package ([\w.]+);", text, re.M)
        for name in re.findall(r"^service (\w+) \{", text, re.M)
    } - INNER


def test_the_file_matches_the_contract(prod):
    assert list(problems(file(), prod, rest(), grpc())) == []


def test_compose_has_the_same_file():
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["kong"]["volumes"]
    assert mounts == ["./kong/kong.yaml:/kong/kong.yaml:ro"]


def test_the_bad_is_rejected(bad, prod):
    assert list(problems(bad[0], prod, [("POST", "/v1/events")], {"attribution.query.v1.QueryService"})) == [
        "web: nobody serves web:80 beside Kong",
        "web: Kong repeats what may have happened",
        "no route takes POST /v1/events",
        "/metrics is open to everybody",
        "no route takes attribution.query.v1.QueryService",
        "no contract has Everything",
    ]
