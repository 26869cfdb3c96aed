"""From LightGBM to `model.onnx` and `model.toml`."""

import hashlib
import json
from dataclasses import asdict

import lightgbm
import numpy as np
import onnx
import onnxmltools
import onnxruntime
from onnxmltools.convert.common.data_types import FloatTensorType

OPSET = 15


def to_float_thresholds(booster):
    """The same booster with thresholds of 32 bits, rounded down: no 32-bit value changes its side."""
    lines = booster.model_to_string().split("\n")
    for number, line in enumerate(lines):
        if line.startswith("threshold="):
            exact = np.array(line.removeprefix("threshold=").split(), np.float64)
            near = exact.astype(np.float32)
            down = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
            lines[number] = "threshold=" + " ".join(repr(float(value)) for value in down)
    # Sizes of trees are of the text before; without them it is read from end to end.
    lines = [line for line in lines if not line.startswith("tree_sizes=")]
    return lightgbm.Booster(model_str="\n".join(lines))


def to_onnx(booster, width, output):
    """The booster as a graph with one output."""
    graph = onnxmltools.convert_lightgbm(
        booster, initial_types=[("features", FloatTensorType([None, width]))], target_opset=OPSET, zipmap=False
    )
    for other in [item for item in graph.graph.output if item.name != output]:
        graph.graph.output.remove(other)
    # What the converter makes another from run to run.
    graph.graph.name = "model"
    graph.doc_string = ""
    opsets = sorted(((opset.domain, opset.version) for opset in graph.opset_import))
    del graph.opset_import[:]
    graph.opset_import.extend(onnx.helper.make_opsetid(*opset) for opset in opsets)
    onnx.checker.check_model(graph)
    return graph.SerializeToString(deterministic=True)


def run(graph, matrix):
    """What onnxruntime answers, one output."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": matrix})[0]


def digest(*arrays):
    """The digest of training data."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def histogram(values, bins=10):
    """Shares of the training rows between edges at their quantiles."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]).astype(np.float32))
    share = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1) / len(values)
    return {"edges": [float(edge) for edge in edges], "shares": [round(float(part), 6) for part in share]}


def write(folder, graph, manifest, features, matrix):
    """Writes one version; `manifest` is a list of (key, value) and (table, dict)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph)
    lines = []
    tables = []
    for key, value in [*manifest, ("sha256", hashlib.sha256(graph).hexdigest())]:
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *(f"{name} = {toml(item)}" for name, item in value.items())]
        else:
            lines.append(f"{key} = {toml(value)}")
    for column, feature in enumerate(features):
        tables += ["", "[[inputs]]", *(f"{name} = {toml(item)}" for name, item in asdict(feature).items())]
        tables.append(f"histogram = {toml(histogram(matrix[:, column]))}")
    (folder / "model.toml").write_text("\n".join(lines + tables) + "\n")


def toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return json.dumps(value, ensure_ascii=False)
