"""Writes the custom resources that the manifests use, from their projects' Go modules: `custom_resources.py FOLDER`.

FOLDER/crds has the definitions, for an API server; FOLDER/json has their schemas with closed objects, for kubeconform.
A module comes through Go's own proxy and its checksum database, so this needs no host but a package registry.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import yaml

# Module and version, and its files. The versions are those of argocd/operators.yaml where they can be had as modules;
# of External Secrets 0.16 is the newest, and already has the `v1` of its kinds.
MODULES = {
    "istio.io/api@v1.30.3": ["kubernetes/customresourcedefinitions.gen.yaml"],
    "github.com/kedacore/keda/v2@v2.20.2": ["config/crd/bases/keda.sh_scaledobjects.yaml", "config/crd/bases/keda.sh_triggerauthentications.yaml"],
    "github.com/prometheus-operator/prometheus-operator@v0.93.0": [
        f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml" for kind in ("prometheusrules", "servicemonitors", "podmonitors")
    ],
    "github.com/external-secrets/external-secrets@v0.16.2": [
        f"config/crds/bases/external-secrets.io_{kind}.yaml" for kind in ("externalsecrets", "clustersecretstores")
    ],
    "github.com/argoproj/argo-cd/v3@v3.5.1": [f"manifests/crds/{kind}-crd.yaml" for kind in ("applicationset", "appproject")],
    "github.com/argoproj/argo-rollouts@v1.9.1": ["manifests/crds/rollout-crd.yaml", "manifests/crds/analysis-template-crd.yaml"],
    "github.com/aws/karpenter-provider-aws@v1.14.1": ["pkg/apis/crds/karpenter.sh_nodepools.yaml", "pkg/apis/crds/karpenter.k8s.aws_ec2nodeclasses.yaml"],
    "github.com/vmware-tanzu/velero@v1.18.1": [f"config/crd/v1/bases/velero.io_{kind}.yaml" for kind in ("schedules", "backupstoragelocations")],
    "k8s.io/autoscaler/vertical-pod-autoscaler@v1.7.1": ["deploy/vpa-v1-crd-gen.yaml"],
}


def folder_of(module):
    # Outside of any module: a go.mod nearby would have its say about versions.
    said = subprocess.run(["go", "mod", "download", "-json", module], cwd="/", check=True, capture_output=True, text=True)
    return pathlib.Path(json.loads(said.stdout)["Dir"])


def closed(schema):
    """The schema with no other fields than those it names, as an API server holds objects to it."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: closed(value) for key, value in schema.items() if key not in ("description", "default")}
    if isinstance(schema.get("properties"), dict):
        out["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def write(folder, definition):
    spec = definition["spec"]
    # No webhook is there to convert; objects come in the version that is stored.
    spec.pop("conversion", None)
    (folder / "crds" / f"{definition['metadata']['name']}.yaml").write_text(yaml.safe_dump(definition))
    group = folder / "json" / spec["group"]
    group.mkdir(exist_ok=True)
    for version in spec["versions"]:
        schema = closed(version["schema"]["openAPIV3Schema"])
        schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        (group / f"{spec['names']['kind'].lower()}_{version['name']}.json").write_text(json.dumps(schema))


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("crds", "json"):
        (folder / part).mkdir(parents=True)
    for module, files in MODULES.items():
        source = folder_of(module)
        for file in files:
            for definition in yaml.load_all((source / file).read_text(), yaml.CSafeLoader):
                if definition and definition["kind"] == "CustomResourceDefinition":
                    write(folder, definition)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
