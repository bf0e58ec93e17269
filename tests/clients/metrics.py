"""Reads a page of metrics from standard input as Prometheus' library does, and prints its samples as JSON."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

page = sys.stdin.read()
on_page = {line.split(" ")[0].split("{")[0] for line in page.splitlines() if not line.startswith("#")}
seen = set()
samples = []
for family in text_string_to_metric_families(page):
    assert family.name not in seen, f"{family.name} comes twice"
    assert family.documentation and family.type != "unknown", f"{family.name} has no head"
    seen.add(family.name)
    for sample in family.samples:
        # The library gives every counter the suffix that the later format asks for.
        name = sample.name if sample.name in on_page else sample.name.removesuffix("_total")
        assert name in on_page, name
        samples.append([family.type, name, sample.labels, sample.value])
json.dump(samples, sys.stdout)
