#!/usr/bin/env python3
"""Says what an overlay still waits for: `ops/ready.py prod` lists every placeholder that is left, and fails while there is one.

This table is the only list of placeholders; docs/deploy.md shows it, and a test holds the two equal.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What it looks like, what it stands for, and where it is set.
PLACEHOLDERS = {
    "account": (r"\b123456789012\b", "the AWS account", "images of the overlays, `.github/workflows/release.yml`"),
    "digest": (r"sha256:0{64}", "the digest of an image", "images of the overlays; `ops/promote.sh` writes it"),
    "file-system": (r"\bfs-0{13}\w+", "the file system of settings", "`k8s/components/region/REGION`; output `settings_file_system`"),
    "api-cidrs": (r"\b203\.0\.113\.\d+", "who may reach the cluster's API", "`infra/env/STAGE.tfvars`, `infra/env/prod-REGION.tfvars`"),
}
VARIABLES = {"staging": "staging", "prod": "prod-us-east-1", "prod-eu-west-1": "prod-eu-west-1", "prod-ap-south-1": "prod-ap-south-1"}


def texts(overlay):
    """What a cluster of this overlay is made of, by name."""
    rendered = subprocess.run(["kubectl", "kustomize", ROOT / "k8s/overlays" / overlay], check=True, capture_output=True, text=True)
    yield f"k8s/overlays/{overlay}", rendered.stdout
    for file in (f"infra/env/{VARIABLES[overlay]}.tfvars", ".github/workflows/release.yml"):
        yield file, (ROOT / file).read_text()


def left(texts):
    for file, text in texts:
        for name, (pattern, what, where) in PLACEHOLDERS.items():
            if found := re.findall(pattern, text):
                yield f"{file}: {len(found)} × {name}: {what} ({where})"


def table():
    rows = [f"| `{name}` | {what} | {where} |" for name, (_, what, where) in PLACEHOLDERS.items()]
    return "\n".join(["| placeholder | stands for | set in |", "|---|---|---|", *rows])


def main():
    if sys.argv[1:2] == ["--table"]:
        return print(table())
    if len(sys.argv) != 2 or sys.argv[1] not in VARIABLES:
        sys.exit(f"usage: ops/ready.py {'|'.join(VARIABLES)}")
    found = list(left(texts(sys.argv[1])))
    print("\n".join(found) or f"{sys.argv[1]}: every placeholder is filled in")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
