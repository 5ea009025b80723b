"""The product page, word for word: its three examples and its two errors against a running service."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.kit.service import DEADLINE_SECONDS, Service

pytestmark = pytest.mark.journey

PAGE_HOST = "https://api.interviewrelay.com"
CURL = """\
curl https://api.interviewrelay.com/api/campaigns \\
  -H "Authorization: Bearer YOUR_API_KEY"
"""
JAVASCRIPT = """\
const API_KEY = process.env.INTERVIEWRELAY_API_KEY;

const response = await fetch('https://api.interviewrelay.com/api/campaigns', {
  headers: {
    'Authorization': `Bearer ${API_KEY}`,
    'Content-Type': 'application/json',
  },
});

const data = await response.json();
"""
PYTHON = """\
import os
import requests

API_KEY = os.environ['INTERVIEWRELAY_API_KEY']

headers = {
    'Authorization': f'Bearer {API_KEY}',
    'Content-Type': 'application/json',
}

response = requests.get(
    'https://api.interviewrelay.com/api/campaigns',
    headers=headers
)

data = response.json()
"""
UNAUTHORIZED = """\
{
  "error": {
    "code": "UNAUTHORIZED",
    "message": "Invalid API key"
  }
}
"""
FORBIDDEN = """\
{
  "error": {
    "code": "FORBIDDEN",
    "message": "Insufficient permissions for this resource"
  }
}
"""


def run(*words: str, **environment: str) -> list[str]:
    """The lines that the command prints, in an environment with nothing of ours but what is given."""
    machine = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        words, env=machine | environment, capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS
    )
    return done.stdout.splitlines()


def campaigns(body: str) -> list[str]:
    """The names of the campaigns in an answer's `data`."""
    return [campaign["name"] for campaign in json.loads(body)["data"]]


def test_the_curl_example_answers_with_data(service: Service, place: Path) -> None:
    """The page's curl line, with only host and key changed, answers 200 with the account's campaigns."""
    (place / ".curlrc").write_text('silent\nwrite-out = "\\n%{http_code}"\n', encoding="utf-8")
    line = CURL.replace(PAGE_HOST, service.url).replace("YOUR_API_KEY", service.demo_key)
    body, status = run("bash", "-c", line, CURL_HOME=str(place))
    assert status == "200"
    assert campaigns(body) == ["Backend engineers"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_javascript_example_answers_with_data(service: Service) -> None:
    """The page's fetch, with only the host changed, answers 200 with the account's campaigns."""
    code = JAVASCRIPT.replace(PAGE_HOST, service.url) + "console.log(response.status);console.log(JSON.stringify(data))"
    words = ("node", "--input-type=module", "--eval", code)
    status, body = run(*words, INTERVIEWRELAY_API_KEY=service.demo_key)
    assert status == "200"
    assert campaigns(body) == ["Backend engineers"]


def test_the_python_example_answers_with_data(service: Service) -> None:
    """The page's requests call, with only the host changed, answers 200 with the account's campaigns."""
    code = PYTHON.replace(PAGE_HOST, service.url) + dedent("""
        import json
        print(response.status_code)
        print(json.dumps(data))
    """)
    status, body = run(sys.executable, "-c", code, INTERVIEWRELAY_API_KEY=service.demo_key)
    assert status == "200"
    assert campaigns(body) == ["Backend engineers"]


def test_the_401_is_the_pages(service: Service) -> None:
    """No, a malformed, a forged and a revoked key: the page's 401 body, the same bytes for all of them."""
    with service.client(service.demo_key) as client:
        revoked = client.done("POST", "/api/keys", {"name": "Short-lived", "environment": "live"})
        client.done("POST", f"/api/keys/{revoked['id']}/revoke")
        forged = revoked["key"][:-1] + ("0" if revoked["key"][-1] != "0" else "1")
        answers = [client.get("/api/campaigns", key=key) for key in ("YOUR_API_KEY", forged, revoked["key"])]
    with service.client() as nobody:
        answers.append(nobody.get("/api/campaigns"))
    assert [answer.status for answer in answers] == [401] * 4
    assert {answer.body for answer in answers} == {compact(UNAUTHORIZED)}


def test_the_403_is_the_pages(service: Service) -> None:
    """A scope that is missing, and a campaign that is not the account's: the page's 403 body, the same bytes."""
    with service.client(service.demo_key) as client:
        narrow = client.done(
            "POST", "/api/keys", {"name": "Narrow", "environment": "live", "scopes": ["campaigns:write"]}
        )
        answers = [
            client.get("/api/campaigns", key=narrow["key"]),
            client.get("/api/campaigns/cmp_0000000000000000"),
            client.get("/api/campaigns/1"),
        ]
    assert [answer.status for answer in answers] == [403] * 3
    assert {answer.body for answer in answers} == {compact(FORBIDDEN)}


def compact(body: str) -> bytes:
    """The page's JSON without the white space that the page adds for the eye; order and words as they stand."""
    return json.dumps(json.loads(body), separators=(",", ":")).encode()
