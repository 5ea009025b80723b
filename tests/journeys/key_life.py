"""A key's life as the HTTP contract has it, as a model without a database: what each call answers, and what shows then.

Written from the contract and not from the code. An instant that the service decides by its own clock (an expiry, the
end of a grace period) is known to the model as well as two clocks agree: near it, either answer is right.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

CLOCKS_AGREE = timedelta(milliseconds=400)
CLIENT_IP = "127.0.0.1"
STATUS_OF_CODE = {"VALID": 200, "INSUFFICIENT_SCOPE": 403, "FORBIDDEN_IP": 403}
"""Of a use with the key itself; every other code is the one 401."""
ENDED = {"revoked", "expired"}


@dataclass(frozen=True, slots=True)
class Span:
    """A call was made between these instants, of the test's clock."""

    began: datetime
    ended: datetime

    @property
    def edges(self) -> tuple[datetime, datetime]:
        """The earliest and the latest instant at which the service may have looked at its clock."""
        return self.began - CLOCKS_AGREE, self.ended + CLOCKS_AGREE

    def holds(self, at: datetime | None, after: timedelta = timedelta()) -> bool:
        """Whether ``at`` is so long after the call."""
        first, last = self.edges
        return at is not None and first <= at - after <= last


@dataclass(eq=False, slots=True)
class Key:
    """One key as it must be."""

    id: str
    secret: str = field(repr=False)
    name: str
    environment: str
    scopes: list[str] | None
    networks: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    lineage_id: str
    replaces: str | None = None
    replaced_by: "Key | None" = None
    retires_at: datetime | None = None
    waiting_grace: timedelta | None = None
    """The grace period that begins with the successor's first use, until it is seen to have begun."""
    disabled: bool = False
    revoked: bool = False
    requests: int = 0
    failed: int = 0
    first_use: Span | None = None
    last_use: Span | None = None
    events: list[str] = field(default_factory=lambda: ["key.created"])

    @property
    def next_end(self) -> datetime | None:
        """The instant at which the clock alone ends it; None when none is known, or it has ended."""
        ends = [end for end in (self.expires_at, self.retires_at) if end is not None]
        return None if self.revoked or not ends else min(ends)


class Model:
    """The contract. Each method is one thing that it says; a wrong model overrides one of them."""

    def status(self, key: Key, now: datetime) -> str:
        """What a listing shows."""
        if key.revoked or (key.retires_at is not None and now >= key.retires_at):
            return "revoked"
        if key.expires_at is not None and now >= key.expires_at:
            return "expired"
        if key.disabled:
            return "disabled"
        return "active" if key.replaced_by is None else "rotating"

    def code(
        self, key: Key, now: datetime, *, scopes: list[str], ip: str | None, environment: str | None = None
    ) -> str:
        """What `/api/verify` answers; a use with the key follows from it."""
        ended = {"revoked": "REVOKED", "expired": "EXPIRED", "disabled": "REVOKED"}.get(self.status(key, now))
        if ended:
            return ended
        if environment not in {None, key.environment}:
            return "WRONG_ENVIRONMENT"
        if key.networks is not None and not self.is_inside(ip, key.networks):
            return "FORBIDDEN_IP"
        if key.scopes is not None and not all(self.allows(key.scopes, scope) for scope in scopes):
            return "INSUFFICIENT_SCOPE"
        return "VALID"

    def is_inside(self, ip: str | None, networks: list[str]) -> bool:
        """Whether a client at that address may use a key that is held to these networks."""
        return ip is not None and any(ip_address(ip) in ip_network(network) for network in networks)

    def allows(self, scopes: list[str], asked: str) -> bool:
        """Whether a key with these scopes has this one."""
        return asked in scopes or f"{asked.partition(':')[0]}:*" in scopes

    def count(self, key: Key, code: str, span: Span) -> None:
        """A use that was accepted is a request, any other presentation of its id a failed attempt."""
        if code == "VALID":
            key.requests += 1
            key.first_use = key.first_use or span
            key.last_use = span
        else:
            key.failed += 1

    def can_change(self, key: Key, now: datetime) -> bool:
        """Whether its name, scopes and networks, and being disabled, can be changed."""
        return self.status(key, now) not in ENDED

    def can_rotate(self, key: Key, now: datetime) -> bool:
        """Whether it can have a successor, or another one in place of one that nobody saw."""
        successor = self.living_successor(key, now)
        replaceable = successor is None or (
            successor is key.replaced_by and successor.replaced_by is None and not successor.requests
        )
        return self.status(key, now) in {"active", "rotating"} and replaceable

    def living_successor(self, key: Key, now: datetime) -> Key | None:
        """The next key of the lineage that has not ended."""
        successor = key.replaced_by
        while successor is not None and self.status(successor, now) in ENDED:
            successor = successor.replaced_by
        return successor

    def change(self, key: Key, asked: dict[str, Any]) -> None:
        """A PATCH was answered 200; what is as it was is no event."""
        for name, attribute, event in (
            ("name", "name", "key.renamed"),
            ("scopes", "scopes", "key.rescoped"),
            ("allowed_ips", "networks", "key.networks_changed"),
        ):
            if name in asked and asked[name] != getattr(key, attribute):
                setattr(key, attribute, asked[name])
                key.events.append(event)

    def disable(self, key: Key, *, disabled: bool) -> None:
        """Disabled, or enabled."""
        if key.disabled != disabled:
            key.disabled = disabled
            key.events.append("key.disabled" if disabled else "key.enabled")

    def revoke(self, key: Key) -> None:
        """Revoked; again changes nothing."""
        if not key.revoked:
            key.revoked = True
            key.events.append("key.revoked")

    def rotate(self, key: Key, successor: Key, *, grace: timedelta, from_first_use: bool) -> None:
        """The successor was made; an unseen one before it ends, and so does the key itself without grace."""
        if key.replaced_by is not None and self.status(key.replaced_by, successor.created_at) not in ENDED:
            self.revoke(key.replaced_by)
        key.replaced_by = successor
        key.events.append("key.rotated")
        if not grace:
            self.revoke(key)
        key.waiting_grace = grace if grace and from_first_use and key.retires_at is None else None

    def end_of_grace_is_right(self, key: Key, told: datetime | None, span: Span, grace: timedelta) -> bool:
        """Whether, after a rotation at ``span`` that did not wait for a use, the key may retire at ``told``."""
        before = key.retires_at
        nearer = [end for end in (before, key.expires_at) if end is not None and end <= span.edges[1] + grace]
        return told in nearer or span.holds(told, grace)

    def complaint(self, key: Key, body: dict[str, Any], span: Span) -> str | None:
        """What is wrong with the key's body, told within ``span``; None when nothing is."""
        self.begin_grace(key, time_of(body["retires_at"]))
        exact = {
            "id": key.id,
            "name": key.name,
            "environment": key.environment,
            "prefix": key.secret[: len(key.secret) - 43 - 1],
            "scopes": key.scopes,
            "allowed_ips": key.networks,
            "expires_at": key.expires_at,
            "request_count": key.requests,
            "failed_attempts": key.failed,
            "lineage_id": key.lineage_id,
            "replaces": key.replaces,
            "replaced_by": key.replaced_by and key.replaced_by.id,
            "retires_at": key.retires_at,
        }
        told = body | {name: time_of(body[name]) for name in ("expires_at", "retires_at")}
        wrong = [f"{name}: {told[name]!r} is not {value!r}" for name, value in exact.items() if told[name] != value]
        if body["status"] not in {self.status(key, edge) for edge in span.edges}:
            wrong.append(f"status: {body['status']} of {key}")
        if (body["revoked_at"] is not None) != (body["status"] == "revoked"):
            wrong.append(f"revoked_at: {body['revoked_at']} with {body['status']}")
        last = time_of(body["last_used_at"])
        if not (key.last_use.holds(last) if key.last_use else last is None):
            wrong.append(f"last_used_at: {last} for a use at {key.last_use}")
        if time_of(body["rotation_due_at"]) != (time_of(body["created_at"]) or span.began) + timedelta(days=90):
            wrong.append("rotation_due_at: not 90 days after created_at")
        return "; ".join(wrong) or None

    def begin_grace(self, key: Key, told: datetime | None) -> None:
        """A grace period that waited begins soon after the successor's first use, and goes up to the expiry at most."""
        use = key.replaced_by.first_use if key.replaced_by else None
        is_capped = told is not None and told == key.expires_at
        if key.waiting_grace and use and (is_capped or use.holds(told, key.waiting_grace)):
            key.retires_at, key.waiting_grace = told, None


def time_of(text: str | None) -> datetime | None:
    """A time of the contract."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def replayed(history: list[dict[str, Any]]) -> dict[str, Any]:
    """What a listing must show of a key with this history, but for its status and counts."""
    first = history[0]
    assert first["type"] == "key.created"
    own = ("name", "environment", "prefix", "scopes", "allowed_ips", "expires_at", "rotation_due_at", "lineage_id")
    shown = {name: first["data"][name] for name in (*own, "replaces")}
    shown |= {"created_at": first["occurred_at"], "replaced_by": None, "retires_at": None, "revoked_at": None}
    for event in history[1:]:
        data = event["data"]
        match event["type"]:
            case "key.renamed":
                shown["name"] = data["name"]
            case "key.rescoped":
                shown["scopes"] = data["scopes"]
            case "key.networks_changed":
                shown["allowed_ips"] = data["allowed_ips"]
            case "key.rotated":
                shown |= {"replaced_by": data["successor_id"], "retires_at": data["retires_at"]}
            case "key.grace_began":
                shown["retires_at"] = data["retires_at"]
            case "key.revoked":
                # Of a key that its grace period has ended the event follows; it ended then.
                shown["revoked_at"] = min(
                    event["occurred_at"], shown["retires_at"] or event["occurred_at"], key=time_of
                )
            case _:  # disabled, enabled, expired: its status; used: its counts; the rest are facts about others
                pass
    return shown
