"""Credentials taken out of text: what is left is the public prefix and an ellipsis (`sk_live_7Hq2mB9xT…`), or `…`.

Recognised: our own credentials, whole or cut, also percent-encoded; the values of `Authorization` and cookies;
passwords in URLs (RFC 3986) and conninfo strings (libpq); values under a secret's name. The rules know shapes: a secret
without its prefix, or in base64, is not recognised, so raw secrets stay in `domain.credential.Secret`.
"""

import re
from typing import Any, Final, cast

from domain.credential import with_credentials_decoded

# A text without any of these, in any case, needs no redaction; most lines of a log have none.
_SUSPECTS: Final = (
    "sk_", "ses_", "inv_", "whsec_", "://", "authorization", "cookie", "bearer", "pass", "pwd", "secret", "token",
    "_key", "%",
)  # fmt: skip
_HIDDEN_NAMES: Final = (
    "authorization", "cookie", "cookies", "password", "passwd", "passphrase", "pwd", "secret", "secrets", "secret_key",
    "secret_keys", "private_key", "api_key", "token",
)  # fmt: skip
_NAMED: Final = r"(?:password|passwd|passphrase|pwd|secret|secret_keys?|private_key|api_key|token)"
_SHOWN: Final = re.compile(r"(?:(?:sk|ses|inv)_[0-9A-Za-z_]+|whsec_)…")

# Kept: the words and the id. Gone: all after it, also when it was cut or lost its underscore. A bare `inv_…` is the id
# of an invite and stays. The quantifiers marked + give nothing back, or a bare prefix would lose its last character.
# A webhook's secret goes first: the others know no `+`, `/` and `=`, and would leave the rest of one that follows.
_CREDENTIALS: Final = (
    re.compile(r"(whsec_)[0-9A-Za-z_+/=-]+"),
    re.compile(r"(sk_(?:dev|staging|live)_[0-9A-Za-z]{1,9}+)[0-9A-Za-z_-]+"),
    re.compile(r"(ses_(?:[0-9A-Za-z]{9}(?=_)|[0-9A-Za-z]{1,9}+(?=[0-9A-Za-z]{12})))[0-9A-Za-z_-]+"),
    re.compile(r"(inv_[0-9A-Za-z]{9}(?=_))[0-9A-Za-z_-]+"),
    re.compile(r"(bearer\s+)(?!(?:sk|ses|inv)_)[0-9A-Za-z._~+/=-]{16,}", re.IGNORECASE),
)
# The bound on a URL's password keeps a text of nothing but `://a:` from costing the square of its length.
_TEXT_RULES: Final = (
    *_CREDENTIALS,
    re.compile(r"(://[^\s/:@\"]*:)[^\s]{1,256}@"),
    re.compile(
        rf"({_NAMED}[\"']?\s*[=:]\s*b?(?P<quote>[\"']))(?!{_SHOWN.pattern})(?:(?!(?P=quote))[^\\]|\\.)+",
        re.IGNORECASE | re.DOTALL,
    ),
    re.compile(rf"({_NAMED}\s*=\s*)(?!{_SHOWN.pattern})[^\s\"'…][^\s…]*", re.IGNORECASE),
)
# In a rendered line a rule must not cross a quote or a backslash, or JSON would come apart.
_LINE_RULES: Final = (*_CREDENTIALS, re.compile(r"(://[^\s/:@\"]*:)[^\s\"\\]{1,256}@"))
_HEADER: Final = re.compile(
    r"((?:authorization|cookies?)[\"'\])]*\s*[:=,]\s*(?:b(?=[\"']))?[\"'\[(]*)([^\"'\r\n]+)", re.IGNORECASE
)
_SCHEMES: Final = frozenset({"bearer", "basic", "digest", "negotiate"})
_PAIR: Final = 2


def is_suspect(text: str) -> bool:
    """Whether the text could hold a credential; False is certain, True is cheap to say."""
    lowered = text.lower()
    for word in _SUSPECTS:  # noqa: SIM110 - `any` takes three times as long, and every line of the log comes here
        if word in lowered:
            return True
    return False


def redact(text: str) -> str:
    """Redact free text; twice gives the same as once."""
    if not is_suspect(text):
        return text
    text = with_credentials_decoded(text)
    for rule in _TEXT_RULES:
        text = rule.sub(_ellipsis, text)
    return _HEADER.sub(_without_value, text)


def redact_line(line: str) -> str:
    """Redact a rendered line, keeping its structure; its values were redacted before."""
    line = with_credentials_decoded(line)
    for rule in _LINE_RULES:
        line = rule.sub(_ellipsis, line)
    return line


def redact_values(value: Any, name: str = "") -> Any:
    """Redact what JSON has (dicts, lists, scalars) to any depth; what stands under a secret's name goes in any shape.

    A list of two is also read as a name and its value, which is how ASGI keeps headers.
    """
    hidden = name.lower().endswith(_HIDDEN_NAMES)
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        return {redact(key): redact_values(entry, name if hidden else key) for key, entry in entries.items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if len(items) == _PAIR and isinstance(items[0], str) and not hidden:
            return [redact(items[0]), redact_values(items[1], items[0].strip("b'"))]
        return [redact_values(item, name) for item in items]
    if hidden and value is not None and not isinstance(value, bool):
        return _hidden(redact(str(value)))
    return redact(value) if isinstance(value, str) else value


def _ellipsis(match: re.Match[str]) -> str:
    return f"{match.group(1)}…{'@' if match.group().endswith('@') else ''}"


def _without_value(match: re.Match[str]) -> str:
    return match.group(1) + _hidden(match.group(2))


def _hidden(value: str) -> str:
    scheme, _, rest = value.partition(" ")
    kept, secret = (f"{scheme} ", rest) if scheme.lower() in _SCHEMES else ("", value)
    shown = _SHOWN.match(secret)
    return kept + (shown.group() if shown else "…")
