"""Which paths of a host need a key, and of what kind; a path counts as protected when any reading of it is.

Frameworks read one path differently: Litestar collapses slashes and cuts `root_path` out wherever it stands, Starlette
only takes it off the front, its static files follow dots. What one of them serves as a protected path must not pass as
another one here.
"""

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from application.authentication import Need
from domain.access import Scope


class ProtectedPaths:
    """``protect``: prefixes, each for its path and all below. ``needs``: by prefix the scope; the longest counts.

    ValueError for what is not the beginning of a path, for a scope that does not exist, and for one that is asked where
    no key is.
    """

    def __init__(self, protect: Sequence[str], needs: Mapping[str, str]) -> None:
        for prefix in (*protect, *needs):
            if not prefix.startswith("/"):
                raise ValueError(f"{prefix!r} is not the beginning of a path")
        bare = [_read(prefix) for prefix in protect]
        asked = sorted(((_read(prefix), scope) for prefix, scope in needs.items()), key=_length, reverse=True)
        for door, _ in asked:
            if not any(_is_under(door, each) for each in bare):
                raise ValueError(f"{door!r} needs a scope and is not protected")
        self._doors = [(door, Need(scope=Scope.parse(scope))) for door, scope in asked]
        self._doors += [(door, Need()) for door in bare]

    def need(self, path: str, root_path: str) -> Need | None:
        """What that path asks of a key; None when it is not protected."""
        readings = _readings(path, root_path)
        for door, need in self._doors:
            if any(_is_under(reading, door) for reading in readings):
                return need
        return None


def _length(entry: tuple[str, Any]) -> int:
    return len(entry[0])


def _readings(path: str, root_path: str) -> Sequence[str]:
    if not root_path and path.startswith("/") and "//" not in path and "/." not in path:
        return (path.rstrip("/"),)
    mounted = [path, path.partition(root_path)[2]] if root_path and root_path in path else [path]
    named = [_read(each) for each in mounted]
    return [*named, *(posixpath.normpath(each or "/") for each in named)]


def _read(path: str) -> str:
    """With one slash before each name and none at the end, dots as names; "" is the root."""
    return "".join(f"/{name}" for name in path.split("/") if name not in {"", "."})


def _is_under(path: str, door: str) -> bool:
    return not door or path == door or path.startswith(f"{door}/")
