#!/usr/bin/env python3
"""Shows who answered, and fails if it is not as expected.

Reads what `causeway lab workload request -o json` printed from standard input.

    answers.py REQUESTS CLUSTER[,CLUSTER...] [PODS]

Expected: REQUESTS requests, every one answered, by pods of exactly these clusters, PODS pods in all (0 or none =
any number). Prints a table; what differs goes to standard error, one line each, with exit status 1.
With --quiet in front only the status is given: for waiting.
"""

import json
import sys

WIDTH = 40


def main() -> int:
    args = sys.argv[1:]
    quiet = args[:1] == ["--quiet"]
    args = args[quiet:]
    requests, clusters = int(args[0]), args[1].split(",")
    pods = int(args[2]) if len(args) > 2 else 0
    text = sys.stdin.read()
    try:
        seen = json.loads(text)
    except ValueError:
        if not quiet:
            print(f"expected counts as JSON, got: {text.strip() or 'nothing'}", file=sys.stderr)
        return 1
    if not quiet:
        table(seen)
    wrong = list(differences(seen, requests, clusters, pods))
    if not quiet:
        sys.stdout.flush()
        for line in wrong:
            print(line, file=sys.stderr)
    return 1 if wrong else 0


def table(seen: dict) -> None:
    most = max(seen["pods"].values(), default=1)
    print(f"{seen['requests']} requests, {seen['answered']} answered, {seen['failed']} failed")
    for cluster, count in sorted(seen["clusters"].items()):
        print(f"  {cluster or '(a server that gave no name)':<38}{count:>5}")
        own = cluster + "/"
        for pod, n in sorted(seen["pods"].items()):
            if pod.startswith(own):
                print(f"    {pod[len(own):]:<36}{n:>5}  {'#' * max(1, n * WIDTH // most)}")
    for error, n in sorted(seen["errors"].items()):
        print(f"  failed: {error:<30}{n:>5}")


def differences(seen: dict, requests: int, clusters: list[str], pods: int):
    if seen["requests"] != requests or seen["answered"] != requests:
        yield f"expected {requests} of {requests} answered, saw {seen['answered']} of {seen['requests']}"
    got = sorted(seen["clusters"])
    if got != sorted(clusters):
        yield f"expected answers from {', '.join(sorted(clusters))}, saw them from {', '.join(got) or 'nobody'}"
    if pods and len(seen["pods"]) != pods:
        yield f"expected {pods} pods to answer, saw {len(seen['pods'])}"


if __name__ == "__main__":
    sys.exit(main())
