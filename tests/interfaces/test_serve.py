"""How `keyledger serve` starts its processes again, and what it does not start with."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interfaces.cli.exits import Exit
from interfaces.serve import PAUSE_SECONDS_MAX, QUICK_END_SECONDS, QuickEnds
from interfaces.settings import SettingError, Settings


def test_pauses_grow_with_quick_ends_and_are_bounded() -> None:
    """1, 2, 4, 8, 16, then half a minute for ever; a life of its length begins anew."""
    ends = QuickEnds()
    pauses: list[int] = []
    for _ in range(8):
        ends.add(0.5)
        pauses.append(ends.pause_seconds)
    assert pauses == [1, 2, 4, 8, 16, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX]
    ends.add(QUICK_END_SECONDS)
    assert ends.pause_seconds == 0
    ends.add(0.5)
    assert ends.pause_seconds == 1


@pytest.mark.parametrize("host", ["localhost", "nohost", "127.0.0.1 ", "127.0.0.256", "[::1]", "fe80::1%lo", "::1/128"])
def test_a_host_that_is_no_address_refuses_the_start(host: str) -> None:
    """By its setting's name."""
    with pytest.raises(SettingError, match=r"^KEYLEDGER_HOST must be an IPv4 or IPv6 address"):
        Settings.read({"KEYLEDGER_HOST": host})


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")],
)
def test_an_address_is_listened_on(host: str, url: str) -> None:
    """IPv4 or IPv6; in a URL the latter has its brackets (RFC 3986, section 3.2.2)."""
    settings = Settings.read({"KEYLEDGER_HOST": host})
    assert settings.host == host
    assert settings.own_url == url


def test_an_address_that_this_machine_does_not_have_is_told_as_that(tmp_path: Path) -> None:
    """The system's own reason, and nothing is started; 192.0.2.0/24 is nobody's (RFC 5737)."""
    done = subprocess.run(
        [Path(sys.executable).with_name("keyledger"), "serve"],
        env=os.environ | {"KEYLEDGER_HOST": "192.0.2.1", "KEYLEDGER_DATA_DIR": str(tmp_path / "data")},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    reason = os.strerror(errno.EADDRNOTAVAIL)
    said = f"keyledger: 192.0.2.1:8000 cannot be listened on: {reason} (KEYLEDGER_HOST, KEYLEDGER_PORT)\n"
    assert (done.returncode, done.stderr) == (Exit.UNAVAILABLE, said)
    assert not (tmp_path / "data").exists()
