"""What the answers to a key in its grace period say: since when it is replaced, and when it ends.

``Deprecation`` is RFC 9745 (a structured date), ``Sunset`` RFC 8594 (an HTTP date; absent while the end is open): the
end of the grace period or the key's own expiry, whichever is the earlier.
"""

from email.utils import format_datetime

from domain.verdict import KeyFacts


def grace_headers(facts: KeyFacts) -> list[tuple[bytes, bytes]]:
    """None for a key that is not being replaced."""
    if facts.replaced_by is None or facts.replaced_at is None:
        return []
    headers = [(b"deprecation", b"@%d" % facts.replaced_at.timestamp())]
    ends = [end for end in (facts.retires_at, facts.expires_at) if end is not None]
    if ends:
        headers.append((b"sunset", format_datetime(min(ends), usegmt=True).encode()))
    return headers
