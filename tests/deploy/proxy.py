"""Kong's file and the mesh's rules as a real Envoy runs them: one process, a listener for each.

Only what the manifests say is translated, and a field that is not known here is an error, so that none goes untested unseen.
Envoy is what the mesh runs. For Kong it stands in: it shares the syntax of the routes' expressions, not the code.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import time
import urllib.request
from urllib.parse import urlsplit

import envoy
from objects import named

EXTENSIONS = "type.googleapis.com/envoy.extensions"
BINARY = pathlib.Path(envoy.__file__).parent / "_bin/envoy"
START_SECONDS_MAX = 120


def take(fields, **known):
    """Envoy's fields from ours: each is translated by its function, or left out by None; an unknown one is refused."""
    unknown = set(fields) - set(known)
    assert not unknown, f"not translated: {', '.join(sorted(unknown))}"
    out = {}
    for name, value in fields.items():
        if known[name]:
            out |= known[name](value)
    return out


# === Clusters ===


def outliers(fields):
    said = take(
        fields,
        consecutive5xxErrors=lambda n: {"consecutive_5xx": n},
        consecutiveGatewayErrors=lambda n: {"consecutive_gateway_failure": n, "enforcing_consecutive_gateway_failure": 100},
        interval=lambda t: {"interval": t},
        baseEjectionTime=lambda t: {"base_ejection_time": t},
        maxEjectionPercent=lambda n: {"max_ejection_percent": n},
    )
    return {"outlier_detection": said | {"enforcing_success_rate": 0}}


def pool(fields):
    thresholds, out = {}, {}
    for protocol in fields.values():
        said = take(
            protocol,
            connectTimeout=lambda t: {"connect_timeout": t},
            maxConnections=lambda n: {"max_connections": n},
            http2MaxRequests=lambda n: {"max_requests": n},
            http1MaxPendingRequests=lambda n: {"max_pending_requests": n},
            useClientProtocol=lambda yes: {"client": yes},
        )
        out |= {key: said.pop(key) for key in ("connect_timeout",) if key in said}
        protocols = {"use_downstream_protocol_config": {"http2_protocol_options": {}}} if said.pop("client", False) else {}
        if protocols:
            out["typed_extension_protocol_options"] = {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"} | protocols
            }
        thresholds |= said
    return out | {"circuit_breakers": {"thresholds": [thresholds]}}


def balancing(fields):
    # Which zone is near is nothing that one machine can show.
    return take(fields, simple=lambda name: {"lb_policy": name}, localityLbSetting=None)


def cluster(name, endpoints, policy):
    said = take(policy, loadBalancer=balancing, connectionPool=pool, outlierDetection=outliers)
    addresses = [{"endpoint": {"address": {"socket_address": {"address": a, "port_value": p}}}} for a, p in endpoints]
    return {
        "name": name,
        "type": "STATIC",
        # As the mesh sets it: with hosts ejected the others take all.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": addresses}]},
    } | said


# === Routes ===


def retries(fields):
    said = take(
        fields,
        attempts=lambda n: {"num_retries": n},
        retryOn=lambda text: {"retry_on": text},
        perTryTimeout=lambda t: {"per_try_timeout": t},
    )
    # As the mesh sets it: another host than the one that failed.
    previous = {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": f"{EXTENSIONS}.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}
    return {"retry_policy": said | {"retry_host_predicate": [previous], "host_selection_retry_max_attempts": 5}}


def mesh_route(rule, name):
    return take(rule, timeout=lambda t: {"timeout": t}, retries=retries, route=lambda _: {"cluster": name})


def listener(name, routes, filters=()):
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, router],
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


def mesh(objects, upstreams):
    """Listeners and clusters of the calls to the services named: `upstreams` has their addresses by host."""
    rules = {o["spec"]["host"]: o["spec"]["trafficPolicy"] for o in named(objects, "DestinationRule")}
    listeners, clusters = [], []
    for o in named(objects, "VirtualService"):
        (host,), (rule,) = o["spec"]["hosts"], o["spec"]["http"]
        name = o["metadata"]["name"]
        if name in upstreams:
            clusters.append(cluster(name, upstreams[name], rules[host]))
            listeners.append(listener(name, [{"match": {"prefix": "/"}, "route": mesh_route(rule, name)}]))
    return {"listeners": listeners, "clusters": clusters}


# === Identities ===


def principals(policy):
    """The callers that a policy names, as Envoy asks a certificate for them."""
    for rule in policy["spec"].get("rules", []):
        assert set(rule) == {"from", "to"} and rule["to"] == [{"operation": {"ports": ["8080"]}}], "not translated"
        for source in rule["from"]:
            assert set(source["source"]) == {"principals"}, "not translated"
            for name in source["source"]["principals"]:
                yield {"authenticated": {"principal_name": {"exact": f"spiffe://{name}"}}}


def file_of(path):
    return {"filename": str(path)}


def inbound(objects, certificates, upstream):
    """What stands in front of each service: its listener takes no call without a certificate of the mesh, and lets in whom the
    policies name; a policy without rules, that of the whole mesh, names nobody."""
    (everybody,) = (o["spec"]["mtls"]["mode"] for o in named(objects, "PeerAuthentication"))
    assert everybody == "STRICT"
    rules = {"nobody": {"action": "ALLOW", "policies": {}}}
    for o in named(objects, "AuthorizationPolicy"):
        assert o["spec"].get("action", "ALLOW") == "ALLOW"
        callers = list(principals(o))
        policies = {o["metadata"]["name"]: {"permissions": [{"any": True}], "principals": callers}} if callers else {}
        rules[o["metadata"]["name"]] = {"action": "ALLOW", "policies": policies}
    tls = {
        "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": file_of(certificates / "server.pem"), "private_key": file_of(certificates / "server.key")}],
            "validation_context": {"trusted_ca": file_of(certificates / "ca.pem")},
        },
    }
    listeners = []
    for name, said in rules.items():
        rbac = {"name": "rbac", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.rbac.v3.RBAC", "rules": said}}
        one = listener(name, [{"match": {"prefix": "/"}, "route": {"cluster": "service"}}], [rbac])
        one["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": tls}
        listeners.append(one)
    return {"listeners": listeners, "clusters": [cluster("service", [upstream], {})]}


# === Kong ===

WINDOWS = {"second": "1s", "minute": "60s", "hour": "3600s"}


def limit(config):
    (window,) = set(config) & set(WINDOWS)
    bucket = {"max_tokens": config[window], "tokens_per_fill": config[window], "fill_interval": WINDOWS[window]}
    every = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {"name": "limit", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "limit",
            "token_bucket": bucket, "filter_enabled": every, "filter_enforced": every}}  # fmt: skip


def size(config):
    assert config["size_unit"] == "megabytes"
    return {"name": "size", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.buffer.v3.Buffer", "max_request_bytes": config["allowed_payload_size"] * 1_000_000}}


# What Kong says of itself has no part in a call.
PLUGINS = {"rate-limiting": limit, "request-size-limiting": size, "correlation-id": None, "prometheus": None}


def kong(file, upstreams):
    """A listener with the routes of Kong's file: `upstreams` has an address by the name that the file uses."""
    routes, clusters = [], []
    for service in file["services"]:
        url = urlsplit(service["url"])
        protocols = {"use_downstream_protocol_config": {"http2_protocol_options": {}}}
        clusters.append(
            cluster(service["name"], [upstreams[url.hostname]], {})
            | {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"} | protocols}}
        )
        assert service["retries"] == 0
        timeout = {"timeout": f"{service['read_timeout'] / 1000:g}s"} if "read_timeout" in service else {"timeout": "0s"}
        for route in service["routes"]:
            for path in route["paths"]:
                # A regular expression of Kong matches from the beginning on, and further than its end.
                match = {"safe_regex": {"regex": re.sub(r"\$$", "", path[1:]) + ("" if path.endswith("$") else ".*")}} if path[0] == "~" else {"prefix": path}
                if "methods" in route:
                    match["headers"] = [{"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(route["methods"])}}}]
                routes.append({"match": match, "route": {"cluster": service["name"]} | timeout})
    filters = [PLUGINS[p["name"]](p["config"]) for p in file["plugins"] if PLUGINS[p["name"]]]
    return {"listeners": [listener("kong", routes, filters)], "clusters": clusters}


# === The process ===


class Proxy:
    def __init__(self, admin, process):
        self.admin, self.process = admin, process
        said = json.loads(self.ask("/listeners?format=json"))["listener_statuses"]
        self.addresses = {s["name"]: ("127.0.0.1", s["local_address"]["socket_address"]["port_value"]) for s in said}

    def ask(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=30) as answer:
            return answer.read().decode()

    def stat(self, name):
        return int(re.search(rf"^{re.escape(name)}: (\d+)$", self.ask(f"/stats?filter=^{name}$"), re.M)[1])


def eventually(seconds_max, attempt):
    """What `attempt` answers once it is true."""
    end = time.monotonic() + seconds_max
    while not (answer := attempt()):
        assert time.monotonic() < end, f"not within {seconds_max} s"
        time.sleep(0.05)
    return answer


@contextlib.contextmanager
def run(resources, folder):
    config, address = folder / "envoy.json", folder / "admin"
    config.write_text(json.dumps({"static_resources": resources, "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}}))
    with open(folder / "envoy.log", "w") as log:
        command = [BINARY, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--admin-address-path", address]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:

        def ready():
            assert process.poll() is None, (folder / "envoy.log").read_text()
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"http://{address.read_text()}/ready", timeout=5).status == 200

        eventually(START_SECONDS_MAX, ready)
        yield Proxy(address.read_text(), process)
    finally:
        process.kill()
        process.wait()
