"""The fraud model: a calibrated probability that a conversion's touch is fraudulent. Trained on a simulated stream."""

import gzip

import lightgbm
import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score

from . import export, features, simulate

SEED = 20_260_105
TRAIN_DAYS, CALIBRATION_DAYS = 24, 30
# Fraudsters 0 to 3 are labelled in training; the others are met in the test alone.
FRAUDSTERS_TRAINED = 4
GOLDEN_ROWS = 10_000
CALIBRATION_POINTS = 51
PARAMETERS = {
    "objective": "binary",
    "num_leaves": 15,
    "learning_rate": 0.06,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 2.0,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": SEED,
    "verbose": -1,
}
ROUNDS = 160


def split(kind, fraudster, day):
    """Rows to train on, to calibrate on and to test on: by time, by fraudster, and by kind."""
    known = (kind == 0) | ((fraudster < FRAUDSTERS_TRAINED) & (kind != simulate.KINDS.index(simulate.HELD_OUT_KIND)))
    unknown = (kind == 0) | ~known
    return (
        known & (day < TRAIN_DAYS),
        known & (day >= TRAIN_DAYS) & (day < CALIBRATION_DAYS),
        unknown & (day >= CALIBRATION_DAYS),
    )


def train(models, golden):
    world = simulate.World()
    matrix, kind, fraudster, day = simulate.table(world, simulate.simulate(world, SEED))
    label = (kind != 0).astype(np.int8)
    learn, calibrate, test = split(kind, fraudster, day)
    data = lightgbm.Dataset(matrix[learn], label[learn], feature_name=features.names(features.FRAUD))
    booster = export.to_float_thresholds(lightgbm.train(PARAMETERS, data, ROUNDS))
    graph = export.to_onnx(booster, matrix.shape[1], "probabilities")

    score = booster.predict(matrix)
    same = np.abs(export.run(graph, matrix)[:, 1] - score).max()
    if same > 1e-5:
        raise SystemExit(f"the graph differs from LightGBM by {same}")
    isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score[calibrate], label[calibrate])
    # Its steps may be as steep as they like; between points this far apart the last bits of a score stay harmless.
    grid = np.linspace(0, 1, CALIBRATION_POINTS)
    x, y = grid.tolist(), isotonic.predict(grid).astype(float).tolist()
    calibrated = np.interp(score, x, y)

    metrics = {
        "rows_trained": int(learn.sum()),
        "rows_calibrated": int(calibrate.sum()),
        "rows_tested": int(test.sum()),
        "fraud_share_tested": float(label[test].mean()),
        **measure(label[test], score[test], calibrated[test], kind[test]),
    }
    manifest = [
        ("name", "fraud"),
        ("version", "1"),
        ("owner", "attribution"),
        ("card", CARD),
        ("training_data_sha256", export.digest(matrix[learn], label[learn])),
        ("output", {"name": "probabilities", "column": 1, "minimum": 0.0, "maximum": 1.0}),
        ("calibration", {"x": x, "y": y}),
        ("metrics", {name: round(value, 6) for name, value in metrics.items()}),
        ("score_histogram", export.histogram(score[learn])),
    ]
    export.write(models / "fraud" / "1", graph, manifest, features.FRAUD, matrix[learn])
    rows = np.flatnonzero(test)[-GOLDEN_ROWS:]
    write_golden(golden / "fraud.gz", matrix[rows], score[rows], calibrated[rows])
    return metrics


def measure(label, score, calibrated, kind):
    genuine = score[label == 0]
    metrics = {"pr_auc": average_precision_score(label, score)}
    for name, rate in (("recall_at_fpr_0_1_percent", 0.001), ("recall_at_fpr_1_percent", 0.01)):
        threshold = np.quantile(genuine, 1 - rate, method="higher")
        caught = score > threshold
        metrics[name] = caught[label == 1].mean()
        for number, word in enumerate(simulate.KINDS[1:], 1):
            metrics[f"{name}_{word}"] = caught[kind == number].mean()
    for number, word in enumerate(simulate.KINDS[1:], 1):
        rows = (kind == 0) | (kind == number)
        metrics[f"pr_auc_{word}"] = average_precision_score(label[rows], score[rows])
    bins = np.minimum((calibrated * 10).astype(int), 9)
    metrics["calibration_error"] = sum(
        abs(calibrated[bins == part].mean() - label[bins == part].mean()) * (bins == part).mean()
        for part in np.unique(bins)
    )
    return {name: float(value) for name, value in metrics.items()}


def write_golden(path, matrix, score, calibrated):
    """Rows and columns as u32, features by column as f32, then raw and calibrated scores as f64; all little-endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = np.array(matrix.shape, "<u4").tobytes() + matrix.T.astype("<f4").tobytes()
    body += score.astype("<f8").tobytes() + calibrated.astype("<f8").tobytes()
    path.write_bytes(gzip.compress(body, 9, mtime=0))


CARD = (
    "The probability that the touch of a conversion is fraudulent. "
    "Trained, calibrated and tested on a simulated stream (ml/attribution_ml/simulate.py), not on real traffic: "
    "its figures say that the way from features to scores works, not how much fraud it finds in yours. "
    "Tested on later days, on fraudsters never seen in training, and on one kind of fraud (emulator) never seen at all. "
    "Not to be used to reject touches before it was trained again on labelled traffic of your own."
)
