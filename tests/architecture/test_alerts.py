"""Alerts and the dashboard speak of metrics that exist, and each alert has its runbook."""

import json
import re
from pathlib import Path

from infrastructure.postgres.metrics import HELP

OPS = Path(__file__).parents[2] / "ops"
ALERTS = (OPS / "alerts.yaml").read_text(encoding="utf-8")
DASHBOARD = json.loads((OPS / "dashboard.json").read_text(encoding="utf-8"))
NAME = re.compile(r"keyledger_\w+")
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
