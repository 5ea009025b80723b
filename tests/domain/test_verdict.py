"""The verdict: each reason to refuse, and their order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.access import Feature, Networks, Plan, Scope, Scopes
from domain.credential import Environment
from domain.ids import AccountId, KeyId
from domain.verdict import ALWAYS, Attempt, KeyFacts, Verdict, judge, open_until, permission

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
GOOD = KeyFacts(
    key_id=KeyId("key_7Hq2mB9xT"),
    account_id=AccountId("acc_0123456789ABCDEF"),
    environment=Environment.LIVE,
    name="Production API",
    scopes=None,
    networks=None,
    disabled=False,
    revoked_at=None,
    expires_at=None,
    retires_at=None,
    account_suspended=False,
    plan=Plan.FREE,
    position=1,
    replaced_by=None,
)
ATTEMPT = Attempt(
    client=ip_address("203.0.113.7"),
    scope=Scope.parse("campaigns:write"),
    feature=Feature.AUDIT,
    environments=frozenset({Environment.STAGING, Environment.DEV}),
    environment=None,
)
# Each line is one reason to refuse ATTEMPT; the lines stand in the order in which `judge` looks for them.
REASONS = [
    (Verdict.REVOKED, {"revoked_at": NOW}),
    (Verdict.EXPIRED, {"expires_at": NOW}),
    (Verdict.DISABLED, {"disabled": True}),
    (Verdict.SUSPENDED, {"account_suspended": True}),
    (Verdict.WRONG_ENVIRONMENT, {"environment": Environment.LIVE}),
    (Verdict.FORBIDDEN_NETWORK, {"networks": Networks.parse(["198.51.100.0/24"])}),
    (Verdict.INSUFFICIENT_SCOPE, {"scopes": Scopes.parse(["campaigns:read"])}),
    (Verdict.PLAN_LACKS_FEATURE, {"plan": Plan.TEAM}),
]
ACCEPTED = replace(GOOD, environment=Environment.DEV, plan=Plan.SCALE)
BEFORE_JUDGEMENT = [Verdict.MISSING, Verdict.MALFORMED, Verdict.FORGED, Verdict.UNKNOWN, Verdict.WRONG_SECRET]


def test_a_key_with_nothing_against_it_is_accepted() -> None:
    """No reason to refuse is acceptance."""
    assert judge(ACCEPTED, ATTEMPT, NOW) is Verdict.OK


@given(st.sets(st.integers(0, len(REASONS) - 1), min_size=1))
def test_the_first_reason_in_order_is_the_verdict(chosen: set[int]) -> None:
    """Of any reasons that hold together, the verdict is the one that stands first in the fixed order."""
    facts = ACCEPTED
    for index in chosen:
        facts = replace(facts, **REASONS[index][1])
    assert judge(facts, ATTEMPT, NOW) is REASONS[min(chosen)][0]


def test_the_order_of_the_set_is_the_order_of_the_checks() -> None:
    """Verdict lists what is settled before judgement, then the reasons of `judge` in their order, and nothing else."""
    assert list(Verdict) == [Verdict.OK, *BEFORE_JUDGEMENT, *(verdict for verdict, _ in REASONS)]


def test_each_refusal_is_of_the_credential_or_of_the_permission() -> None:
    """Networks, scopes and plans refuse a good credential; all else refuses the credential; acceptance is neither."""
    permission = {Verdict.FORBIDDEN_NETWORK, Verdict.INSUFFICIENT_SCOPE, Verdict.PLAN_LACKS_FEATURE}
    assert {verdict for verdict in Verdict if verdict.is_permission_refusal} == permission
    assert {verdict for verdict in Verdict if verdict.is_credential_refusal} == set(Verdict) - permission - {Verdict.OK}


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(hours=-1), timedelta(hours=1)])
def test_a_revocation_holds_whatever_the_clocks_say(ahead: timedelta) -> None:
    """A revoked key is refused even where the time of its revocation has not come by this clock."""
    assert judge(replace(ACCEPTED, revoked_at=NOW + ahead), ATTEMPT, NOW) is Verdict.REVOKED


@pytest.mark.parametrize(("field", "verdict"), [("expires_at", Verdict.EXPIRED), ("retires_at", Verdict.REVOKED)])
def test_a_key_ends_at_its_instant(field: str, verdict: Verdict) -> None:
    """Expiry and the end of the grace period refuse from the very instant on, and not before."""
    facts = replace(ACCEPTED, **{field: NOW})
    assert judge(facts, ATTEMPT, NOW - INSTANT) is Verdict.OK
    assert judge(facts, ATTEMPT, NOW) is verdict
    assert judge(facts, ATTEMPT, NOW + INSTANT) is verdict


@pytest.mark.parametrize("client", ["203.0.113.7", "::ffff:203.0.113.7"])
def test_a_client_inside_the_networks_is_accepted(client: str) -> None:
    """An allowed address is accepted, also where it is written as v4-mapped."""
    facts = replace(ACCEPTED, networks=Networks.parse(["203.0.113.0/24"]))
    assert judge(facts, ATTEMPT._replace(client=ip_address(client)), NOW) is Verdict.OK


def test_an_unknown_client_is_outside_every_network() -> None:
    """A key with networks is refused where the client's address is not known; one without is not."""
    everywhere = replace(ACCEPTED, networks=Networks.parse(["0.0.0.0/0", "::/0"]))
    assert judge(everywhere, ATTEMPT._replace(client=IPv4Address("203.0.113.7")), NOW) is Verdict.OK
    assert judge(everywhere, ATTEMPT._replace(client=None), NOW) is Verdict.FORBIDDEN_NETWORK
    assert judge(ACCEPTED, ATTEMPT._replace(client=None), NOW) is Verdict.OK


@pytest.mark.parametrize("environment", Environment)
def test_the_server_and_the_caller_both_choose_environments(environment: Environment) -> None:
    """A key is refused in an environment that this server does not take, and where another one is demanded."""
    key = replace(ACCEPTED, environment=environment)
    everywhere = ATTEMPT._replace(environments=frozenset(Environment))
    assert judge(key, everywhere, NOW) is Verdict.OK
    assert judge(key, everywhere._replace(environments=frozenset()), NOW) is Verdict.WRONG_ENVIRONMENT
    for demanded in Environment:
        expected = Verdict.OK if demanded is environment else Verdict.WRONG_ENVIRONMENT
        assert judge(key, everywhere._replace(environment=demanded), NOW) is expected


def test_a_route_that_needs_nothing_takes_every_key() -> None:
    """Where no scope and no feature is needed, a key of any scopes on any plan is accepted."""
    narrow = replace(ACCEPTED, scopes=Scopes.parse(["usage:read"]), plan=Plan.FREE)
    assert judge(narrow, ATTEMPT._replace(scope=None, feature=None), NOW) is Verdict.OK


def test_a_key_without_scopes_has_full_access() -> None:
    """No scopes at all is every scope."""
    for scope in ("keys:write", "audit:*"):
        assert judge(ACCEPTED, ATTEMPT._replace(scope=Scope.parse(scope)), NOW) is Verdict.OK


INSTANTS = st.none() | st.integers(-24 * 3600, 24 * 3600).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(
    st.sets(st.integers(0, len(REASONS) - 1)),
    INSTANTS,
    INSTANTS,
    st.sampled_from([None, ip_address("203.0.113.7"), ip_address("198.51.100.7")]),
    st.sampled_from([None, Scope.parse("campaigns:write"), Scope.parse("campaigns:read")]),
    st.sampled_from([None, *Feature]),
)
def test_until_it_has_to_be_asked_the_verdict_is_the_permission(  # noqa: PLR0913, PLR0917 - all that a verdict follows from
    chosen: set[int],
    expires_at: datetime | None,
    retires_at: datetime | None,
    client: IPv4Address | None,
    scope: Scope | None,
    feature: Feature | None,
) -> None:
    """What is worked out once for a remembered key is what `judge` says each time, to the very instant."""
    facts = replace(ACCEPTED, expires_at=expires_at, retires_at=retires_at)
    for index in chosen:
        facts = replace(facts, **REASONS[index][1])
    attempt = ATTEMPT._replace(client=client, scope=scope, feature=feature)
    until = open_until(facts, ATTEMPT.environments)
    for now in (NOW - timedelta(days=1), NOW, NOW + timedelta(days=1), until - INSTANT if until.year > 1 else NOW):
        if now < until:
            assert judge(facts, attempt, now) is permission(facts, scope, feature)


def test_a_key_without_an_end_is_open_for_ever_and_one_that_ends_until_then() -> None:
    """The usual key need not be judged each time: its expiry or the end of its grace says how long."""
    assert open_until(ACCEPTED, ATTEMPT.environments) == ALWAYS
    ending = replace(ACCEPTED, expires_at=NOW + INSTANT, retires_at=NOW)
    assert open_until(ending, ATTEMPT.environments) == NOW
