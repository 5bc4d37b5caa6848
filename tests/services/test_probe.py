"""Every outcome that a reply can have. No I/O."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services import outcomes
from services.outcomes import Outcome
from services.probe import Fault, Probe, Reply, classify

PROBE = Probe("www.example.com", "edge.example.net")
OKAY = Reply(datetime(2026, 11, 23, tzinfo=UTC), status=200, body=b"all is well")


def outcome_of(reply: Reply, **probe: object) -> Outcome:
    return classify(replace(PROBE, **probe), reply).outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, Outcome.OK) for status in (200, 201, 204, 206, 299, 300, 301, 302, 304, 308, 399)),
        *((status, Outcome.WRONG_STATUS) for status in (100, 101, 199, 400, 401, 402, 404, 405, 410, 418, 451, 499)),
        *((status, Outcome.BLOCKED) for status in (403, 429)),
        *((status, Outcome.HTTP_5XX) for status in (500, 501, 502, 503, 504, 511, 519, 528, 529, 531, 540, 598, 599)),
        *((status, Outcome.EDGE_ERROR) for status in (520, 521, 522, 523, 524, 525, 526, 527, 530)),
        *((status, Outcome.WRONG_STATUS) for status in (600, 700, 999)),
    ],
)
def test_a_status_has_its_class(status: int, outcome: Outcome) -> None:
    assert outcome_of(replace(OKAY, status=status)) is outcome


@pytest.mark.parametrize("status", [100, 401, 403, 404, 418, 429, 500, 503, 520, 527, 530, 599])
def test_an_expected_code_wins_over_what_it_would_mean(status: int) -> None:
    assert outcome_of(replace(OKAY, status=status), expected=frozenset({status})) is Outcome.OK


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.WRONG_STATUS),
        (301, Outcome.WRONG_STATUS),
        (404, Outcome.WRONG_STATUS),
        (403, Outcome.BLOCKED),
        (503, Outcome.HTTP_5XX),
        (522, Outcome.EDGE_ERROR),
        (204, Outcome.OK),
    ],
)
def test_only_expected_codes_are_good(status: int, outcome: Outcome) -> None:
    assert outcome_of(replace(OKAY, status=status), expected=frozenset({204})) is outcome


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault.DNS, Outcome.DNS),
        (Fault.CONNECT, Outcome.CONNECT),
        (Fault.TLS, Outcome.TLS),
        (Fault.TIMEOUT, Outcome.TIMEOUT),
        (Fault.OURS, Outcome.UNKNOWN),
    ],
)
def test_a_fault_has_its_class_and_keeps_its_words(fault: Fault, outcome: Outcome) -> None:
    verdict = classify(PROBE, replace(OKAY, status=None, fault=fault, fault_text="said so"))
    assert (verdict.outcome, verdict.reason) == (outcome, "said so")


def test_every_fault_has_a_class() -> None:
    assert {classify(PROBE, replace(OKAY, status=None, fault=fault)).reason for fault in Fault} == {
        "no response arrived"
    }


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_wins_over_a_good_status(fault: Fault) -> None:
    assert outcome_of(replace(OKAY, fault=fault)) is not Outcome.OK


def test_neither_status_nor_fault_is_a_failed_connection() -> None:
    assert outcome_of(replace(OKAY, status=None)) is Outcome.CONNECT


@pytest.mark.parametrize(
    ("body", "marker", "method", "outcome"),
    [
        (b"all is well", b"is", "GET", Outcome.OK),
        (b"all is well", b"all is well", "GET", Outcome.OK),
        (b"all is well", b"ALL", "GET", Outcome.WRONG_BODY),
        (b"all is well", b"welll", "GET", Outcome.WRONG_BODY),
        (b"", b"x", "GET", Outcome.WRONG_BODY),
        (b"", b"", "GET", Outcome.OK),
        (b"", b"x", "HEAD", Outcome.OK),
        ("schön".encode(), "schön".encode(), "GET", Outcome.OK),
        ("schön".encode("latin-1"), "schön".encode(), "GET", Outcome.WRONG_BODY),
    ],
)
def test_the_marker_stands_in_the_body(body: bytes, marker: bytes, method: str, outcome: Outcome) -> None:
    assert outcome_of(replace(OKAY, body=body), body_marker=marker, method=method) is outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(500, Outcome.HTTP_5XX), (521, Outcome.EDGE_ERROR), (403, Outcome.BLOCKED), (404, Outcome.WRONG_STATUS)],
)
def test_a_missing_marker_hides_no_failing_status(status: int, outcome: Outcome) -> None:
    assert outcome_of(replace(OKAY, status=status), body_marker=b"missing") is outcome


def test_an_expected_code_needs_the_marker_too() -> None:
    down = replace(OKAY, status=503)
    assert outcome_of(down, expected=frozenset({503}), body_marker=b"missing") is Outcome.WRONG_BODY


def test_a_good_reply_needs_no_reason_and_every_other_has_one() -> None:
    assert classify(PROBE, OKAY).reason == ""
    for status in (403, 404, 500, 522):
        assert f"status {status}" in classify(PROBE, replace(OKAY, status=status)).reason
    wrong = classify(replace(PROBE, body_marker=b"\xffmarker"), OKAY)
    assert "marker” is not in the body" in wrong.reason
    wrong.reason.encode()


def test_every_outcome_is_good_bad_set_aside_or_unknown() -> None:
    classes = [outcomes.BAD, outcomes.SET_ASIDE, {Outcome.OK}, {Outcome.UNKNOWN}]
    assert sum(map(len, classes)) == len(Outcome) == len(set().union(*classes))
