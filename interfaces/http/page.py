"""A page for people: no script, nothing loaded, not kept, framed, or told to other sites."""

import hashlib
import html
from base64 import b64encode

from litestar import MediaType, Response

_STYLE = (
    "body{font-family:sans-serif;line-height:1.5;color:#1f2328;max-width:40em;margin:2em auto;padding:0 1em}"
    "h1{font-size:1.4em;overflow-wrap:anywhere}"
    "pre{background:#f6f8fa;padding:8px;overflow-x:auto}"
    "button{font:inherit;padding:.3em 1em}"
)
# CSP Level 3, section 2.3.1: an inline style is allowed by its hash.
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def page(title: str, content: str) -> Response[str]:
    """200 with the ``title`` as its heading, which is escaped here; ``content`` is HTML."""
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Keyledger</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        f"<h1>{escaped(title)}</h1>\n{content}\n</body>\n</html>\n"
    )
    return Response(text, media_type=MediaType.HTML, headers=_HEADERS)


def code(*lines: str) -> str:
    """Lines to copy, as HTML."""
    return f"<pre>{escaped(chr(10).join(lines))}</pre>"


def escaped(text: str) -> str:
    """The text as HTML, also within quotes."""
    return html.escape(text, quote=True)
