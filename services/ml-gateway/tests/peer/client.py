"""Triton's client against the gateway: client.py ADDRESS KEY GOLDEN."""

import gzip
import sys

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

ADDRESS, KEY, GOLDEN = sys.argv[1:]
HEADERS = {"authorization": f"Bearer {KEY}"}
ROWS = 500
checks = 0


def check(holds, what):
    global checks
    if not holds:
        raise SystemExit(f"not so: {what}")
    checks += 1


def golden():
    raw = gzip.decompress(open(GOLDEN, "rb").read())
    rows, columns = np.frombuffer(raw, "<u4", 2)
    matrix = np.frombuffer(raw, "<f4", rows * columns, 8).reshape(columns, rows).T
    scores = np.frombuffer(raw, "<f8", 2 * rows, 8 + 4 * rows * columns).reshape(2, rows)
    return np.ascontiguousarray(matrix[:ROWS]), scores[:, :ROWS]


def features(api, matrix, **how):
    tensor = api.InferInput("features", list(matrix.shape), "FP32")
    tensor.set_data_from_numpy(matrix, **how)
    return tensor


def infer(api, client, matrix, version="", outputs=None, **how):
    # The client keeps headers of its own in what it is given.
    headers = dict(HEADERS)
    return client.infer("fraud", [features(api, matrix, **how)], model_version=version, outputs=outputs, headers=headers)


def same(answer, scores):
    raw, calibrated = answer.as_numpy("probabilities"), answer.as_numpy("calibrated")
    return np.abs(raw[:, 1] - scores[0]).max() < 1e-5 and np.abs(calibrated - scores[1]).max() < 1e-5


def refused(call, told):
    try:
        call()
    except InferenceServerException as error:
        return told in str(error)
    return False


matrix, scores = golden()
wrong = matrix.copy()
wrong[3, 0] = np.nan

with http.InferenceServerClient(ADDRESS) as client:
    check(client.is_server_live() and client.is_server_ready(), "live and ready")
    check(client.is_model_ready("fraud", headers=HEADERS), "the model is ready")
    metadata = client.get_model_metadata("fraud", headers=HEADERS)
    check(metadata["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, matrix.shape[1]]}], "inputs")
    check(same(infer(http, client, matrix), scores), "binary data over REST")
    plain = [http.InferRequestedOutput(name, binary_data=False) for name in ("probabilities", "calibrated")]
    check(same(infer(http, client, matrix, "1", plain, binary_data=False), scores), "JSON over REST")
    check(refused(lambda: infer(http, client, wrong), "rows[3].values.click_to_conversion"), "NaN is named over REST")

with grpc.InferenceServerClient(ADDRESS) as client:
    check(client.is_server_live(headers=HEADERS) and client.is_server_ready(headers=HEADERS), "live and ready")
    check(client.is_model_ready("fraud", headers=HEADERS), "the model is ready")
    metadata = client.get_model_metadata("fraud", headers=HEADERS)
    check([output.name for output in metadata.outputs] == ["probabilities", "calibrated"], "outputs")
    check(same(infer(grpc, client, matrix), scores), "raw data over gRPC")
    check(refused(lambda: infer(grpc, client, matrix, "9"), "version"), "an unknown version is told over gRPC")
    check(refused(lambda: infer(grpc, client, wrong), "range"), "NaN is refused over gRPC")

print(f"{checks} checks passed")
