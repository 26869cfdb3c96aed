"""Times onnxruntime: onnxruntime_rows.py MODEL ROWS, then lines of `rows calls`, each answered with the µs of a call."""

import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
matrix = np.fromfile(sys.argv[2], "<f4").reshape(-1, session.get_inputs()[0].shape[1])
names = [output.name for output in session.get_outputs()]

for line in sys.stdin:
    rows, calls = map(int, line.split())
    batch = matrix[:rows]
    session.run(names, {"features": batch})
    began = time.perf_counter()
    for _ in range(calls):
        session.run(names, {"features": batch})
    print((time.perf_counter() - began) / calls * 1e6, flush=True)
