"""Which paths of a host need a key: no spelling that a framework takes for a protected path is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from interfaces.http.protected import ProtectedPaths

READINGS: list[tuple[Mapping[str, str], bool]] = [
    ({"path": "/api"}, True),
    ({"path": "/api/"}, True),
    ({"path": "/api/x"}, True),
    ({"path": "/apix"}, False),
    ({"path": "/"}, False),
    ({"path": "/x/api/y"}, False),
    ({"path": "//api//x"}, True),
    ({"path": "/./api/x"}, True),
    ({"path": "/x/../api/y"}, True),
    ({"path": "/api/../x"}, True),
    ({"path": "/../api"}, True),
    ({"path": "api/x"}, True),
    ({"path": "/svc/api/x", "root_path": "/svc"}, True),
    ({"path": "/api/x", "root_path": "/svc"}, True),
    ({"path": "/y/svc/api/x", "root_path": "/svc"}, True),
    ({"path": "/svc/x", "root_path": "/svc"}, False),
    ({"path": "/svc", "root_path": "/svc"}, False),
]


@pytest.mark.parametrize(("asked", "is_protected"), READINGS, ids=str)
def test_a_path_is_protected_when_any_framework_would_read_it_so(asked: Mapping[str, str], is_protected: bool) -> None:
    """Below the prefix, in each way in which one of the frameworks routes; its neighbours are open."""
    paths = ProtectedPaths(("/api/",), {})
    assert (paths.need(asked["path"], asked.get("root_path", "")) is not None) is is_protected


def test_the_longest_prefix_says_which_scope() -> None:
    """Whatever the order they are written in."""
    needs = {"/api": "usage:read", "/api/reports/x": "keys:read", "/api/reports": "campaigns:read"}
    paths = ProtectedPaths(("/",), needs)
    asked = [paths.need(path, "") for path in ("/a", "/api/y", "/api/reports", "/api/reports/x/y")]
    assert [need and need.scope for need in asked] == [None, "usage:read", "campaigns:read", "keys:read"]
    assert None not in asked


@pytest.mark.parametrize(
    ("protect", "needs"),
    [(("/api",), {"/apix": "keys:read"}), (("/api",), {"/api": "keys:reed"}), (("api",), {}), ("/api", {})],
)
def test_what_would_leave_a_path_open_by_mistake_is_refused(protect: Sequence[str], needs: Mapping[str, str]) -> None:
    """A scope where no key is asked for, a scope that does not exist, a bare word, one text in place of several."""
    with pytest.raises(ValueError, match=r"path|protected|scope"):
        ProtectedPaths(protect, needs)
