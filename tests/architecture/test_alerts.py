"""Alerts and the dashboard speak of metrics that exist, and each alert has its runbook."""

import json
import re
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from infrastructure.metrics import Metrics
from infrastructure.postgres.metrics import HELP
from interfaces.bootstrap import jobs, open_core
from interfaces.http.gate import ROWS_BEHIND_MAX
from interfaces.http.health import health_router
from interfaces.http.server import CONNECTIONS_MAX
from interfaces.settings import Settings

OPS = Path(__file__).parents[2] / "ops"
ALERTS = (OPS / "alerts.yaml").read_text(encoding="utf-8")
DASHBOARD = json.loads((OPS / "dashboard.json").read_text(encoding="utf-8"))
ARM = re.compile(r'(?:task=~"([^"]+)")?\}\[(\d+)([mh])\]\)\) > ([\d.]+)')
NAME = re.compile(r"keyledger_\w+")
GROUPED = re.compile(r"by \(([^)]+)\)")
MATCHED = re.compile(r'(\w+)!?[=~]+"')
READINESS = "/health/ready"
GIVEN_BY_PROMETHEUS = {"job", "instance"}
SERIES = {
    name + suffix
    for name, (kind, _) in HELP.items()
    for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
}


def test_each_alert_has_its_runbook_and_no_runbook_is_left_over() -> None:
    """The rule names the file that is called as it is, and the file states the rule's expression."""
    names = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)
    assert re.findall(r"^ +runbook: (.+)$", ALERTS, re.MULTILINE) == [f"ops/runbooks/{name}.md" for name in names]
    assert {path.stem for path in (OPS / "runbooks").iterdir()} == set(names)
    expressions = re.findall(r"^ +expr: '(.+)'$", ALERTS, re.MULTILINE)
    for name, expression in zip(names, expressions, strict=True):
        assert f"`{expression}`" in (OPS / "runbooks" / f"{name}.md").read_text(encoding="utf-8")


def test_alerts_and_dashboard_ask_for_series_that_are_told() -> None:
    """Every name in an expression is one of `/metrics`, and every metric is on the dashboard."""
    asked = {
        name for panel in DASHBOARD["panels"] for target in panel["targets"] for name in NAME.findall(target["expr"])
    }
    assert asked <= SERIES
    assert {name.removesuffix("_bucket") for name in asked} == set(HELP)
    assert set(NAME.findall(ALERTS)) <= SERIES


def labels_told() -> set[str]:
    """The labels of every metric that has any."""
    metrics = Metrics()
    metrics.count_requests("/api/keys", 200, "ok", [1.0])
    metrics.count_job("settlement", "done", 1.0)
    metrics.count_delivery("webhook", "delivered", 1.0)
    metrics.count_wait(1.0)
    return {label for series in metrics.counters() for label in MATCHED.findall(series)}


def test_no_label_is_one_that_prometheus_gives_itself() -> None:
    """A scrape would keep its own, and ours as ``exported_…``, which no expression asks for."""
    assert labels_told() == {"route", "status", "outcome", "le", "task", "result", "channel"}
    assert not labels_told() & GIVEN_BY_PROMETHEUS


def asked_of_ours() -> list[str]:
    """Every expression of an alert or a panel but the one of `up`, which is no metric of ours."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return asked + re.findall(r"expr: '(?!up\{)(.+)'", ALERTS)


def test_no_number_grows_with_the_targets_that_are_scraped() -> None:
    """Each tells the whole service: what is added up is of one target, and only a quantile is the same of all."""
    for expression in asked_of_ours():
        for arm in expression.split(" or "):
            assert re.match(r"(max|min)[ (]|histogram_quantile\(", arm), expression
            if not arm.startswith("histogram_quantile("):
                assert re.findall(r"\bsum\b", arm) == re.findall(r"\bsum(?= by \(instance\b)", arm), expression


def test_alerts_and_dashboard_ask_for_labels_that_are_told() -> None:
    """Of those that Prometheus gives, for the target alone."""
    told = labels_told() | {"instance", "__name__"}
    for expression in asked_of_ours():
        grouped = {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")}
        assert grouped | set(MATCHED.findall(expression)) <= told, expression


def test_one_answer_of_503_and_the_probes_of_a_start_page_nobody() -> None:
    """A rate is above zero as long as one request is in its window, which must be over before the alert fires."""
    ((expression, minutes),) = re.findall(r"expr: '(.+=\"503\".+)'\n +for: (\d+)m", ALERTS)
    (window,) = re.findall(r"\[(\d+)m\]", expression)
    assert int(window) < int(minutes)
    assert f'route!="{READINESS}"' in expression
    assert [route.path for route in health_router().routes if route.path.endswith("/ready")] == [READINESS]


def test_every_job_runs_often_enough_for_the_alert_that_it_fails(conninfo: str) -> None:
    """In the time that an arm looks back on, each job that it is about has more runs than have to fail."""
    (expression,) = (each for each in re.findall(r"expr: '(.+)'", ALERTS) if "keyledger_job_runs_total" in each)
    settings = Settings(database_url=conninfo, secret_keys=("0" * 64,), database_connections=2)
    with ExitStack() as stack:
        every = {name: job.every for name, job in jobs(open_core(settings, conninfo, stack)).items()}
    told: set[str] = set()
    for names, count, unit, failures in ARM.findall(expression):
        window = int(count) * {"m": timedelta(minutes=1), "h": timedelta(hours=1)}[unit]
        about = set(names.split("|")) if names else set(every)
        assert about <= set(every)
        told |= {name for name in about if window // every[name] > float(failures)}
    assert told == set(every)


def test_as_many_rows_wait_as_the_alert_is_about_before_anything_bounds_them() -> None:
    """Buffered, more wait before their callers are slowed; else, half of the requests that can be under way suffice."""
    (threshold,) = re.findall(r"expr: 'max\(keyledger_access_log_queue_rows\) > (\d+)'", ALERTS)
    assert int(threshold) < ROWS_BEHIND_MAX
    assert int(threshold) <= CONNECTIONS_MAX // 2, "the batch that is being written is not among those that wait"
