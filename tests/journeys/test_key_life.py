"""A key's whole life against the running service, step by step in orders that chance decides, beside a model of it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.journeys.key_life import CLIENT_IP, CLOCKS_AGREE, STATUS_OF_CODE, Key, Model, Span, replayed, time_of
from tests.kit.http import Answer, Client
from tests.kit.service import Service, eventually

pytestmark = pytest.mark.journey

KEYS_MAX = 8
"""In one life: the fewer there are, the more happens to each."""
SOON = timedelta(milliseconds=600)
DAY = timedelta(days=1)
IDENTITY = ("x-keyledger-key-id", "x-keyledger-account-id", "x-keyledger-environment", "x-keyledger-scopes")
SCOPES = st.sampled_from([None, ["campaigns:read"], ["campaigns:*", "keys:read"], ["keys:write"]])
NETWORKS = st.sampled_from([None, ["127.0.0.0/8"], ["203.0.113.0/24"]])
ENVIRONMENTS = st.sampled_from(["live", "staging", "dev"])
REASONS = st.sampled_from(["compromised", "unused", "other"])
WORKERS = st.integers(0, 1)
MOSTLY = st.sampled_from([True, True, False])
NUMBERS = st.integers(0, KEYS_MAX - 1)


def now() -> datetime:
    """The test's clock."""
    return datetime.now(UTC)


class KeyLife(RuleBasedStateMachine):
    """Each rule is a call to one of the workers, its answer compared with the model's, and the key looked at again.

    Keys are drawn by number, and no rule has a precondition: what is drawn must not depend on what the time is.
    """

    clients: ClassVar[list[Client]]
    everything: ClassVar[list[Key]]
    """Of all examples."""
    model: ClassVar[Model] = Model()
    calls: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.own: list[Key] = []

    def call(self, worker: int, method: str, path: str, body: Any = None, **more: Any) -> tuple[Answer, Span]:
        """One request, and when it was made."""
        type(self).calls += 1
        began = now()
        answer = self.clients[worker].request(method, path, body, **more)
        return answer, Span(began, now())

    def look(self, worker: int, key: Key) -> None:
        """The key's body is what the model says."""
        answer, span = self.call(worker, "GET", f"/api/keys/{key.id}")
        assert answer.status == 200, answer
        assert self.model.complaint(key, answer.json(), span) is None

    def look_after(self, other: int, key: Key, *, used: bool) -> None:
        """Whatever a command answered holds at once on the other worker, for who looks and for who uses the key."""
        if used:
            self.use(other, key, "/auth/forward", [])
        self.look(other, key)

    def issued(self, answer: Answer, span: Span, **more: Any) -> Key:
        """The key of a 201."""
        assert answer.status == 201, answer
        body = answer.json()
        key = Key(
            id=body["id"],
            secret=body["key"],
            name=body["name"],
            environment=body["environment"],
            created_at=time_of(body["created_at"]) or span.began,
            **({"lineage_id": body["id"]} | more),
        )
        self.own.append(key)
        self.everything.append(key)
        assert self.model.complaint(key, body, span) is None
        return key

    def either(self, answer: Answer, span: Span, key: Key, may: Callable[[Key, datetime], bool], good: int) -> bool:
        """Whether a command was carried out; it is 409 when, and only when, the key's state does not allow it."""
        allowed = {good if may(key, edge) else 409 for edge in span.edges}
        assert answer.status in allowed, (answer, allowed, key)
        return answer.status == good

    # -- commands

    @initialize(worker=WORKERS, environment=ENVIRONMENTS, scopes=SCOPES, networks=NETWORKS)
    def begin(self, worker: int, environment: str, scopes: Any, networks: Any) -> None:
        """There is a key to begin with."""
        self.create(worker, None, networks, name="First", environment=environment, scopes=scopes)

    @rule(
        worker=WORKERS,
        name=st.sampled_from(["Production API", "Ü"]),
        environment=ENVIRONMENTS,
        scopes=SCOPES,
        networks=NETWORKS,
        life=st.sampled_from([None, None, DAY, SOON]),
    )
    def create(self, worker: int, life: timedelta | None, networks: Any, **asked: Any) -> None:
        """A new key."""
        if len(self.own) >= KEYS_MAX:
            return
        expires_at = None if life is None else now() + life
        body = asked | {"allowed_ips": networks, "expires_at": None if expires_at is None else expires_at.isoformat()}
        answer, span = self.call(worker, "POST", "/api/keys", body)
        self.issued(answer, span, scopes=asked["scopes"], networks=networks, expires_at=expires_at)

    @rule(
        worker=WORKERS,
        other=WORKERS,
        which=NUMBERS,
        used=st.booleans(),
        asked=st.fixed_dictionaries(
            {}, optional={"name": st.sampled_from(["Production API", "New"]), "scopes": SCOPES, "allowed_ips": NETWORKS}
        ),
    )
    def change(self, worker: int, other: int, which: int, used: bool, asked: dict[str, Any]) -> None:
        """PATCH; holds at once on the other worker."""
        key = self.own[which % len(self.own)]
        answer, span = self.call(worker, "PATCH", f"/api/keys/{key.id}", asked)
        if self.either(answer, span, key, lambda key, at: not asked or self.model.can_change(key, at), 200):
            self.model.change(key, asked)
        self.look_after(other, key, used=used)

    @rule(worker=WORKERS, other=WORKERS, which=NUMBERS, disabled=MOSTLY)
    def stop_or_start(self, worker: int, other: int, which: int, disabled: bool) -> None:
        """Disable, enable."""
        key = self.own[which % len(self.own)]
        answer, span = self.call(worker, "POST", f"/api/keys/{key.id}/{'disable' if disabled else 'enable'}")
        if self.either(answer, span, key, self.model.can_change, 200):
            self.model.disable(key, disabled=disabled)
        self.look_after(other, key, used=True)

    @rule(
        worker=WORKERS,
        other=WORKERS,
        which=NUMBERS,
        used=st.booleans(),
        grace=st.sampled_from([timedelta(), timedelta(seconds=1), DAY]),
        from_first_use=st.booleans(),
    )
    def rotate(  # noqa: PLR0913, PLR0917 - what is drawn
        self, worker: int, other: int, which: int, used: bool, grace: timedelta, from_first_use: bool
    ) -> None:
        """Rotate, with and without grace, from now or from the successor's first use."""
        key = self.own[which % len(self.own)]
        if len(self.own) >= KEYS_MAX:
            return
        if from_first_use and grace:
            grace = DAY  # begun by a job, some time after the use: an end that is near would come at no certain time
        asked = {
            "grace_seconds": int(grace.total_seconds()),
            "grace_starts": "first_use" if from_first_use else "now",
        }
        answer, span = self.call(worker, "POST", f"/api/keys/{key.id}/rotate", asked)
        if not self.either(answer, span, key, self.model.can_rotate, 201):
            return
        life = None if key.expires_at is None else key.expires_at - key.created_at
        successor = self.issued(
            answer,
            span,
            scopes=key.scopes,
            networks=key.networks,
            expires_at=life and (time_of(answer.json()["created_at"]) or span.began) + life,
            lineage_id=key.lineage_id,
            replaces=key.id,
        )
        unseen = key.replaced_by
        told = time_of(self.call(other, "GET", f"/api/keys/{key.id}")[0].json()["retires_at"])
        if not from_first_use or not grace:
            assert self.model.end_of_grace_is_right(key, told, span, grace), (told, span, key)
            key.retires_at = told
        self.model.rotate(key, successor, grace=grace, from_first_use=from_first_use)
        for changed in (key, successor, *([unseen] if unseen else [])):
            self.look_after(other, changed, used=used and changed is not successor)

    @rule(worker=WORKERS, other=WORKERS, which=NUMBERS, used=st.booleans(), reason=REASONS)
    def revoke(self, worker: int, other: int, which: int, used: bool, reason: str) -> None:
        """Revoke, also what has ended."""
        key = self.own[which % len(self.own)]
        answer, span = self.call(worker, "POST", f"/api/keys/{key.id}/revoke", {"reason": reason})
        assert answer.status == 200, answer
        self.model.revoke(key)
        body = answer.json()
        assert body.pop("receipt").keys() == {"position", "processes", "waited_ms"}
        assert self.model.complaint(key, body, span) is None
        self.look_after(other, key, used=used)

    @rule(worker=WORKERS)
    def let_end(self, worker: int) -> None:
        """The clock passes the next end that is near."""
        for key, end in self.ending()[:1]:
            eventually(lambda end=end: now() > end + CLOCKS_AGREE, "time passes")
            self.look(worker, key)

    def ending(self) -> list[tuple[Key, datetime]]:
        """The keys that end within seconds, the next first."""
        ends = [(key, key.next_end) for key in self.own if key.next_end is not None]
        near = [(key, end) for key, end in ends if now() - CLOCKS_AGREE < end < now() + 5 * SOON]
        return sorted(near, key=lambda each: each[1])

    # -- uses

    def codes(self, key: Key, span: Span, **asked: Any) -> set[str]:
        """What a check within ``span`` may find."""
        return {self.model.code(key, edge, **asked) for edge in span.edges}

    def use(self, worker: int, key: Key, path: str, scopes: list[str]) -> Answer:
        """A use with the key itself, from here."""
        answer, span = self.call(worker, "GET", path, key=key.secret)
        codes = self.codes(key, span, scopes=scopes, ip=CLIENT_IP)
        by_status = {STATUS_OF_CODE.get(code, 401): code for code in codes}
        assert answer.status in by_status, (answer, codes, key)
        self.model.count(key, by_status[answer.status], span)
        return answer

    @rule(worker=WORKERS, other=WORKERS, which=NUMBERS)
    def call_the_route(self, worker: int, other: int, which: int) -> None:
        """A protected route that needs a scope."""
        key = self.own[which % len(self.own)]
        self.use(worker, key, "/api/campaigns", ["campaigns:read"])
        self.look(other, key)

    @rule(
        worker=WORKERS, other=WORKERS, which=NUMBERS, path=st.sampled_from(["/auth/forward", "/auth/forward/reports"])
    )
    def forward(self, worker: int, other: int, which: int, path: str) -> None:
        """A proxy's question; its answer names the bearer, or nobody."""
        key = self.own[which % len(self.own)]
        answer = self.use(worker, key, path, [])
        told = [answer.headers[name] for name in IDENTITY]
        expected = ["", "", "", ""]
        if answer.status == 200:
            expected = [key.id, told[1], key.environment, " ".join(key.scopes or [])]
            assert told[1].startswith("acc_")
        assert told == expected
        self.look(other, key)

    @rule(
        worker=WORKERS,
        other=WORKERS,
        which=NUMBERS,
        scopes=st.sampled_from([[], ["campaigns:read"], ["campaigns:write", "keys:read"]]),
        ip=st.sampled_from([None, CLIENT_IP, "203.0.113.7", "2001:db8::1"]),
        environment=st.sampled_from([None, "live", "staging"]),
    )
    def verify(self, worker: int, other: int, which: int, **asked: Any) -> None:
        """Another service asks about the key."""
        key = self.own[which % len(self.own)]
        given = {name: value for name, value in asked.items() if value is not None}
        answer, span = self.call(worker, "POST", "/api/verify", {"key": key.secret} | given)
        assert answer.status == 200, answer
        told = answer.json()
        assert told["code"] in self.codes(key, span, **asked), (told, key)
        expected: dict[str, Any] = {"valid": told["code"] == "VALID", "code": told["code"]}
        if expected["valid"]:
            expected |= {"key_id": key.id, "name": key.name, "environment": key.environment, "scopes": key.scopes}
            assert time_of(told.pop("expires_at")) == key.expires_at
            assert told.pop("account_id").startswith("acc_")
        assert told == expected
        self.model.count(key, told["code"], span)
        self.look(other, key)

    @rule(worker=WORKERS, other=WORKERS, which=NUMBERS)
    def mistype(self, worker: int, other: int, which: int) -> None:
        """A key with one character wrong is a failed attempt on the key that it names."""
        key = self.own[which % len(self.own)]
        mistyped = key.secret[:-1] + ("1" if key.secret[-1] == "0" else "0")
        answer, span = self.call(worker, "GET", "/api/campaigns", key=mistyped)
        assert answer.status == 401, answer
        self.model.count(key, "NOT_FOUND", span)
        self.look(other, key)

    # -- views

    @rule(
        worker=WORKERS,
        status=st.sampled_from(["", "active", "rotating", "disabled", "revoked", "expired"]),
        environment=st.sampled_from(["", "live", "staging"]),
    )
    def list_keys(self, worker: int, status: str, environment: str) -> None:
        """A listing, filtered or not: the keys that belong in it, newest first, each as the model says."""
        path = f"/api/keys?limit=100{status and f'&status={status}'}{environment and f'&environment={environment}'}"
        answer, span = self.call(worker, "GET", path)
        by_id = {key.id: key for key in self.own}
        listed = {body["id"]: body for body in answer.json()["data"] if body["id"] in by_id}
        for key_id, body in listed.items():
            assert self.model.complaint(by_id[key_id], body, span) is None
        order = list(listed)
        assert order == [key.id for key in reversed(self.own) if key.id in listed]
        for key in self.own:
            belongs = {
                (not status or self.model.status(key, edge) == status) and environment in {"", key.environment}
                for edge in span.edges
            }
            assert (key.id in listed) in belongs, (path, key)

    @rule(worker=WORKERS, which=NUMBERS)
    def history(self, worker: int, which: int) -> None:
        """The key's history: versions without a gap, what was commanded in its order; it replays to the body."""
        key = self.own[which % len(self.own)]
        events, body, span = self.history_and_body(worker, key)
        own = [event for event in events if event["type"] != "key.used"]
        assert [event["version"] for event in own] == list(range(1, len(own) + 1))
        assert [event["position"] for event in events] == sorted({event["position"] for event in events})
        commanded = [event["type"] for event in own if not event["actor"].startswith("system:")]
        expected = list(key.events)
        if key.retires_at is not None and span.edges[1] >= key.retires_at:
            # Put on record by the sweep, or by a revoke that came first.
            commanded, expected = (
                [type_ for type_ in each if type_ != "key.revoked"] for each in (commanded, expected)
            )
        assert commanded == expected
        shown = replayed(events)
        if shown["revoked_at"] is None and body["status"] == "revoked":
            shown["revoked_at"] = shown["retires_at"]  # retired by the clock, and not on record yet
        assert {name: body[name] for name in shown} == shown
        assert sum(event["data"]["requests"] for event in events if event["type"] == "key.used") <= key.requests

    def history_and_body(self, worker: int, key: Key) -> tuple[list[Any], dict[str, Any], Span]:
        """Both, with nothing of the sweeps between them."""
        while True:
            began = now()
            before = self.clients[worker].pages(f"/api/keys/{key.id}/events")
            answer, span = self.call(worker, "GET", f"/api/keys/{key.id}")
            if self.clients[worker].pages(f"/api/keys/{key.id}/events") == before:
                return before, answer.json(), Span(began, span.ended)

    def teardown(self) -> None:
        """At the end of each example every key is looked at once more."""
        for number, key in enumerate(self.own):
            self.look(number % 2, key)
            self.history(number % 2, number)


class DisabledIsAccepted(Model):
    """Wrong: a disabled key is accepted."""

    def code(self, key: Key, now: datetime, **asked: Any) -> str:  # noqa: D102 - as the class says
        disabled, key.disabled = key.disabled, False
        try:
            return super().code(key, now, **asked)
        finally:
            key.disabled = disabled


class FailuresAreUses(Model):
    """Wrong: a refused use counts as a request."""

    def count(self, key: Key, code: str, span: Span) -> None:  # noqa: D102 - as above
        super().count(key, code, span)
        if code != "VALID":
            key.requests += 1


class NetworksAreIgnored(Model):
    """Wrong: a key works from anywhere."""

    def is_inside(self, ip: str | None, networks: list[str]) -> bool:  # noqa: ARG002, D102 - it looks at nothing
        return True


class GraceIsIgnored(Model):
    """Wrong: a rotated key ends at once, whatever its grace."""

    def rotate(self, key: Key, successor: Key, *, grace: timedelta, from_first_use: bool) -> None:  # noqa: ARG002, D102 - as above
        super().rotate(key, successor, grace=timedelta(), from_first_use=from_first_use)


class EndsAreForgotten(Model):
    """Wrong: a key outlives its expiry and its grace period."""

    def status(self, key: Key, now: datetime) -> str:  # noqa: ARG002, D102 - as above
        return super().status(key, datetime.min.replace(tzinfo=UTC))


WRONG = [DisabledIsAccepted, FailuresAreUses, NetworksAreIgnored, GraceIsIgnored, EndsAreForgotten]


@pytest.fixture
def machine(service: Service) -> Iterator[type[KeyLife]]:
    """A machine with a client for each worker."""
    clients = list(service.client_of_each_worker(service.demo_key).values())
    yield type("KeyLifeHere", (KeyLife,), {"clients": clients, "everything": [], "calls": 0})
    for client in clients:
        client.close()


def profile(examples: int, steps: int, **more: Any) -> settings:
    """So many lives of so many steps."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        **more,
    )


def test_a_key_lives_as_the_contract_says(machine: type[KeyLife], full: bool) -> None:
    """Whatever is done to keys in whatever order: every answer is the model's; after settlement the counts, too."""
    run_state_machine_as_test(machine, settings=profile(*((300, 60) if full else (8, 30))))
    used = [key for key in machine.everything if key.requests + key.failed]
    client = machine.clients[0]

    def is_settled() -> bool:
        while used:
            events = client.pages(f"/api/keys/{used[-1].id}/events")
            uses = [event["data"] for event in events if event["type"] == "key.used"]
            told = sum(use["requests"] for use in uses), sum(use["failed_attempts"] for use in uses)
            if told != (used[-1].requests, used[-1].failed):
                return False
            used.pop()
        return True

    eventually(is_settled, "the settled uses of every key are those that were made")
    keys = machine.everything
    print(  # noqa: T201 - figures
        f"{machine.calls} calls, {len(keys)} keys, {sum(key.requests for key in keys)} uses and "
        f"{sum(key.failed for key in keys)} failed attempts, all settled"
    )
    assert sum(key.requests for key in keys)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_the_model_can_be_found_wrong(machine: type[KeyLife], wrong: type[Model]) -> None:
    """A model that says something else than the contract is refuted within some lives, the same in each run."""
    machine.model = wrong()
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=profile(100, 30, phases=[Phase.generate], derandomize=True))
