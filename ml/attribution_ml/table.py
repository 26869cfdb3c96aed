"""Small streams as events, and their features by the definitions that the models are trained with.

Training writes them into `ml/golden`: whoever computes features elsewhere must find the same.
"""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas

from . import features, simulate, value

SEED = 20_260_106
# 2026-01-05, a Monday.
BEGIN_SECONDS = 1_767_571_200
WINDOW_SECONDS = 7 * simulate.DAY
AGENTS = ("Mozilla/5.0 (Linux; Android 14; Pixel 7)", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)")
WORLD = simulate.World(
    days=12, warm_up_days=0, partners=2, sub_publishers=6, users=150, clicks_a_day=70, carrier_prefixes=6,
    conversions_of_a_fraudster_a_day=0.4, fraudsters_of_a_kind=1,
)


# Persons who buy, and on how many days before the beginning.
BUYERS, BUYING_DAYS = 60, 420


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


def buyers():
    """Conversions of persons: most are purchases, several on one day, in two currencies and apps; some bring nothing, or a
    refund."""
    rng = np.random.default_rng(SEED)
    for buyer in range(BUYERS):
        times = np.sort(rng.integers(0, int(BUYING_DAYS * simulate.DAY) * 1_000, rng.integers(1, 16)))
        again = rng.random(len(times)) < 0.2
        times[1:] = np.where(again[1:], times[:-1] + rng.integers(0, 20 * 3_600_000, len(times) - 1), times[1:])
        for number, time in enumerate(np.sort(times)):
            cents = int(rng.gamma(1.5, 2_500)) * int(rng.choice([1] * 6 + [0, -1]))
            yield {
                "event_id": f"c{buyer:03}-{number:02}",
                "event_type": "conversion",
                "timestamp": moment(time / 1_000 - BUYING_DAYS * simulate.DAY),
                "user_id": f"u{buyer}",
                "app_id": str(rng.choice(["shop"] * 6 + ["outlet"])),
                "conversion": "purchase",
                "value": f"{cents / 100:.2f}",
                "currency": str(rng.choice(["EUR"] * 6 + ["USD"])),
            }


def values(conversions):
    """The features of each conversion's person at its moment."""
    rows = pandas.DataFrame(conversions)
    rows["customer"] = rows["user_id"]
    rows["money"] = rows["value"].astype(float)
    # All are written alike, so texts are in the order of moments.
    rows["day"] = pandas.to_datetime(rows["timestamp"].str[:10])
    for row in rows.itertuples():
        same = (rows["customer"] == row.customer) & (rows["app_id"] == row.app_id) & (rows["currency"] == row.currency)
        bought = rows[same & (rows["money"] > 0) & (rows["timestamp"] <= row.timestamp)]
        if len(bought) > 0:
            yield row.event_id, value.columns(value.days(bought), row.day).to_numpy()[0]


def write(golden):
    write_buyers(golden)
    stream, begin, done = credited(simulate.simulate(WORLD, SEED))
    matrix, order = simulate.matrix(WORLD, stream)
    rows = [",".join(["conversion_id", "touch_id", *features.names(features.FRAUD)])]
    for row in order:
        values = ",".join(repr(float(value)) for value in matrix[row])
        rows.append(f"c{row:06},t{stream.touch[row]:06},{values}")
    pack(golden, "features", events(stream, begin, done), rows)


def write_buyers(golden):
    conversions = list(buyers())
    rows = [",".join(["conversion_id", *features.names(features.VALUE)])]
    for event_id, row in values(conversions):
        rows.append(",".join([event_id, *(repr(float(number)) for number in row)]))
    pack(golden, "values", conversions, rows)


def pack(golden, name, stream, rows):
    lines = "".join(json.dumps(event) + "\n" for event in stream)
    golden.mkdir(parents=True, exist_ok=True)
    (golden / f"{name}.ndjson.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    (golden / f"{name}.csv.gz").write_bytes(gzip.compress(("\n".join(rows) + "\n").encode(), 9, mtime=0))


def compare(fresh, committed):
    """Fails when a committed table is not the one that the definition gives, up to its grid."""
    for name, ids in (("features", 2), ("values", 1)):
        one, other = (read(folder / f"{name}.csv.gz", ids) for folder in (fresh, committed))
        if one.keys() != other.keys():
            raise SystemExit(f"the table of {name} has other rows: write it anew with `make train`")
        for key, row in one.items():
            if not np.allclose(row, other[key], rtol=0, atol=1.01e-3):
                raise SystemExit(f"the features of {key} are {row}, committed are {other[key]}")


def read(file, ids):
    header, *lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    cells = [line.split(",") for line in lines]
    return {(header, *row[:ids]): np.array(row[ids:], float) for row in cells}
