"""Who may call whom is said once for addresses (NetworkPolicies, both ends) and once for identities, and they agree."""

from objects import matches, named, namespace, pods, where

# The flows of ARCHITECTURE.md: the namespace of the caller and that of the service.
FLOWS = {("edge", "ingestion"), ("edge", "processing"), ("edge", "api"), ("api", "processing"), ("processing", "ml")}
SERVICES = {service for _, service in FLOWS} | {"edge"}
NAME = "kubernetes.io/metadata.name"


def peers(rules, direction):
    for rule in rules:
        for peer in rule.get(direction, []):
            yield peer.get("namespaceSelector", {}).get("matchLabels", {}).get(NAME), {p["port"] for p in rule.get("ports", [])}


def said(objects):
    """The flows by each of three ways to say them."""
    incoming, outgoing, identities = set(), set(), set()
    services = SERVICES | {"gpu"}
    for o in named(objects, "NetworkPolicy"):
        ns = namespace(o)
        incoming |= {(caller, ns) for caller, _ in peers(o["spec"].get("ingress", []), "from") if {caller, ns} <= services}
        outgoing |= {(ns, to) for to, _ in peers(o["spec"].get("egress", []), "to") if to in services}
    for o in named(objects, "AuthorizationPolicy"):
        for rule in o["spec"].get("rules", []):
            for source in rule.get("from", []):
                identities |= {(principal.split("/")[2], namespace(o)) for principal in source["source"]["principals"]}
    return {"ingress": incoming, "egress": outgoing, "identities": identities}


def problems(objects, flows=FLOWS):
    for way, there in said(objects).items():
        yield from (f"{way}: {caller} may not call {service}" for caller, service in sorted(flows - there))
        yield from (f"{way}: {caller} may call {service}" for caller, service in sorted(there - flows))
    accounts = {(namespace(o), o["metadata"]["name"]) for o in named(objects, "ServiceAccount")}
    for o in named(objects, "AuthorizationPolicy"):
        for rule in o["spec"].get("rules", []):
            for source in rule.get("from", []):
                for principal in source["source"]["principals"]:
                    _, _, ns, _, account = principal.split("/")
                    if (ns, account) not in accounts:
                        yield f"{where(o)}: there is no {principal}"
    denied = {namespace(o) for o in named(objects, "NetworkPolicy") if o["spec"]["podSelector"] == {} and "ingress" not in o["spec"] and "Ingress" in o["spec"]["policyTypes"]}
    yield from (f"{ns} does not deny by default" for ns in sorted(SERVICES - denied))


def lets_in(rules, caller, port):
    for rule in rules:
        allowed = {p["port"] for p in rule.get("ports", [])}
        for peer in rule.get("from", [{"namespaceSelector": {}}]):
            # Without a namespace a peer is of the policy's own.
            if "namespaceSelector" in peer and matches(peer["namespaceSelector"], {NAME: caller}) and (not allowed or port in allowed):
                return True
    return False


def half_open(objects):
    """Calls that may leave and may not arrive: to a namespace that denies by default, on a port that no policy there opens."""
    policies = named(objects, "NetworkPolicy")
    denying = {namespace(o) for o in policies if o["spec"]["podSelector"] == {} and "Ingress" in o["spec"]["policyTypes"]}
    # Strimzi makes the policies of its brokers from their listeners.
    kafka = {namespace(o): o["spec"]["kafka"]["listeners"] for o in named(objects, "Kafka")}
    everything = list(pods(objects))
    for o in policies:
        for rule in o["spec"].get("egress", []):
            for peer in rule.get("to", []):
                to = peer.get("namespaceSelector", {}).get("matchLabels", {}).get(NAME)
                if to not in denying or to == namespace(o):
                    continue
                for port in (p["port"] for p in rule["ports"]):
                    targets = [labels for ns, labels, _ in everything if ns == to and matches(peer.get("podSelector", {}), labels)]
                    # A port is named where the pod names it.
                    ports = {port, {8080: "http"}.get(port, port)}
                    into = [p["spec"]["ingress"] for p in policies if namespace(p) == to and "ingress" in p["spec"]
                            and any(matches(p["spec"]["podSelector"], labels) for labels in targets)]  # fmt: skip
                    by_kafka = [{"from": listener["networkPolicyPeers"], "ports": [{"port": listener["port"]}]} for listener in kafka.get(to, [])]
                    if any("strimzi.io/cluster" in labels for labels in targets):
                        into.append(by_kafka)
                    if not any(lets_in(rules, namespace(o), name) for rules in into for name in ports):
                        yield f"{where(o)} may call {to}:{port}, where nobody lets it in"


def test_prometheus_may_come_in_where_it_is_sent(prod):
    opened = {o["metadata"]["name"]: o["spec"].get("ingress", []) for o in named(prod, "NetworkPolicy") if namespace(o) == "databases"}
    monitors = {o["metadata"]["name"]: o["spec"]["podMetricsEndpoints"] for o in named(prod, "PodMonitor")}
    # Kafka's operator opens that port itself.
    assert monitors.pop("kafka") and len(monitors) == 3
    for name, endpoints in monitors.items():
        assert all(lets_in(opened[name], "monitoring", e["portNumber"]) for e in endpoints), name


def test_who_may_go_out_may_come_in(cluster):
    assert list(half_open(cluster)) == []


def test_a_call_that_may_not_arrive_is_noticed(prod):
    closed = [o for o in prod if (o["kind"], o["metadata"]["name"]) not in (("NetworkPolicy", "redis"), ("Kafka", "attribution"))]
    assert sorted(half_open(closed)) == [
        "NetworkPolicy ingestion/ingestion-flows may call databases:6379, where nobody lets it in",
        "NetworkPolicy ingestion/ingestion-flows may call databases:9093, where nobody lets it in",
        "NetworkPolicy processing/attribution-engine-flows may call databases:9093, where nobody lets it in",
    ]


def test_exactly_the_flows(cluster):
    # The component of GPUs adds one.
    gpu = {("ml", "gpu")} & {("ml", o["metadata"]["name"]) for o in named(cluster, "Namespace")}
    assert list(problems(cluster, FLOWS | gpu)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad, {("edge", "api")})) == [
        "ingress: edge may not call api",
        "ingress: ingestion may call api",
        "egress: edge may not call api",
        "identities: ingestion may call api",
        "AuthorizationPolicy api/web: there is no cluster.local/ns/edge/sa/kong",
        "AuthorizationPolicy api/web: there is no cluster.local/ns/ingestion/sa/other",
        *(f"{ns} does not deny by default" for ns in sorted(SERVICES)),
    ]
