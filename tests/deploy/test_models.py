"""Attribution is told of a gateway of models only where one runs that has models: else every score would be owed for ever."""

import re
from urllib.parse import urlsplit

from conftest import ROOT
from objects import containers, environment, named, namespace

URL, MODELS = "ATTRIBUTION_ML__URL", "ATTRIBUTION_ML__MODELS"


def in_the_image(target):
    """Where the image of a target has its models, if it has the committed ones there."""
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.M)
    stage = next((text for text in stages if re.match(rf"\S+ AS {re.escape(target)}\n", text)), "")
    said, copied = re.search(rf"{MODELS}=onnx://(\S+)", stage), re.search(r"^COPY ml/models (\S+)$", stage, re.M)
    return said and copied and said[1] == copied[1] and bool(list((ROOT / "ml/models").glob("*/*/model.onnx")))


def problems(objects):
    deployments = {(namespace(o), o["metadata"]["name"]): o for o in named(objects, "Deployment")}
    for (ns, name), o in deployments.items():
        if url := environment(objects, o).get(URL):
            at = urlsplit(url).hostname
            gateway_name, gateway_ns = (*at.split("."), ns)[:2]
            gateway = deployments.get((gateway_ns, gateway_name))
            if not gateway:
                yield f"{name}: there is no gateway of models at {at}"
                continue
            image = containers(gateway)[0]["image"].rpartition("/")[2].split("@")[0].split(":")[0]
            if not environment(objects, gateway).get(MODELS, in_the_image(image)):
                yield f"{name}: the gateway at {at} has no models"


def test_whoever_asks_for_scores_asks_a_gateway_that_has_models(cluster):
    asking = [o["metadata"]["name"] for o in named(cluster, "Deployment") if URL in environment(cluster, o)]
    assert asking == ["attribution-engine"]
    assert list(problems(cluster)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "alone: there is no gateway of models at ml-gateway.ml.svc.cluster.local",
        "without: the gateway at empty.ml has no models",
        "cleared: the gateway at cleared-gateway.ml has no models",
    ]
