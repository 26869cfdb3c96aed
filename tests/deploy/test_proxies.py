"""Calls behave as the mesh's rules and Kong's file say, on a real Envoy: see proxy.py for what stands in for what."""

import contextlib
import copy
import http.client
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import threading

import pytest
import yaml
from conftest import ROOT
from objects import named, namespace
from proxy import eventually, inbound, kong, mesh, run


class Upstream:
    """A service that answers every request in one way: with a status, by hanging up, or never. It counts what it was asked."""

    def __init__(self, how):
        upstream, self.asked = self, 0
        self.end = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream.asked += 1
                if how == "never":
                    upstream.end.wait()
                if isinstance(how, str):
                    self.close_connection = True
                    return
                self.send_response(how)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = self.server.server_address
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end.set()
        self.server.shutdown()
        self.server.server_close()


def post(address, path="/v1/events", body=b"{}", method="POST", **headers):
    connection = http.client.HTTPConnection(*address, timeout=120)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        return connection.getresponse().status


@pytest.fixture
def patient(prod):
    """The rules with all times that a slow machine could see pass set to an hour."""
    out = copy.deepcopy(prod)
    for o in named(out, "VirtualService"):
        o["spec"]["http"][0]["timeout"] = "3600s"
    for o in named(out, "DestinationRule"):
        o["spec"]["trafficPolicy"]["outlierDetection"]["baseEjectionTime"] = "3600s"
    return out


@pytest.fixture
def upstream():
    with contextlib.ExitStack() as stack:
        yield lambda how: stack.enter_context(Upstream(how))


@pytest.fixture
def gone():
    """An address that nobody listens on, and nobody else gets while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


def test_a_dead_host_costs_no_call_and_is_ejected(patient, tmp_path, upstream, gone):
    # Three hosts, the fewest pods that a service has.
    alive, other = upstream(200), upstream(200)
    with run(mesh(patient, {"ingestion": [gone, alive.address, other.address]}), tmp_path) as proxy:
        calls = 0

        def ejected():
            nonlocal calls
            calls += 1
            assert post(proxy.addresses["ingestion"]) == 200
            return proxy.stat("cluster.ingestion.outlier_detection.ejections_active") == 1

        eventually(120, ejected)
        tried = proxy.stat("cluster.ingestion.upstream_cx_connect_fail")
        assert [post(proxy.addresses["ingestion"]) for _ in range(20)] == [200] * 20
        assert proxy.stat("cluster.ingestion.upstream_cx_connect_fail") == tried
        assert alive.asked + other.asked == calls + 20


@pytest.mark.parametrize("how", [503, 500, "hangs up"])
def test_what_may_have_been_taken_is_sent_once(patient, tmp_path, upstream, how):
    failing = upstream(how)
    with run(mesh(patient, {"ingestion": [failing.address]}), tmp_path) as proxy:
        assert post(proxy.addresses["ingestion"]) == (503 if how == "hangs up" else how)
        assert failing.asked == 1


def test_a_rule_that_repeats_would_be_noticed(patient, tmp_path, upstream):
    for o in named(patient, "VirtualService"):
        o["spec"]["http"][0]["retries"] = {"attempts": 2, "retryOn": "5xx"}
    failing = upstream(503)
    with run(mesh(patient, {"ingestion": [failing.address]}), tmp_path) as proxy:
        assert post(proxy.addresses["ingestion"]) == 503
        assert failing.asked == 3


def test_a_failing_host_is_ejected_after_as_many_errors_as_the_rule_says(patient, tmp_path, upstream):
    failing, hosts = upstream(500), [upstream(200).address, upstream(200).address]
    with run(mesh(patient, {"query-api": [failing.address, *hosts]}), tmp_path) as proxy:
        eventually(120, lambda: post(proxy.addresses["query-api"]) and proxy.stat("cluster.query-api.outlier_detection.ejections_active") == 1)
        assert failing.asked == 5
        assert [post(proxy.addresses["query-api"]) for _ in range(20)] == [200] * 20


def test_a_call_that_is_never_answered_ends(prod, tmp_path, upstream):
    silent = upstream("never")
    with run(mesh(prod, {"ml-gateway": [silent.address]}), tmp_path) as proxy:
        assert post(proxy.addresses["ml-gateway"], "/") == 504
        assert silent.asked == 1


def file(**limits):
    """Kong's file, with other limits where some are given, and as patient as the rules above."""
    out = yaml.safe_load((ROOT / "kong/kong.yaml").read_text())
    for service in out["services"]:
        service |= {"read_timeout": 3_600_000} if "read_timeout" in service else {}
    for plugin in out["plugins"]:
        if limits and plugin["name"] == "rate-limiting":
            plugin["config"] = limits
    return out


def test_kong_routes_bounds_and_limits(tmp_path, upstream):
    service = upstream(200)
    upstreams = dict.fromkeys(("ingestion", "query-api", "attribution-engine"), service.address)
    with run(kong(file(), upstreams), tmp_path) as proxy:
        address = proxy.addresses["kong"]
        assert post(address) == 200
        assert post(address, "/v1/journeys?user_id=u", method="GET") == 200
        assert post(address, "/v1/conversions/a", method="GET") == 200
        for method, path in (("GET", "/v1/events"), ("POST", "/v1/events/x"), ("GET", "/metrics"), ("GET", "/health/all"), ("GET", "/x/v1/journeys")):
            assert post(address, path, method=method) == 404, path
        assert post(address, body=bytes(8_000_000)) == 200
        assert post(address, body=bytes(8_000_001)) == 413
    # As many calls as are allowed pass and no more; an hour, so that no slow machine sees the window pass.
    with run(kong(file(limit_by="ip", hour=5, policy="local"), upstreams), tmp_path) as proxy:
        assert [post(proxy.addresses["kong"]) for _ in range(7)] == [200] * 5 + [429] * 2


def openssl(*arguments, folder):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and what it gives an identity: NAME.pem and NAME.key."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=mesh", folder=folder)

    def issue(name, identity, authority="ca"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", folder=folder)
        (folder / f"{name}.ext").write_text(f"subjectAltName=URI:spiffe://{identity}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-extfile", f"{name}.ext",
                "-out", f"{name}.pem", folder=folder)  # fmt: skip
        return folder

    issue("server", "cluster.local/ns/any/sa/any")
    return issue


def call(address, certificates, name):
    """The status for whoever has this certificate; None when there is no connection to ask over."""
    context = ssl._create_unverified_context()
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    try:
        with contextlib.closing(http.client.HTTPSConnection(*address, timeout=120, context=context)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return None


def test_each_service_is_called_by_whom_the_policies_name_and_by_nobody_else(prod, tmp_path, upstream, certificates):
    accounts = {f"{namespace(o)}-{o['metadata']['name']}": f"cluster.local/ns/{namespace(o)}/sa/{o['metadata']['name']}" for o in named(prod, "ServiceAccount")}
    for name, identity in accounts.items():
        folder = certificates(name, identity)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "stranger-ca.key", "-out",
            "stranger-ca.pem", "-subj", "/CN=stranger", folder=folder)  # fmt: skip
    certificates("stranger", accounts["edge-kong"], "stranger-ca")
    callers = {
        "nobody": set(),
        "ingestion": {"edge-kong"},
        "query-api": {"edge-kong"},
        "attribution-engine": {"edge-kong", "api-query-api"},
        "ml-gateway": {"processing-attribution-engine"},
    }
    with run(inbound(prod, folder, upstream(200).address), tmp_path) as proxy:
        assert set(proxy.addresses) == set(callers)
        for service, address in proxy.addresses.items():
            answers = {name: call(address, folder, name) for name in accounts}
            assert answers == {name: 200 if name in callers[service] else 403 for name in accounts}, service
            assert call(address, folder, None) is None and call(address, folder, "stranger") is None


# === The real process behind both ===


@pytest.fixture
def platform(tmp_path, attribution):
    data, file = tmp_path / "data", tmp_path / "serve.log"
    with open(file, "w") as log:
        command = [attribution, "serve", "--data", data, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"ATTRIBUTION_LOG_FORMAT": "json"})

    def listening():
        assert process.poll() is None, file.read_text()
        return re.search(r'"message":"listening","address":"([\d.]+):(\d+)"', file.read_text())

    try:
        found = eventually(300, listening)
        listen = found[1], int(found[2])
        eventually(300, lambda: post(listen, "/health/ready", method="GET") == 200)
        yield listen, (data / "api-key").read_text().strip()
    finally:
        process.terminate()
        process.wait()


def grpc(address, method, key, folder):
    """The status of a call with an empty message; curl speaks the protocol, and writes trailers as headers."""
    (folder / "message").write_bytes(bytes(5))
    command = ["curl", "--silent", "--http2-prior-knowledge", "--max-time", "120", "--dump-header", "-", "--output", folder / "answer",
               "--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", f"@{folder / 'message'}"]  # fmt: skip
    if key:
        command += ["--header", f"authorization: Bearer {key}"]
    said = subprocess.run([*command, f"http://{address[0]}:{address[1]}{method}"], capture_output=True, text=True)
    status = [line.split(":")[1].strip() for line in said.stdout.splitlines() if line.startswith("grpc-status:")]
    assert status, said.stdout + said.stderr
    return int(status[0])


UNAUTHENTICATED = 16
# {"alg":"none"}.{"sub":"admin"}: nobody here issues or reads these.
JWT = {"authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."}
# Done, not understood, not found: said by the service behind the key.
ANSWERED = {0, 3, 5}


def test_both_protocols_reach_the_services_and_neither_without_a_key(patient, tmp_path, platform):
    listen, key = platform
    inside, outside = tmp_path / "mesh", tmp_path / "kong"
    inside.mkdir()
    outside.mkdir()
    services = ("ingestion", "query-api", "attribution-engine")
    with run(mesh(patient, dict.fromkeys(services, [listen])), inside) as calls, run(kong(file(), {s: calls.addresses[s] for s in services}), outside) as door:
        address, bearer = door.addresses["kong"], {"authorization": f"Bearer {key}"}
        event = {"event_type": "click", "timestamp": 1767225600000, "device_id": "d"}
        body = json.dumps(event).encode()
        assert post(address, body=body, **{"content-type": "application/json"}) == 401
        assert post(address, body=body, **{"content-type": "application/json"}, **bearer) == 200
        assert post(address, body=body, **{"content-type": "application/json"}, **JWT) == 401
        assert post(address, "/v1/journeys?device_id=d", b"", "GET") == 401
        assert post(address, "/v1/journeys?device_id=d", b"", "GET", **bearer) == 200
        for method in ("ingestion.v1.IngestionService/IngestEvents", "query.v1.QueryService/RunReport", "attribution.v1.AttributionService/GetDecision"):
            assert grpc(address, f"/attribution.{method}", None, tmp_path) == UNAUTHENTICATED, method
            assert grpc(address, f"/attribution.{method}", key, tmp_path) in ANSWERED, method
