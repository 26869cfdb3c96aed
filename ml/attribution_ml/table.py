"""A small stream as events, and its features by the definition that the models are trained with.

Training writes both into `ml/golden`: whoever computes features elsewhere must find the same.
"""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from . import features, simulate

SEED = 20_260_106
# 2026-01-05, a Monday.
BEGIN_SECONDS = 1_767_571_200
WINDOW_SECONDS = 7 * simulate.DAY
AGENTS = ("Mozilla/5.0 (Linux; Android 14; Pixel 7)", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)")
WORLD = simulate.World(
    days=12, warm_up_days=0, partners=2, sub_publishers=6, users=150, clicks_a_day=70, carrier_prefixes=6,
    conversions_of_a_fraudster_a_day=0.4, fraudsters_of_a_kind=1,
)


def credited(stream):
    """The same stream, in whole milliseconds, with every conversion credited to the last click of its device.

    A conversion whose click is older than the window of clicks is left out.
    """
    time = np.round(stream.time, 3)
    done = np.round(time[stream.touch] + stream.delay, 3)
    begin = np.round(time[stream.touch] - stream.install_begin_lag, 3)
    touch = np.empty_like(stream.touch)
    for row, (asked, now) in enumerate(zip(stream.touch, done, strict=True)):
        own = np.flatnonzero(stream.is_click & (stream.device == stream.device[asked]) & (time <= now))
        touch[row] = own[np.lexsort((own, time[own]))[-1]]
    keep = (done - time[touch] <= WINDOW_SECONDS) & (begin <= done)
    return replace(
        stream, time=time, touch=touch[keep], delay=np.round(done - time[touch], 3)[keep],
        install_begin_lag=np.round(time[touch] - begin, 3)[keep],
        user_agent_mismatch=stream.user_agent_mismatch[keep], country_mismatch=stream.country_mismatch[keep],
        kind=stream.kind[keep], fraudster=stream.fraudster[keep],
    ), begin[keep], done[keep]


def events(stream, begin, done):
    """Touches, then conversions, as the platform takes them in."""
    for index in range(len(stream.time)):
        address = int(stream.address[index])
        sub = int(stream.sub_publisher[index])
        yield {
            "event_id": f"t{index:06}",
            "event_type": "click" if stream.is_click[index] else "impression",
            "timestamp": moment(stream.time[index]),
            "device_id": f"d{stream.device[index]}",
            "ip": ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0)),
            "user_agent": AGENTS[0],
            "country": "DE",
            "partner": f"p{sub % WORLD.partners}",
            "sub_publisher": f"s{sub}",
        }
    for row, touch in enumerate(stream.touch):
        yield {
            "event_id": f"c{row:06}",
            "event_type": "conversion",
            "timestamp": moment(done[row]),
            "device_id": f"d{stream.device[touch]}",
            "user_agent": AGENTS[int(stream.user_agent_mismatch[row])],
            "country": "FR" if stream.country_mismatch[row] else "DE",
            "conversion": "install",
            "install_begin": moment(begin[row]),
        }


def moment(seconds):
    millis = BEGIN_SECONDS * 1_000 + round(float(seconds) * 1_000)
    text = datetime.fromtimestamp(millis // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{millis % 1_000:03}Z"


def write(golden):
    stream, begin, done = credited(simulate.simulate(WORLD, SEED))
    matrix, order = simulate.matrix(WORLD, stream)
    rows = [",".join(["conversion_id", "touch_id", *features.names(features.FRAUD)])]
    for row in order:
        values = ",".join(repr(float(value)) for value in matrix[row])
        rows.append(f"c{row:06},t{stream.touch[row]:06},{values}")
    lines = "".join(json.dumps(event) + "\n" for event in events(stream, begin, done))
    golden.mkdir(parents=True, exist_ok=True)
    (golden / "features.ndjson.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    (golden / "features.csv.gz").write_bytes(gzip.compress(("\n".join(rows) + "\n").encode(), 9, mtime=0))


def compare(fresh, committed):
    """Fails when the committed table is not the one that the definition gives, up to its grid."""
    one, other = (read(folder) for folder in (fresh, committed))
    if one.keys() != other.keys():
        raise SystemExit("the table of features has other rows: write it anew with `make train`")
    for key, values in one.items():
        if not np.allclose(values, other[key], rtol=0, atol=1.01e-3):
            raise SystemExit(f"the features of {key} are {values}, committed are {other[key]}")


def read(folder):
    header, *lines = gzip.decompress((folder / "features.csv.gz").read_bytes()).decode().splitlines()
    cells = [line.split(",") for line in lines]
    return {(header, *row[:2]): np.array(row[2:], float) for row in cells}
