"""Settings that cannot be meant refuse the start, and never widen what is allowed."""

import pytest

from interfaces.settings import SettingError, Settings


@pytest.mark.parametrize("name", ["ENVIRONMENTS", "METRICS_NETWORKS", "TRUSTED_PROXIES", "SECRET_KEYS"])
@pytest.mark.parametrize("text", [",", " , ,", " "])
def test_a_list_of_nothing_is_refused(name: str, text: str) -> None:
    """As a template leaves it whose variable is empty: it would mean all environments, or loopback."""
    with pytest.raises(SettingError, match=f"KEYLEDGER_{name}"):
        Settings.read({f"KEYLEDGER_{name}": text})


@pytest.mark.parametrize("name", ["METRICS_NETWORKS", "TRUSTED_PROXIES", "WEBHOOK_ALLOWED_NETWORKS"])
def test_a_network_of_mapped_addresses_is_the_one_that_it_stands_for(name: str) -> None:
    """Addresses are compared unmapped: as it is written it would never match."""
    mapped = Settings.read({f"KEYLEDGER_{name}": "::ffff:10.0.0.0/104"})
    assert mapped == Settings.read({f"KEYLEDGER_{name}": "10.0.0.0/8"})
    assert mapped != Settings.read({})


def test_a_number_of_any_length_is_told_by_its_bounds() -> None:
    """Also of so many digits that Python would not read it."""
    with pytest.raises(SettingError, match="KEYLEDGER_PORT must be a whole number"):
        Settings.read({"KEYLEDGER_PORT": "1" * 5_000})
