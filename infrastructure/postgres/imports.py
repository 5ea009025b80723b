"""The imported keys in the vault, asked for before more are imported."""

from collections.abc import Sequence

from application.ports import ImportedRow
from domain.ids import AccountId, KeyId
from infrastructure.postgres.pool import Database


class PostgresImports:
    """The port `Imports`."""

    # Four indexes, one for each way; the unique constraints behind them decide when two imports run at once.
    LIKE = """
        SELECT i.key_id, i.account_id, i.external_id, i.lookup_prefix, i.candidate, v.verifier
        FROM credentials.imports AS i JOIN credentials.verifiers AS v ON v.key_id = i.key_id
        WHERE i.sha256 = ANY(%(digests)s)
           OR i.bcrypt = ANY(%(hashes)s)
           OR (i.lookup_prefix = ANY(%(prefixes)s) AND i.candidate IS NOT NULL)
           OR (i.account_id = %(account_id)s AND i.external_id = ANY(%(external_ids)s))
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def like(
        self,
        account_id: AccountId,
        *,
        digests: Sequence[bytes],
        hashes: Sequence[str],
        prefixes: Sequence[str],
        external_ids: Sequence[str],
    ) -> Sequence[ImportedRow]:
        """Whatever has one of the digests or bcrypt hashes, such a hash and a prefix, or one of the account's ids."""
        parameters = {
            "account_id": account_id,
            "digests": list(digests),
            "hashes": list(hashes),
            "prefixes": list(prefixes),
            "external_ids": list(external_ids),
        }
        with self._database.cursor() as cursor:
            rows = cursor.execute(self.LIKE, parameters).fetchall()
        return [
            ImportedRow(KeyId(key_id), AccountId(owner), external_id, prefix, candidate, verifier)
            for key_id, owner, external_id, prefix, candidate, verifier in rows
        ]
