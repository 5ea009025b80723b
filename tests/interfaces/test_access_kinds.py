"""The kinds of access rows that are remembered: those of known keys, and nothing that anybody can make up."""

from application.authentication import Authentication
from domain.verdict import Verdict
from interfaces.http.gate import AccessKinds
from tests.kit.builders import key_id
from tests.kit.verified import facts


def test_the_rows_of_a_known_key_share_their_kind() -> None:
    """Accepted or refused."""
    kinds = AccessKinds()
    for verdict in (Verdict.OK, Verdict.REVOKED):
        known = Authentication(verdict, facts(), key_id(1), "hash")
        kind = kinds.of(known, "GET", "/api/keys", 200, "192.0.2.7")
        assert kinds.of(known, "GET", "/api/keys", 200, "192.0.2.7") is kind


def test_an_unknown_key_leaves_nothing_in_memory() -> None:
    """Each of its rows is made anew, as if there had been none; so is one with a credential in its path."""
    kinds = AccessKinds()
    unknown = Authentication(Verdict.FORGED, None, key_id(1), "hash")
    kind = kinds.of(unknown, "GET", "/api/keys", 401, "192.0.2.7")
    assert kinds.of(unknown, "GET", "/api/keys", 401, "192.0.2.7") is not kind
    known, path = (
        Authentication(Verdict.OK, facts(), key_id(1), "hash"),
        "/api/keys/sk_live_7Hq2mB9xT_" + "Z9yX8wV7" * 5,
    )
    kind = kinds.of(known, "GET", path, 200, "192.0.2.7")
    assert kinds.of(known, "GET", path, 200, "192.0.2.7") is not kind
