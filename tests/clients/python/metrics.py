"""The strict parser of prometheus_client reads /metrics in the form of OpenMetrics: metrics.py HTTP_ADDRESS."""

import asyncio
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tally import tally


def read(accept):
    request = urllib.request.Request(f"http://{sys.argv[1]}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def open_metrics():
    content_type, text = read("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text"), content_type
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = {(one.name, *sorted(one.labels.items())): one.value for family in families.values() for one in family.samples}
    assert families["hatokuse_requests"].type == "counter" and families["hatokuse_request_duration_seconds"].type == "histogram"
    assert samples[("hatokuse_ready",)] == 1
    assert samples[("hatokuse_requests_total", ("op", "write"), ("protocol", "resp"), ("result", "ok"))] > 0


sys.exit(asyncio.run(tally("prometheus_client", "prometheus_client", [open_metrics])))
