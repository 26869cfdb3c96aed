"""Each workload has one scaler, which exists, leaves `replicas` to nobody else, and can do what it says."""

from collections import Counter

from objects import named, namespace, where


def problems(objects):
    scaled = Counter()
    deployments = {(namespace(o), o["metadata"]["name"]): o for o in named(objects, "Deployment")}
    for o in named(objects, "ScaledObject", "HorizontalPodAutoscaler"):
        target = namespace(o), o["spec"]["scaleTargetRef"]["name"]
        scaled[target] += 1
        if target not in deployments:
            yield f"{where(o)} scales {'/'.join(target)}, which is not there"
        elif "replicas" in deployments[target]["spec"]:
            yield f"{where(o)}: {where(deployments[target])} sets replicas itself"
        least, most = o["spec"].get("minReplicaCount", 0), o["spec"].get("maxReplicaCount", 0)
        if not least < most:
            yield f"{where(o)} scales from {least} to {most}"
        kinds = {t["type"] for t in o["spec"].get("triggers", [])}
        if least == 0 and kinds and kinds <= {"cpu", "memory"}:
            yield f"{where(o)}: by {', '.join(kinds)} nothing scales to zero"
        for topic in named(objects, "KafkaTopic"):
            reads = any(t["type"] == "kafka" and t["metadata"]["topic"] == topic["metadata"]["name"] for t in o["spec"].get("triggers", []))
            if reads and most > topic["spec"]["partitions"]:
                yield f"{where(o)}: of {most} pods only {topic['spec']['partitions']} get a partition"
    yield from (f"{'/'.join(t)} has {n} scalers" for t, n in scaled.items() if n > 1)
    for o in named(objects, "VerticalPodAutoscaler"):
        if o["spec"]["updatePolicy"]["updateMode"] != "Off":
            yield f"{where(o)} acts; it may only recommend"


def test_one_scaler_each(cluster):
    assert list(problems(cluster)) == []


def test_every_service_is_scaled(prod):
    scaled = {(namespace(o), o["spec"]["scaleTargetRef"]["name"]) for o in named(prod, "ScaledObject")}
    services = {(namespace(o), o["metadata"]["name"]) for o in named(prod, "Deployment") if namespace(o) != "monitoring"}
    assert scaled == services


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "ScaledObject ingestion/scaler: Deployment ingestion/ingestion sets replicas itself",
        "ScaledObject ingestion/scaler: by cpu nothing scales to zero",
        "HorizontalPodAutoscaler ingestion/hpa: Deployment ingestion/ingestion sets replicas itself",
        "HorizontalPodAutoscaler ingestion/hpa scales from 0 to 0",
        "ingestion/ingestion has 2 scalers",
        "VerticalPodAutoscaler ingestion/vpa acts; it may only recommend",
    ]
