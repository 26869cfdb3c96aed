"""How the rules look at objects."""

WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}

# What operators make from our custom resources: labels of pods, Services with their ports, Secrets, ServiceAccounts.
MADE_PODS = {
    "Kafka": lambda name: [{"strimzi.io/cluster": name, "strimzi.io/kind": "Kafka"}],
    "ScyllaCluster": lambda name: [{"scylla/cluster": name}],
    "ClickHouseInstallation": lambda name: [{"clickhouse.altinity.com/chi": name}],
    "ClickHouseKeeperInstallation": lambda name: [{"clickhouse-keeper.altinity.com/chk": name}],
    "RedisCluster": lambda name: [{"app": f"{name}-leader", "redis_setup_type": "cluster"}],
}
MADE_SERVICES = {
    "Kafka": lambda name: {f"{name}-kafka-bootstrap": {9093}},
    "ScyllaCluster": lambda name: {f"{name}-client": {9042, 9142}},
    "ClickHouseInstallation": lambda name: {f"clickhouse-{name}": {8123, 9000}},
    "ClickHouseKeeperInstallation": lambda name: {f"keeper-{name}": {2181}},
    "RedisCluster": lambda name: {f"{name}-leader": {6379}},
}
# By the operators of argocd/operators.yaml, not from objects of ours.
INSTALLED_SERVICES = {
    ("monitoring", "prometheus-operated"): {9090},
    ("vault", "vault"): {8200},
}


def named(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def where(o):
    namespace = o["metadata"].get("namespace")
    return f"{o['kind']} {namespace + '/' if namespace else ''}{o['metadata']['name']}"


def namespace(o):
    return o["metadata"].get("namespace", "")


def template(o):
    spec = o["spec"]
    return spec["jobTemplate"]["spec"]["template"] if o["kind"] == "CronJob" else spec["template"]


def workloads(objects):
    return named(objects, *WORKLOADS)


def containers(o):
    pod = template(o)["spec"]
    return pod["containers"] + pod.get("initContainers", [])


def matches(selector, labels):
    if any(labels.get(k) != v for k, v in selector.get("matchLabels", {}).items()):
        return False
    for e in selector.get("matchExpressions", []):
        value = labels.get(e["key"])
        if e["operator"] == "In" and value not in e["values"]:
            return False
        if e["operator"] == "Exists" and value is None:
            return False
    return True


def pods(objects):
    """(namespace, labels, workload) of all pods there will be; the workload is None for those that operators make."""
    for o in workloads(objects):
        yield namespace(o), template(o)["metadata"].get("labels", {}), o
    for o in objects:
        for labels in MADE_PODS.get(o["kind"], lambda _: [])(o["metadata"]["name"]):
            yield namespace(o), labels, None


def services(objects):
    """Ports by (namespace, name), those that operators make included."""
    out = dict(INSTALLED_SERVICES)
    for o in named(objects, "Service"):
        out[namespace(o), o["metadata"]["name"]] = {p["port"] for p in o["spec"]["ports"]}
    for o in objects:
        for name, ports in MADE_SERVICES.get(o["kind"], lambda _: {})(o["metadata"]["name"]).items():
            out[namespace(o), name] = ports
    return out


def environment(objects, deployment):
    """Variables of a Deployment's container with their values: its own, of its ConfigMaps and of its Secrets' templates."""
    ns, out = namespace(deployment), {}
    for container in containers(deployment):
        for source in container.get("envFrom", []):
            for o in named(objects, "ConfigMap"):
                if namespace(o) == ns and o["metadata"]["name"] == source.get("configMapRef", {}).get("name"):
                    out |= o["data"]
            for o in named(objects, "ExternalSecret"):
                if namespace(o) == ns and o["spec"]["target"]["name"] == source.get("secretRef", {}).get("name"):
                    out |= o["spec"]["target"]["template"]["data"]
        # Processors and such are known to the node alone.
        out |= {v["name"]: v.get("value", "1") for v in container.get("env", [])}
    return out


def strings(node):
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def quantity(text):
    """A Kubernetes quantity as a number: processors, or bytes."""
    text = str(text)
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9}
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text)
