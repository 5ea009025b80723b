"""The words of each notice: what happened, and what to do next. Plain text; how it is laid out is another's work.

Whatever somebody else chose (a name, a note, an address) passes `shown`; command lines hold ids alone, so that they
can be pasted without a thought.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from application.notices import Notice
from domain.naming import NOTE_CHARACTERS_MAX, shown
from domain.notices import NoticeKind

SUSPENDED = "suspended"
"""The detail of a notice that says whether its account was suspended when it was made."""

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Words:
    """``lead`` says what happened, ``advice`` what to do next, ``commands`` how at the command line."""

    subject: str
    lead: str
    facts: Facts
    advice: str
    commands: tuple[str, ...]


def words_of(notice: Notice) -> Words:
    """The words of a notice."""
    return _WORDS[notice.kind](notice)


def _key_created(notice: Notice) -> Words:
    replaces = notice.details.get("replaces")
    lead = "A new API key was created in your account."
    if replaces:
        lead = f"A new API key was created in your account, to take the place of {shown(replaces)}."
    return Words(
        subject=f"New API key {_known_as(notice)}",
        lead=lead,
        facts=_facts(notice, "Created", "expires_at"),
        advice="If you expected this, there is nothing to do. If not, somebody else manages your keys: revoke it now.",
        commands=(f"keyledger key revoke {notice.thing_id} --reason compromised",),
    )


def _rotation_due(notice: Notice) -> Words:
    return Words(
        subject=f"Time to rotate API key {_known_as(notice)}",
        lead=f"This API key has reached the age at which it is to be rotated. {_goes_on(notice)}",
        facts=_facts(notice, "Due", "due_at"),
        advice=(
            "Create its successor and put that in its place. The old key stays accepted meanwhile, and is retired when"
            " it has fallen silent or its grace period is over."
        ),
        commands=_to_rotate(notice),
    )


def _rotation_reminder(notice: Notice) -> Words:
    days = notice.details.get("days", "")
    since = f"for {shown(days)} days" if days else "for some time"
    return Words(
        subject=f"Still to be rotated: API key {_known_as(notice)}",
        lead=f"This API key has been due for rotation {since}. {_goes_on(notice)}",
        facts=_facts(notice, "Reminded", "due_at"),
        advice="Create its successor and put that in its place.",
        commands=_to_rotate(notice),
    )


def _retiring_soon(notice: Notice) -> Words:
    needed = "Its successor is in use, and something still uses this one, too."
    advice = "Find what still uses it, and give that the successor; or put the end off."
    to_replace: tuple[str, ...] = ()
    if not notice.details.get("successor_id"):
        needed = "Its successor was revoked, so no key takes its place."
        advice = (
            "If something needs a key still, create another successor and put that in its place; or put the end off."
        )
        to_replace = _to_rotate(notice)
    elif notice.details.get("successor_used") == "False":
        needed = "Its successor has not been used yet."
    return Words(
        subject=f"API key {_known_as(notice)} retires soon and is still needed",
        lead=f"This API key will soon be refused. {needed}",
        facts=_facts(notice, "Noticed", "retires_at", "last_used_at", "successor_id"),
        advice=advice,
        commands=(
            f"keyledger logs --key {notice.thing_id}",
            *to_replace,
            f"keyledger key extend {notice.thing_id} --grace-seconds 604800",
        ),
    )


def _retired(notice: Notice) -> Words:
    lead = "This API key was replaced by its successor and is refused from now on. Its rotation is complete."
    advice = "There is nothing to do. Should something have been forgotten, its refused requests show where it is."
    if not notice.details.get("successor_id"):
        lead = "This API key is refused from now on. Its successor was revoked, so no key has taken its place."
        advice = "If something needs a key still, create a new one: the refused requests show where that is."
    return Words(
        subject=f"API key {_known_as(notice)} is retired",
        lead=lead,
        facts=_facts(notice, "Retired", "successor_id"),
        advice=advice,
        commands=(f"keyledger logs --key {notice.thing_id} --status 4xx",),
    )


def _expiring(notice: Notice) -> Words:
    return Words(
        subject=f"API key {_known_as(notice)} expires soon",
        lead="This API key reaches the end of its life and is refused from then on.",
        facts=_facts(notice, "Noticed", "expires_at"),
        advice=(
            "If it is still needed, create its successor in time and put that in its place. The successor lives as long"
            " as this key from its making."
        ),
        commands=(f"keyledger usage {notice.thing_id}", *_to_rotate(notice)),
    )


def _revoked(notice: Notice) -> Words:
    return Words(
        subject=f"API key {_known_as(notice)} was revoked",
        lead="This API key was revoked. It is refused everywhere, and cannot be brought back.",
        facts=_facts(notice, "Revoked", "reason", "note"),
        advice="Whatever still uses it is refused. Its history tells who revoked it, in which request.",
        commands=(f"keyledger key history {notice.thing_id}",),
    )


def _compromised(notice: Notice) -> Words:
    return Words(
        subject=f"API key {_known_as(notice)} was revoked as compromised",
        lead="This API key was revoked because somebody else may hold it. It is refused everywhere from now on.",
        facts=_facts(notice, "Revoked", "reason", "note"),
        advice="Read what was done with it before, and give whatever needs one a new key.",
        commands=(f"keyledger logs --key {notice.thing_id}", f"keyledger key history {notice.thing_id}"),
    )


def _attacked(notice: Notice) -> Words:
    still = "" if _is_suspended(notice) else ", and still works"
    return Words(
        subject=f"Many failed attempts with API key {_known_as(notice)}",
        lead=(
            "Many requests named this API key and were refused: somebody guesses, something holds a damaged or outdated"
            f" copy, or the key is used from outside its networks. It was not given away by this{still}."
        ),
        facts=_facts(notice, "Noticed", "failed_attempts", "since", "until"),
        advice="See where they come from. If you do not know them, restrict the key to your networks, or rotate it.",
        commands=(f"keyledger logs --key {notice.thing_id} --status 401", *_to_rotate(notice)),
    )


def _presented_after_end(notice: Notice) -> Words:
    return Words(
        subject=f"Ended API key {_known_as(notice)} is still presented",
        lead=(
            "Somebody presented this API key, in full, after it had ended. It was refused. Either a deployment was"
            " forgotten, or the key has leaked."
        ),
        facts=_facts(notice, "Noticed", "attempts", "last_at"),
        advice="See where the requests come from. If you do not know them, read what was done with the key before.",
        commands=(f"keyledger logs --key {notice.thing_id} --status 401", f"keyledger logs --key {notice.thing_id}"),
    )


def _webhook_disabled(notice: Notice) -> Words:
    return Words(
        subject=f"Webhook {_known_as(notice)} was disabled",
        lead="This webhook was disabled: nothing is delivered to it any more.",
        facts=_facts(notice, "Disabled", "reason"),
        advice="Mend the receiver, then enable the webhook again. What happened meanwhile is not sent later.",
        commands=(
            f"keyledger webhook deliveries {notice.thing_id}",
            f"keyledger webhook change {notice.thing_id} --status enabled",
        ),
    )


def _notices_changed(notice: Notice) -> Words:
    return Words(
        subject="Notices of your Keyledger account were changed",
        lead="From now on, notices of your account go elsewhere, or some about security are no longer sent.",
        facts=_facts(notice, "Changed", "email", "silenced"),
        advice="If you expected this, there is nothing to do. If not, somebody else manages your account.",
        commands=(f"keyledger account notifications {notice.account_id}",),
    )


_WORDS: dict[NoticeKind, Callable[[Notice], Words]] = {
    NoticeKind.KEY_CREATED: _key_created,
    NoticeKind.ROTATION_DUE: _rotation_due,
    NoticeKind.ROTATION_REMINDER: _rotation_reminder,
    NoticeKind.RETIRING_SOON: _retiring_soon,
    NoticeKind.RETIRED: _retired,
    NoticeKind.EXPIRING: _expiring,
    NoticeKind.REVOKED: _revoked,
    NoticeKind.COMPROMISED: _compromised,
    NoticeKind.ATTACKED: _attacked,
    NoticeKind.PRESENTED_AFTER_END: _presented_after_end,
    NoticeKind.WEBHOOK_DISABLED: _webhook_disabled,
    NoticeKind.NOTICES_CHANGED: _notices_changed,
}

_LABELS = {
    "attempts": "Attempts",
    "due_at": "Due since",
    "email": "Notices go to",
    "expires_at": "Expires",
    "failed_attempts": "Failed attempts",
    "last_at": "Last",
    "last_used_at": "Last used",
    "note": "Note",
    "reason": "Reason",
    "retires_at": "Retires",
    "silenced": "No longer sent",
    "since": "From",
    "successor_id": "Successor",
    "until": "To",
}


def _is_suspended(notice: Notice) -> bool:
    return notice.details.get(SUSPENDED) == str(True)


def _goes_on(notice: Notice) -> str:
    if _is_suspended(notice):
        return "Nothing is stopped by that; while the account is suspended, all its keys are refused."
    return "It goes on working: nothing is stopped."


def _to_rotate(notice: Notice) -> tuple[str, ...]:
    return (f"keyledger key rotate {notice.thing_id} --grace-seconds 604800 --grace-starts first_use",)


def _known_as(notice: Notice) -> str:
    name = f"“{shown(notice.name)}”"
    return f"{name} ({shown(notice.prefix)})" if notice.prefix else name


def _facts(notice: Notice, what: str, *names: str) -> Facts:
    """The thing itself, when and by whom, and those of the details that are known."""
    facts = [("Key", _known_as(notice)), ("Id", notice.thing_id)] if notice.prefix else [("Id", notice.thing_id)]
    facts += [(what, _time(notice.at.isoformat())), ("By", _who(notice.actor)), ("Account", notice.account_id)]
    facts += [(_LABELS[name], _value(notice.details[name])) for name in names if notice.details.get(name)]
    return tuple(facts)


def _value(text: str) -> str:
    return _time(text) or shown(text, characters_max=NOTE_CHARACTERS_MAX)


def _time(text: str) -> str:
    """A time as people read it; "" for what is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return f"{at:%Y-%m-%d %H:%M} UTC" if at.tzinfo is not None else ""


def _who(actor: str) -> str:
    kind, _, name = actor.partition(":")
    known = {
        "key": f"the API key {shown(name)}",
        "cli": f"the operator {shown(name)} at the command line",
        "mail": "a link in a mail",
    }
    return known.get(kind, "Keyledger itself")
