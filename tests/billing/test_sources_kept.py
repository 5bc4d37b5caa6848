"""The row of a source: what may be typed, whose secret it keeps, and that nobody sees it again."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing import estimating, metering
from billing.models import UsageSource
from billing.sources import VENDORS, SourceUnavailable, estimator_of, one_line, place_of
from tests import factories
from tests.billing.fake_api import as_json
from tests.billing.fake_bunny import FakeBunny
from tests.billing.fake_cloudflare import FakeCloudflare
from tests.billing.fake_fastly import FakeFastly
from tranche_site.floor import sealed

NOW = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
ZONE = "023e105f4ecef8ad9ca31a8372d0c353"
ROLE = "arn:aws:iam::123456789012:role/tranche-logs"

GOOD: dict[str, dict[str, Any]] = {
    "directory": {"format": "cloudfront", "location": "/var/log/cdn"},
    "s3": {"format": "cloudfront", "location": "my-logs/cf/"},
    "bunny": {"format": "cloudfront", "location": "60367"},
    "cloudflare_graphql": {"options": {"zones": {ZONE: "example.com"}}},
    "fastly_stats": {"options": {"service_ids": {"SU1Z0isxPaozGVKXdv0eY": "www.example.com"}}},
}


def unsaved(kind: str, **more: Any) -> UsageSource:
    return UsageSource(**{"name": "logs", "cdn_id": 1, "kind": kind} | GOOD[kind] | more)


def saved(kind: str, **more: Any) -> UsageSource:
    fields = {"name": f"{kind} of {len(UsageSource.objects.all())}", "cdn": factories.cdn(), "kind": kind}
    return UsageSource.objects.create(**fields | GOOD[kind] | more)


# --- what people type ---------------------------------------------------------------------------------------------


def test_each_kind_has_its_vendor() -> None:
    assert list(UsageSource.Kind.values) == list(VENDORS)
    for kind, vendor in VENDORS.items():
        assert UsageSource.Kind(kind).label == vendor.title
        assert (vendor.place is None) != (vendor.estimator is None)
    assert [kind for kind, vendor in VENDORS.items() if vendor.place] == list(UsageSource.LOG_KINDS)
    assert [kind for kind, vendor in VENDORS.items() if vendor.estimator] == list(UsageSource.ESTIMATE_KINDS)


@pytest.mark.django_db
@pytest.mark.parametrize("kind", GOOD)
def test_what_is_right_passes(kind: str) -> None:
    saved(kind).full_clean()


@pytest.mark.parametrize(
    ("kind", "typed", "field", "text"),
    [
        ("directory", {"location": "var/log"}, "location", "from the root on, such as /var/log/cdn"),
        ("directory", {"location": ""}, "location", "Name a directory"),
        ("directory", {"format": ""}, "format", "Choose the format of the logs."),
        ("directory", {"endpoint_url": "https://x.example"}, "endpoint_url", "“Directory” has none: leave it empty."),
        ("directory", {"access_key_id": "AKIA"}, "access_key_id", "leave it empty"),
        ("directory", {"role_arn": ROLE}, "role_arn", "leave it empty"),
        ("s3", {"location": ""}, "location", "Name a bucket"),
        ("s3", {"location": "/logs"}, "location", "Name a bucket"),
        ("s3", {"location": "https://logs.s3.amazonaws.com/"}, "location", "Name a bucket"),
        ("s3", {"role_arn": "tranche-logs"}, "role_arn", "such as arn:aws:iam::123456789012:role/tranche-logs"),
        ("s3", {"role_arn": ROLE.replace("role/", "user/")}, "role_arn", "Write the ARN of a role"),
        ("s3", {"role_arn": ROLE, "external_id": "two words"}, "external_id", "Leave it empty, and one is made"),
        ("s3", {"external_id": "an-id"}, "external_id", "It goes with a role"),
        ("s3", {"access_key_id": "AKIA/secret"}, "access_key_id", "letters and digits only"),
        ("bunny", {"location": "60367.log"}, "location", "such as 60367"),
        ("bunny", {"location": "../60367"}, "location", "such as 60367"),
        ("bunny", {"access_key_id": "AKIA"}, "access_key_id", "leave it empty"),
        ("cloudflare_graphql", {"format": "cloudfront"}, "format", "reads no logs: leave it empty"),
        ("cloudflare_graphql", {"location": "x"}, "location", "leave it empty"),
        ("cloudflare_graphql", {"options": {}}, "options", "zones: name each zone by its ID"),
        ("cloudflare_graphql", {"options": {"zones": [ZONE]}}, "options", "zones: name each zone by its ID"),
        ("cloudflare_graphql", {"options": {"zones": {"example.com": ZONE}}}, "options", "“example.com” is no zone ID"),
        ("cloudflare_graphql", {"options": {"zones": {ZONE: "com"}}}, "options", "“com” is no name of a zone"),
        ("cloudflare_graphql", {"options": {"zones": {ZONE: 5}}}, "options", "“5” is no name of a zone"),
        ("cloudflare_graphql", {"options": {"zones": {ZONE: "a.example"}, "sample_rate": "1"}}, "options", "there is zones"),
        ("fastly_stats", {"options": {}}, "options", "service_ids: name each Fastly service"),
        ("fastly_stats", {"options": {"service_ids": {"a/b": "www.example.com"}}}, "options", "“a/b” is no ID"),
        ("fastly_stats", {"options": {"service_ids": {"ab": "WWW.example.com"}}}, "options", "is no hostname"),
        ("fastly_stats", {"options": {"service_ids": {"ab": None}}}, "options", "“None” is no hostname"),
        ("fastly_stats", {"options": {"service_ids": {"a": "w.example", "b": "w.example"}}}, "options", "by two services"),
        ("s3", {"options": []}, "options", "Write an object"),
        ("s3", {"options": {"zone": "x"}}, "options", "zone: nothing is called so here; there is sample_rate and fields."),
        ("s3", {"options": {"api_token": "x"}}, "options", "api_token: secrets are not kept here"),
        ("s3", {"options": {"secret_access_key": "x"}}, "options", "secret_access_key: secrets are not kept here"),
        ("s3", {"options": {"fields": []}}, "options", "fields: write an object, such as"),
        ("s3", {"options": {"fields": {"host": "h"}}}, "options", "has fixed field names: leave the field map empty"),
        ("s3", {"format": "fastly", "options": {"fields": {}}}, "options", "fields: "),
        ("s3", {"format": "fastly", "options": {"fields": {"host": 5}}}, "options", "fields: "),
        *[
            ("s3", {"options": {"sample_rate": rate}}, "options", 'sample_rate: write a number above 0 and at most 1, in')
            for rate in (0.1, 1, True, None, "", "0", "-0.1", "1.1", "10%", "NaN", "Infinity", "1e-99999999", "x" * 99)
        ],
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_its_field(kind: str, typed: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        unsaved(kind, **typed).clean()
    assert list(caught.value.message_dict) == [field]
    assert text in " ".join(caught.value.message_dict[field])


def test_a_key_and_a_role_go_nowhere_else(settings: Any) -> None:
    settings.LOGS_ALLOW_PRIVATE = False
    for kind in ("bunny", "cloudflare_graphql", "fastly_stats"):
        with pytest.raises(ValidationError, match="the vendor’s own API, and nowhere else"):
            unsaved(kind, endpoint_url="https://evil.example").clean()
    role = {"role_arn": ROLE, "external_id": "an-id"}
    with pytest.raises(ValidationError, match="A role is Amazon’s"):
        refuse(unsaved("s3", endpoint_url="https://evil.example", **role))
    refuse(unsaved("s3", endpoint_url="https://s3.eu-west-1.amazonaws.com", **role))
    refuse(unsaved("s3", endpoint_url="https://minio.example"))


def refuse(source: UsageSource) -> None:
    for field, text in VENDORS[source.kind].problems(source.access()):
        raise ValidationError({field: text})


@given(st.decimals(min_value="0.000001", max_value=1, places=6).map(lambda rate: f"{rate:f}"))
def test_a_sample_rate_is_exact(rate: str) -> None:
    source = unsaved("s3", options={"sample_rate": rate})
    source.clean()
    assert source.sample_rate == Fraction(rate)
    assert unsaved("s3").sample_rate == 1


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
    | st.dictionaries(st.sampled_from(["zones", "service_ids", "sample_rate", "fields", ZONE, "abc"]), inner)))  # fmt: skip
def test_whatever_is_typed_as_options_is_judged(options: Any) -> None:
    for kind in GOOD:
        source = unsaved(kind, options=options)
        try:
            source.clean()
        except ValidationError as error:
            assert list(error.message_dict) == ["options"]


@pytest.mark.django_db
def test_an_estimate_has_no_format_and_a_log_has_one() -> None:
    for kind, format in (("fastly_stats", "cloudfront"), ("s3", "")):
        with pytest.raises(IntegrityError, match="usage_sources_format_of_logs"), transaction.atomic():
            saved(kind, format=format)


@pytest.mark.django_db
def test_a_role_gets_an_external_id_that_no_other_customer_has() -> None:
    one, other = factories.customer(), factories.customer()
    first = saved("s3", customer=one, role_arn=ROLE)
    first.full_clean()
    first.save()
    assert len(first.external_id) >= 32
    second = saved("s3", customer=other, role_arn=ROLE)
    second.full_clean()
    assert second.external_id != first.external_id
    factories.dns_account("route53", customer=other, options={"external_id": "of-their-zones"})
    for stolen in (first.external_id, "of-their-zones"):
        for thief in (None, one if stolen == "of-their-zones" else other):
            with pytest.raises(ValidationError, match="Another customer’s account has this one"):
                unsaved("s3", customer=thief, role_arn=ROLE, external_id=stolen).clean()
    unsaved("s3", customer=one, role_arn=ROLE, external_id=first.external_id).clean()


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_secret_is_sealed_and_bound_to_its_row() -> None:
    one, other = saved("bunny"), saved("bunny")
    with pytest.raises(ValueError, match="save the source before its secret"):
        unsaved("bunny").seal("canary-4711")
    one.seal("canary-4711")
    one.save()
    assert "canary" not in one.sealed_credentials
    assert UsageSource.objects.get(pk=one.pk).secret() == "canary-4711"
    other.sealed_credentials = one.sealed_credentials
    with pytest.raises(sealed.SealedError, match=f"usage_source:{other.pk}:credentials does not open"):
        other.secret()
    with pytest.raises(SourceUnavailable, match="does not open"):
        place_of(other, NOW)
    one.seal("")
    assert (one.sealed_credentials, one.secret()) == ("", "")
    assert "canary" not in repr(unsaved("bunny").access("canary-4711"))


@pytest.mark.django_db
def test_without_a_secret_nothing_is_asked() -> None:
    for kind in ("bunny", "cloudflare_graphql", "fastly_stats"):
        with pytest.raises(SourceUnavailable, match="the secret is missing: set it in the console"):
            (estimator_of if kind in UsageSource.ESTIMATE_KINDS else place_of)(saved(kind), NOW)
    with pytest.raises(SourceUnavailable, match="access_key_id without its secret"):
        place_of(saved("s3", access_key_id="AKIA"), NOW)
    with pytest.raises(SourceUnavailable, match="role_arn without an external_id"):
        place_of(saved("s3", role_arn=ROLE), NOW)
    with pytest.raises(SourceUnavailable, match="is no place of logs"):
        place_of(saved("fastly_stats"), NOW)
    with pytest.raises(SourceUnavailable, match="has no estimates"):
        estimator_of(saved("s3"), NOW)


@pytest.fixture
def apis() -> Iterator[dict[str, Any]]:
    with FakeBunny(NOW) as bunny, FakeCloudflare(NOW) as cloudflare, FakeFastly(NOW) as fastly:
        yield {"bunny": bunny, "cloudflare_graphql": cloudflare, "fastly_stats": fastly}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["bunny", "cloudflare_graphql", "fastly_stats"])
@pytest.mark.parametrize("is_quoted", [True, False])
def test_a_last_error_is_one_short_line_without_the_secret(kind: str, is_quoted: bool, apis: dict[str, Any]) -> None:
    """The fakes quote a key that they refuse, as servers do; or a whole page of it comes back."""
    secret, api = "wrong-canary-4711/+=", apis[kind]
    factories.target(domain=factories.domain(hostname="www.example.com"), cdn=(cdn := factories.cdn()))
    source = saved(kind, cdn=cdn, endpoint_url=api.url)
    source.seal(secret)
    source.save()
    if not is_quoted:
        api.next = [as_json(400, {"msg": f"{secret} \x00 \n" * 200})]
    if kind in UsageSource.ESTIMATE_KINDS:
        estimating.estimate(source, NOW)
    else:
        metering.collect(source, apply=True, now=NOW)
    source.refresh_from_db()
    assert api.calls and 10 < len(source.last_error) <= 500
    assert source.last_error.isprintable()
    assert "canary" not in source.last_error
    assert source.listed_at is None


@given(st.text(), st.text(min_size=1))
def test_a_reason_is_one_line_that_can_be_stored(text: str, secret: str) -> None:
    line = one_line(f"{text}{secret}{text}\x00\n\u2028{text}", [secret])
    assert line == "" or line.isprintable()
    assert len(line) <= 500
    assert len(secret) < 10 or secret not in line


# --- the key is exchanged -----------------------------------------------------------------------------------------


def entry(name: str, fill: int) -> str:
    return f"{name}:{base64.b64encode(bytes([fill]) * 32).decode()}"


@pytest.mark.django_db(transaction=True)
def test_rotating_credentials_seals_those_of_sources_too(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [entry("old", 2)]
    sources = [saved("bunny") for _ in range(3)]
    for number, source in enumerate(sources):
        source.seal(f"canary {number}")
        source.save()
    account = factories.dns_account()
    account.seal({"api_key": "theirs"})
    account.save()
    sources[2].sealed_credentials = sources[1].sealed_credentials
    sources[2].save()
    settings.CREDENTIAL_KEYS = [entry("new", 1), entry("old", 2)]
    for arguments in ((), ("--apply",)):
        out = StringIO()
        with pytest.raises(CommandError, match=rf"so left as they are: usage sources {sources[2].pk}$"):
            call_command("rotate_credentials", *arguments, stdout=out, stderr=out)
        assert "4 accounts are sealed with another key than “new”" in out.getvalue()
        assert f"usage source {sources[2].pk}: " in out.getvalue()
        assert "canary" not in out.getvalue()
    settings.CREDENTIAL_KEYS = [entry("new", 1)]
    for number, source in enumerate(sources[:2]):
        source.refresh_from_db()
        assert source.secret() == f"canary {number}"
    account.refresh_from_db()
    assert account.credentials() == {"api_key": "theirs"}


# --- when it is looked at -----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_listing_goes_back_to_the_last_one_and_once_a_day_to_the_beginning() -> None:
    source = saved("s3")
    assert source.listing_since(NOW) is None
    source.listed_at = NOW - timedelta(seconds=10)
    assert source.listing_since(NOW) is None
    source.listed_whole_at = NOW - timedelta(hours=23, minutes=59)
    assert source.listing_since(NOW) == source.listed_at
    assert source.listing_since(NOW + timedelta(minutes=1)) is None


@pytest.mark.django_db
def test_only_vendors_that_limit_calls_keep_anybody_waiting() -> None:
    s3, bunny = saved("s3"), saved("bunny")
    assert s3.claim_look(NOW) and s3.claim_look(NOW)
    assert bunny.claim_look(NOW) and not bunny.claim_look(NOW + timedelta(seconds=299))
    for asked, seconds in ((0, 60), (137, 137), (10**9, 3600)):
        bunny.put_off(NOW, asked)
        bunny.refresh_from_db()
        assert bunny.next_look_at == NOW + timedelta(seconds=seconds)
    s3.put_off(NOW, 137)
    s3.refresh_from_db()
    assert s3.next_look_at is None
