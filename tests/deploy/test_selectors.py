"""What selects pods, or Services, selects some."""

from objects import matches, named, namespace, pods, where


def problems(objects):
    everything = list(pods(objects))
    for o in named(objects, "Service", "PodMonitor", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "AuthorizationPolicy"):
        spec = o["spec"]
        selector = {"matchLabels": spec["selector"]} if o["kind"] == "Service" and "selector" in spec else spec.get("selector") or spec.get("podSelector")
        if not selector:
            continue
        if not any(ns == namespace(o) and matches(selector, labels) for ns, labels, _ in everything):
            yield f"{where(o)} selects no pod"
    for o in named(objects, "NetworkPolicy"):
        for rule in o["spec"].get("egress", []):
            for peer in rule.get("to", []):
                if "podSelector" not in peer:
                    continue
                to = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", namespace(o))
                if to != "kube-system" and not any(ns == to and matches(peer["podSelector"], labels) for ns, labels, _ in everything):
                    yield f"{where(o)} lets calls go to no pod in {to}"
    for o in named(objects, "ServiceMonitor"):
        if not any(
            namespace(s) == namespace(o) and matches(o["spec"]["selector"], s["metadata"].get("labels", {}))
            for s in named(objects, "Service")
        ):
            yield f"{where(o)} selects no Service"


def test_everything_selected_exists(cluster):
    assert list(problems(cluster)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "Service api/web selects no pod",
        "NetworkPolicy api/web lets calls go to no pod in databases",
        "ServiceMonitor api/web selects no Service",
    ]
