"""Ports that are named, or numbered, are there."""

from objects import containers, matches, named, namespace, pods, where


def container_ports(workload):
    return {v for c in containers(workload) for p in c.get("ports", []) for v in (p.get("name"), p["containerPort"])}


def problems(objects):
    selected = lambda o, selector: [w for ns, labels, w in pods(objects) if w and ns == namespace(o) and matches(selector, labels)]  # noqa: E731
    for o in named(objects, "Service"):
        for workload in selected(o, {"matchLabels": o["spec"].get("selector", {"": "an ExternalName"})}):
            for port in o["spec"]["ports"]:
                if port.get("targetPort", port["port"]) not in container_ports(workload):
                    yield f"{where(o)}: no container has the port {port.get('targetPort', port['port'])}"
    for o in named(objects, "ServiceMonitor"):
        names = {
            port.get("name")
            for service in named(objects, "Service")
            if namespace(service) == namespace(o) and matches(o["spec"]["selector"], service["metadata"].get("labels", {}))
            for port in service["spec"]["ports"]
        }
        yield from (f"{where(o)}: its Services have no port {e['port']}" for e in o["spec"]["endpoints"] if e["port"] not in names)
    for o in named(objects, "NetworkPolicy"):
        for rule in o["spec"].get("ingress", []):
            for workload in selected(o, o["spec"]["podSelector"]):
                wanted = {p["port"] for p in rule.get("ports", [])}
                yield from (f"{where(o)}: no container has the port {port}" for port in wanted - container_ports(workload))
    for o in named(objects, "Deployment"):
        for container in containers(o):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in container_ports(o):
                    yield f"{where(o)}: {probe} asks at the port {port}"


def test_every_port_is_there(overlay):
    assert list(problems(overlay)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "Service api/web: no container has the port grpc",
        "ServiceMonitor api/web: its Services have no port metrics",
        "NetworkPolicy api/web: no container has the port 9090",
        "Deployment api/web: livenessProbe asks at the port admin",
    ]
