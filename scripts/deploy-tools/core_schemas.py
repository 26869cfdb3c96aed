"""Writes the schemas of Kubernetes' own kinds, as the package kubernetes-validate ships them, in kubeconform's layout.

core_schemas.py 1.36 FOLDER writes FOLDER/v1.36.0-standalone-strict/deployment-apps-v1.json and so on.
"""

import importlib.util
import json
import pathlib
import re
import sys

REFERENCE = re.compile(r"^(?:/api/)?(?:_definitions\.json)?#/\$defs/(.+)$")


def local(node, needed):
    """The node with every reference pointing into the same file; the names referred to are added to `needed`."""
    if isinstance(node, list):
        return [local(item, needed) for item in node]
    if not isinstance(node, dict):
        return node
    out = {}
    for key, value in node.items():
        if key == "description" and isinstance(value, str):
            continue
        if key == "$ref" and isinstance(value, str):
            name = REFERENCE.match(value)[1]
            needed.add(name)
            out[key] = f"#/definitions/{name}"
        else:
            out[key] = local(value, needed)
    return out


def is_kind(schema):
    properties = schema.get("properties", {})
    return "apiVersion" in properties and "enum" in properties.get("kind", {})


def main(version, folder):
    package = pathlib.Path(importlib.util.find_spec("kubernetes_validate").origin).parent
    source = package / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    definitions = json.loads((source / "_definitions.json").read_text())["$defs"]
    target = pathlib.Path(folder) / f"v{version}.0-standalone-strict"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("[!_]*.json")):
        schema = json.loads(path.read_text())
        if not is_kind(schema) or "list-" in path.name:
            continue
        needed, done = set(), {}
        schema = local(schema, needed)
        while missing := needed - set(done):
            name = missing.pop()
            done[name] = local(definitions[name], needed)
        schema |= {"definitions": done, "$schema": "http://json-schema.org/draft-07/schema#"}
        (target / path.name).write_text(json.dumps(schema, separators=(",", ":")))


if __name__ == "__main__":
    main(*sys.argv[1:])
