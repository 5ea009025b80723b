"""One failure of one webhook: recorded once, and closed by what is found."""

import pytest

from domain.events import Event
from domain.ids import WebhookFailureId
from domain.webhook_endpoint import DeliveryGivenUp, DisabledReason, GivenUpDelivery, WebhookEndpoint
from domain.webhook_failure import Closed, Outcome, WebhookFailure
from domain.workflow import ProcessState
from tests.kit.builders import a_webhook, origin

LOST = GivenUpDelivery(DisabledReason.FAILING, "msg_0000000000000000000001", 10, None, "the receiver was too slow")


def given_up(endpoint: WebhookEndpoint) -> list[DeliveryGivenUp]:
    """The failures on the endpoint's record."""
    return [event for event in endpoint.pending_events if isinstance(event, DeliveryGivenUp)]


def failed() -> tuple[WebhookEndpoint, WebhookFailure]:
    """An endpoint with its first failure."""
    endpoint = a_webhook()
    endpoint.give_up(LOST, after=0, by=origin())
    return endpoint, WebhookFailure.of(given_up(endpoint)[0], by=origin())


def test_of_deliveries_that_are_given_up_at_once_the_first_counts() -> None:
    """Whoever found out while there was no failure yet comes too late with the second one."""
    endpoint = a_webhook()
    for _ in range(2):
        endpoint.give_up(LOST, after=0, by=origin())
    assert [event.number for event in given_up(endpoint)] == [1]
    endpoint.give_up(LOST, after=1, by=origin())
    assert [event.number for event in given_up(endpoint)] == [1, 2]


@pytest.mark.parametrize("deed", ["disable", "delete"])
def test_an_endpoint_that_is_not_enabled_does_not_fail(deed: str) -> None:
    """Disabled or deleted, nothing is given up any more."""
    endpoint = a_webhook()
    if deed == "disable":
        endpoint.disable(reason=DisabledReason.OWNER, by=origin())
    else:
        endpoint.delete(by=origin())
    endpoint.give_up(LOST, after=0, by=origin())
    assert given_up(endpoint) == []


def test_each_failure_of_each_endpoint_is_a_process_of_its_own() -> None:
    """The id follows from both, and is the same whoever asks."""
    first, second = (a_webhook(number=number).id for number in (1, 2))
    ids = {WebhookFailureId.of(each, number) for each in (first, second) for number in (1, 2, 11)}
    assert len(ids) == 6
    assert WebhookFailureId.of(first, 1) in ids


DEEDS = {
    Outcome.DISABLED: "",
    Outcome.WAS_DISABLED: "disable",
    Outcome.WAS_ENABLED: "disable enable",
    Outcome.DELETED: "disable enable delete",
}


@pytest.mark.parametrize(("outcome", "deeds"), DEEDS.items())
def test_a_failure_is_closed_by_what_is_found(outcome: Outcome, deeds: str) -> None:
    """The endpoint is to be disabled only where nobody has done anything since."""
    endpoint, failure = failed()
    for deed in deeds.split():
        match deed:
            case "disable":
                endpoint.disable(reason=DisabledReason.OWNER, by=origin())
            case "enable":
                endpoint.enable(by=origin())
            case _:
                endpoint.delete(by=origin())
    assert failure.look(endpoint, by=origin()) == (outcome is Outcome.DISABLED)
    last: Event = failure.pending_events[-1]
    assert isinstance(last, Closed)
    assert (last.outcome, failure.state, failure.timers) == (outcome, ProcessState.ENDED, ())
