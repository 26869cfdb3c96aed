"""Every name in the cluster's DNS is of a Service, ours or one that an operator makes, and the port is one of its own."""

import re

from objects import services, strings, where

HOST = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?(?::(\d+))?(?![a-z0-9.-])")


def problems(objects):
    known = services(objects)
    for o in objects:
        for text in strings(o):
            for service, namespace, port in HOST.findall(text):
                if (namespace, service) == ("default", "kubernetes"):
                    continue
                if (namespace, service) not in known:
                    yield f"{where(o)}: nobody serves {service}.{namespace}"
                elif port and int(port) not in known[namespace, service]:
                    yield f"{where(o)}: {service}.{namespace} has no port {port}"


def test_every_name_is_served(overlay):
    assert sorted(set(problems(overlay))) == []


def test_the_bad_is_rejected(bad):
    assert list(problems(bad)) == [
        "ConfigMap api/web: nobody serves kafka-0.databases",
        "ConfigMap api/web: attribution-kafka-bootstrap.databases has no port 9092",
    ]
