"""What is repeated is safe to repeat, and all tries together end within the time that the call has."""

import re

from objects import named, where

# The other side certainly did not take it on.
SAFE = {"connect-failure", "refused-stream"}


def seconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(ms|s|m)", text).groups()
    return float(number) * {"ms": 1e-3, "s": 1, "m": 60}[unit]


def problems(objects):
    for o in named(objects, "VirtualService"):
        for route in o["spec"]["http"]:
            if "timeout" not in route:
                yield f"{where(o)} has no timeout"
                continue
            retries = route.get("retries", {"retryOn": "what Istio repeats by default"})
            yield from (f"{where(o)} repeats after {reason}" for reason in retries["retryOn"].split(",") if reason not in SAFE)
            tries = seconds(retries.get("perTryTimeout", "0s")) * (1 + retries.get("attempts", 2))
            if tries > seconds(route["timeout"]):
                yield f"{where(o)}: all tries take {tries:g} s of {route['timeout']}"
    for o in named(objects, "DestinationRule"):
        outliers = o["spec"]["trafficPolicy"].get("outlierDetection", {})
        if "consecutive5xxErrors" not in outliers:
            yield f"{where(o)} ejects nobody"


def test_retries_are_safe(cluster):
    assert list(problems(cluster)) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "VirtualService ingestion/routes repeats after 5xx",
        "VirtualService ingestion/routes: all tries take 15 s of 10s",
        "DestinationRule ingestion/ingestion ejects nobody",
    ]
