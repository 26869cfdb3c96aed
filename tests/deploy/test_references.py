"""What is referred to exists, and what exists is referred to."""

import json

from conftest import ROOT
from objects import containers, named, namespace, template, where, workloads

# Made by the operators of argocd/operators.yaml or by Kubernetes itself, by namespace and name.
MADE = {
    ("ServiceAccount", "external-secrets", "external-secrets"),
    ("ConfigMap", "external-secrets", "vault-ca"),
    ("ConfigMap", "databases", "kube-root-ca.crt"),
    # The user operator's, one for each KafkaUser, and the cluster's certificate.
    ("Secret", "databases", "attribution-cluster-ca-cert"),
    # Local volumes of ScyllaDB's nodes.
    ("StorageClass", "", "scylladb-local-xfs"),
}
# Read by what the charts' values (argocd/values) make: Grafana's sidecar and Alertmanager.
READ_BY_CHARTS = [
    ("ConfigMap", "monitoring", "attribution-dashboards", "labelValue"),
    ("Secret", "monitoring", "alertmanager-attribution", "configSecret: alertmanager-attribution"),
    ("Secret", "monitoring", "alertmanager-receivers", "secrets: [alertmanager-receivers]"),
    ("Secret", "monitoring", "grafana-admin", "existingSecret: grafana-admin"),
]
VALUES = "".join(path.read_text() for path in sorted((ROOT / "argocd/values").glob("*.yaml")))
READ_ELSEWHERE = {(kind, namespace, name) for kind, namespace, name, word in READ_BY_CHARTS if word in VALUES}


def pod_references(o):
    pod, ns = template(o)["spec"], namespace(o)
    if "serviceAccountName" in pod:
        yield "ServiceAccount", ns, pod["serviceAccountName"]
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", ns, volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", ns, volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", ns, volume["persistentVolumeClaim"]["claimName"]
    for container in containers(o):
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield kind, ns, source[key]["name"]
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if key in source:
                    yield kind, ns, source[key]["name"]


def walk(node, key):
    if isinstance(node, dict):
        for k, v in node.items():
            if k == key:
                yield v
            yield from walk(v, key)
    elif isinstance(node, list):
        for v in node:
            yield from walk(v, key)


def references(objects):
    """(kind, namespace, name) and who refers to it."""
    for o in workloads(objects):
        yield from ((r, o) for r in pod_references(o))
    for o in objects:
        ns, spec = namespace(o), o.get("spec", {})
        classes = {*walk(spec, "storageClassName"), *(walk(spec, "class") if o["kind"] == "KafkaNodePool" else [])}
        yield from ((("StorageClass", "", name), o) for name in classes if name)
        if o["kind"] == "ScyllaCluster":
            yield from ((("ConfigMap", ns, name), o) for name in walk(spec, "scyllaConfig"))
        if o["kind"] == "RedisCluster":
            yield from ((("ConfigMap", ns, name), o) for name in walk(spec, "additionalRedisConfig"))
            yield ("Secret", ns, spec["kubernetesConfig"]["redisSecret"]["name"]), o
        if o["kind"] == "ClickHouseInstallation":
            for key, value in spec["configuration"]["users"].items():
                if "k8s_secret" in key:
                    ns_of, name, _ = value.split("/")
                    yield ("Secret", ns_of, name), o
            for name in walk(spec["templates"], "serviceAccountName"):
                yield ("ServiceAccount", ns, name), o
        if o["kind"] == "TriggerAuthentication":
            yield from ((("Secret", ns, s["name"]), o) for s in spec["secretTargetRef"])
        if o["kind"] == "ScaledObject":
            names = [t["authenticationRef"]["name"] for t in spec["triggers"] if "authenticationRef" in t]
            yield from ((("TriggerAuthentication", ns, name), o) for name in names)
        if o["kind"] == "ExternalSecret":
            default = spec["secretStoreRef"]["name"]
            for item in spec["data"]:
                store = item.get("sourceRef", {}).get("storeRef", {}).get("name", default)
                yield ("ClusterSecretStore", "", store), o
                if store == "databases":
                    yield ("Secret", "databases", item["remoteRef"]["key"]), o
        if o["kind"] == "ClusterSecretStore":
            provider = next(iter(spec["provider"].values()))
            account = provider["auth"].get("serviceAccount") or provider["auth"]["kubernetes"]["serviceAccountRef"]
            yield ("ServiceAccount", account["namespace"], account["name"]), o
            ca = provider.get("caProvider") or provider["server"]["caProvider"]
            yield (ca["type"], ca["namespace"], ca["name"]), o
        if o["kind"] in ("KafkaNodePool", "KafkaTopic", "KafkaUser"):
            yield ("Kafka", ns, o["metadata"]["labels"]["strimzi.io/cluster"]), o
        if o["kind"] == "RoleBinding":
            yield from (((s["kind"], s["namespace"], s["name"]), o) for s in o["subjects"])
            yield (o["roleRef"]["kind"], ns, o["roleRef"]["name"]), o
        if o["kind"] == "NodePool":
            yield ("EC2NodeClass", "", spec["template"]["spec"]["nodeClassRef"]["name"]), o


def existing(objects):
    for o in objects:
        yield o["kind"], namespace(o), o["metadata"]["name"]
        if o["kind"] == "ExternalSecret":
            yield "Secret", namespace(o), o["spec"]["target"]["name"]
        if o["kind"] == "KafkaUser":
            yield "Secret", namespace(o), o["metadata"]["name"]


def problems(objects):
    there = set(existing(objects)) | MADE
    used = set()
    for reference, o in references(objects):
        used.add(reference)
        if reference not in there:
            yield f"{where(o)} refers to {'/'.join(reference)}, which is not there"
    for kind, ns, name in there - MADE:
        if kind in ("ConfigMap", "Secret", "ServiceAccount", "StorageClass", "ClusterSecretStore") and (kind, ns, name) not in used | READ_ELSEWHERE:
            yield f"nobody uses {kind} {ns}/{name}"
    yield from unused_topics_and_users(objects)


def unused_topics_and_users(objects):
    """A topic or a user that no configuration, trigger or secret names."""
    text = json.dumps([o for o in objects if o["kind"] not in ("KafkaTopic", "KafkaUser")])
    for topic in named(objects, "KafkaTopic"):
        if f":9093/{topic['metadata']['name']}" not in text:
            yield f"nobody uses {where(topic)}"
    for user in named(objects, "KafkaUser"):
        name = user["metadata"]["name"]
        if f"user={name}&" not in text and f'"username": "{name}"' not in text:
            yield f"nobody uses {where(user)}"


def test_all_that_is_named_is_there_and_used(overlay):
    assert sorted(problems(overlay)) == []


def test_the_bad_is_rejected(bad):
    assert sorted(problems(bad)) == [
        "Deployment api/web refers to Secret/api/kafka-credentials, which is not there",
        "KafkaTopic databases/spare refers to Kafka/databases/attribution, which is not there",
        "PersistentVolumeClaim api/data refers to StorageClass//gp3, which is not there",
        "nobody uses ConfigMap monitoring/scaling-metrics",
        "nobody uses KafkaTopic databases/spare",
    ]
