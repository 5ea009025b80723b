"""Whose root secrets a database knows, and what a process with others is told."""

from contextlib import ExitStack

import pytest

from infrastructure.hashing import SecretRing
from infrastructure.postgres.pool import Database
from infrastructure.postgres.root_secrets import PostgresRootSecrets
from interfaces.bootstrap import open_core
from interfaces.settings import SettingError, Settings

OLD, NEW, OTHER = "01" * 32, "02" * 32, "03" * 32


def open_with(conninfo: str, *secrets: str) -> None:
    """Opens the parts of a process with these secrets, newest first."""
    with ExitStack() as stack:
        open_core(Settings(database_url=conninfo, secret_keys=secrets, database_connections=1), conninfo, stack)


def test_a_process_with_other_root_secrets_does_not_start(conninfo: str, database: Database) -> None:
    """The first are taken as they come, a new one beside a known one; then either will do, and a third will not."""
    assert not PostgresRootSecrets(database).are_known()
    open_with(conninfo, OLD)
    assert PostgresRootSecrets(database).are_known()
    with pytest.raises(SettingError, match=r"^KEYLEDGER_SECRET_KEYS: .* under other root secrets$"):
        open_with(conninfo, OTHER)
    with pytest.raises(SettingError):
        open_with(conninfo, NEW)
    open_with(conninfo, NEW, OLD)
    open_with(conninfo, NEW)
    open_with(conninfo, OLD)
    with pytest.raises(SettingError):
        open_with(conninfo, OTHER)


def test_a_fingerprint_is_the_same_for_the_same_secret_and_holds_nothing_of_it() -> None:
    """One for each, in order; 32 hex characters."""
    [new, old] = SecretRing.from_texts([NEW, OLD]).fingerprints
    assert SecretRing.from_texts([OLD]).fingerprints == [old]
    assert new != old
    assert len(bytes.fromhex(new)) == 16
    assert new not in NEW
