"""Of the objects on standard input those of some kinds: `choose.py only Namespace`, `choose.py without Kafka,RedisCluster`."""

import re
import sys

how, kinds = sys.argv[1], set(sys.argv[2].split(","))
for document in sys.stdin.read().split("\n---\n"):
    if (re.search(r"^kind: (\w+)$", document, re.M)[1] in kinds) == (how == "only"):
        print("---", document, sep="\n")
