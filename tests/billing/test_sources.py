"""Directories and buckets: what is listed, and that what is fetched is what was listed."""

from __future__ import annotations

import gzip
import os
import random
import socket
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st
from moto.backends import get_backend
from moto.server import ThreadedMotoServer

from billing import metering, s3_session
from billing.models import LogObject, UsageBucket, UsageSource
from billing.sources import Bucket, Directory, ListedObject, ObjectGone, SourceUnavailable
from billing.sources import s3 as s3_source
from billing.sources.names import earliest
from billing.sources.s3 import Keys
from tests import factories
from tests.billing.log_lines import logpush
from tests.services import tls
from tests.services.tls import pki_fixture  # noqa: F401

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def keys(place: Directory | Bucket) -> list[str]:
    return [item.key for item in place.objects()]


def test_a_directory_lists_finished_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "20260301").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.log", "a.log.gz", ".c.log", "d.tmp", "e.part", "20260301/f.log", ".hidden/g.log"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.log").symlink_to(tmp_path / "b.log")
    os.mkfifo(tmp_path / "pipe.log")
    assert keys(Directory(tmp_path)) == ["20260301/f.log", "a.log.gz", "b.log"]


def test_a_directory_lists_by_key(tmp_path: Path) -> None:
    names = ["a.b", "a/x", "a-b", "a0", "b/c/d", "b/c.d", "b/c-d", "B", "é", "a/é/z"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert keys(Directory(tmp_path)) == sorted(names)


def test_a_files_etag_changes_with_its_content_or_time(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    etags = set()
    for content, moment in (("a", 1), ("a", 2), ("ab", 2)):
        path.write_text(content)
        os.utime(path, ns=(0, moment))
        etags |= {item.etag for item in Directory(tmp_path).objects()}
    assert len(etags) == 3


def test_a_name_that_is_not_utf_8_can_be_stored(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.log")).write_text("content")
    place = Directory(tmp_path)
    (item,) = place.objects()
    assert item.key == r"\xff.log"
    with place.fetched(item) as path:
        assert path.read_text() == "content"


def test_a_file_that_changes_while_it_is_read_is_not_what_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("a")
    place = Directory(tmp_path)
    (item,) = place.objects()
    with pytest.raises(ObjectGone), place.fetched(item):
        path.write_text("more")
    with pytest.raises(ObjectGone), place.fetched(item):
        path.unlink()


def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="No such file"):
        keys(Directory(tmp_path / "missing"))


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(store: str) -> Iterator[Any]:
    client = boto3.client("s3", endpoint_url=store)
    client.create_bucket(Bucket="logs")
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="logs"):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket="logs", Key=item["Key"])
    client.delete_bucket(Bucket="logs")
    client.close()


def test_a_bucket_lists_all_pages_below_its_prefix(s3: Any, store: str) -> None:
    for name in ("cf/20260301/a.gz", "cf/.b", "cf/c.tmp", "cf/", "other/d.gz"):
        s3.put_object(Bucket="logs", Key=name, Body=b"x")
    place = Bucket("logs", "cf/", store)
    assert keys(place) == ["cf/20260301/a.gz"]
    for number in range(1005):
        s3.put_object(Bucket="logs", Key=f"cf/{number:05}", Body=b"x")
    assert len(keys(place)) == 1006


def test_what_is_fetched_from_a_bucket_is_what_was_listed(s3: Any, store: str) -> None:
    s3.put_object(Bucket="logs", Key="a", Body=b"first")
    place = Bucket("logs", "", store)
    (item,) = place.objects()
    with place.fetched(item) as path:
        assert path.read_bytes() == b"first"
    assert not path.exists()
    s3.put_object(Bucket="logs", Key="a", Body=b"second")
    with pytest.raises(ObjectGone), place.fetched(item):
        pass
    with pytest.raises(ObjectGone), place.fetched(ListedObject("missing", "0", 0)):
        pass


@pytest.mark.parametrize(("bucket", "endpoint"), [("nobodys", None), ("logs", "http://127.0.0.1:1"), ("logs", "x:/")])
def test_a_bucket_that_cant_be_listed_is_said(store: str, bucket: str, endpoint: str | None) -> None:
    with pytest.raises(SourceUnavailable):
        keys(Bucket(bucket, "", endpoint or store))


# --- what is new ----------------------------------------------------------------------------------------------------

MARCH = date(2026, 3, 5)


@pytest.mark.parametrize(
    ("key", "start"),
    [
        ("cf/20260301/20260301T100000Z_20260301T100030Z_ab12.log.gz", "cf/20260305"),
        ("cf/E1ABC.2026-03-01-10.ab12.gz", "cf/E1ABC.2026-03-05"),
        ("AWSLogs/123456789012/CloudFront/E1ABC.2026-03-01-10.ab12.gz", "AWSLogs/123456789012/CloudFront/E1ABC.2026-03-05"),
        ("fastly/2026-03-01T10:00:00.000-ab12.log.gz", "fastly/2026-03-05"),
        ("v2/2026/03/01/10/E1ABC.gz", "v2/2026/03/05"),
        ("hours/2026030110.gz", "hours/20260305"),
        ("dt=2026-03-01/a.gz", "dt=2026-03-05"),
        ("cf/plain.log", ""),
        ("cf/123456789012/a.log", ""),
        ("cf/202603011234/a.log", ""),
        ("cf/20261301/a.log", ""),
        ("cf/2026-03/01/a.log", ""),
        ("cf/19990301/a.log", ""),
    ],
)  # fmt: skip
def test_names_tell_their_day(key: str, start: str) -> None:
    assert earliest(key, 0, MARCH) == start


def test_a_day_that_somebody_typed_is_not_one_of_a_name() -> None:
    assert earliest("cf/20260301/a.log", len("cf/20260301/"), MARCH) == ""


_days = st.dates(date(2020, 1, 1), date(2090, 1, 1))


@given(
    st.sampled_from(["%Y%m%d/", "%Y-%m-%d", "%Y/%m/%d/", "%Y%m%d%H"]),
    st.text("abcz0-/._", max_size=12).filter(lambda text: not text[-1:].isdigit()),
    _days, _days, st.text("abcz/._", max_size=9),
)  # fmt: skip
def test_names_of_that_day_and_later_begin_there(form: str, before: str, day: date, other: date, after: str) -> None:
    def name(of: date) -> str:
        return before + datetime(of.year, of.month, of.day, 10).strftime(form) + after + "!"  # noqa: DTZ001

    start = earliest(name(other), 0, day)
    if start.startswith(before) and start != "" and start[len(before) :].startswith("20"):
        assert (name(other) >= start) == (other >= day)


NAMES = {
    "Logpush": lambda zone, at, n: f"{zone}/{at:%Y%m%d}/{at:%Y%m%dT%H%M%SZ}_{n:06}.log.gz",
    "CloudFront": lambda zone, at, n: f"{zone}.{at:%Y-%m-%d-%H}.{n:06}.gz",
    "Fastly": lambda zone, at, n: f"{zone}/{at:%Y-%m-%dT%H:%M:%S}.000-{n:06}.log",
    "parts": lambda zone, at, n: f"{zone}/{at:%Y/%m/%d/%H}/{n:06}.gz",
    "no time": lambda zone, at, n: f"{zone}/{n:06}.gz",
}


@pytest.mark.parametrize("form", NAMES)
def test_what_comes_a_day_late_is_found_and_what_is_old_is_passed_over(s3: Any, store: str, form: str) -> None:
    """Each hour some files come, with names up to 24 hours back, in three families; each is seen, and seen at once."""
    chance, number = random.Random(form), 0
    place = Bucket("logs", "cf/", store)
    seen: set[str] = set()
    delivered: list[str] = []
    since = None
    for hour in range(0, 24 * 9, 6):
        now = NOW + timedelta(hours=hour)
        for _ in range(3):
            number += 1
            at = now - timedelta(seconds=chance.randrange(24 * 3600))
            name = "cf/" + NAMES[form](chance.choice(["E1", "E2", "zone-b"]), at, number)
            s3.put_object(Bucket="logs", Key=name, Body=b"x")
            delivered.append(name)
        listed = keys(place) if since is None else [item.key for item in place.objects(since)]
        assert listed == sorted(listed)
        assert len(set(listed)) == len(listed)
        seen |= set(listed)
        assert seen == set(delivered)
        since = now
    assert sorted(keys(place)) == sorted(delivered)
    if form != "no time":
        assert len(listed) < len(delivered) / 2
    s3.put_object(Bucket="logs", Key=f"cf/{NAMES[form]('E1', NOW - timedelta(days=9), 0)}", Body=b"x")
    assert len(keys(place)) == len(delivered) + 1  # the listing of a day finds what no name could promise


def test_old_files_are_passed_over_a_family_at_a_time(s3: Any, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("E1", "E2"):
        for number in range(1005):
            s3.put_object(Bucket="logs", Key=f"cf/{family}.2026-01-01-00.{number:05}.gz", Body=b"x")
        s3.put_object(Bucket="logs", Key=f"cf/{family}.2026-03-02-00.new.gz", Body=b"x")
    place = Bucket("logs", "cf/", store)
    calls: list[dict[str, Any]] = []
    place.client.meta.events.register(
        "before-parameter-build.s3.ListObjectsV2", lambda params, **_: calls.append(params)
    )
    new = ["cf/E1.2026-03-02-00.new.gz", "cf/E2.2026-03-02-00.new.gz"]
    assert [item.key for item in place.objects(NOW)] == new
    assert [call.get("StartAfter", "") for call in calls] == ["", "cf/E1.2026-02-28", "cf/E2.2026-02-28"]
    monkeypatch.setattr(s3_source, "_MOST_JUMPS", 1)
    assert len(list(place.objects(NOW))) == 1005 + 2


# --- whose credentials ----------------------------------------------------------------------------------------------

ROLE = "arn:aws:iam::123456789012:role/tranche-logs"


def test_a_role_is_assumed_with_its_external_id_and_once(s3: Any, store: str) -> None:
    s3.put_object(Bucket="logs", Key="a", Body=b"x")
    sts = get_backend("sts")["123456789012"]["aws"]
    before = len(sts.assumed_roles)
    keys_of_role = Keys(role_arn=ROLE, external_id="canary-external-id")
    for _ in range(2):
        place = Bucket("logs", "", store, keys_of_role)
        assert keys(place) == ["a"]
    (assumed,) = sts.assumed_roles[before:]
    assert (assumed.arn.split(":")[-1], assumed.external_id) == (
        "assumed-role/tranche-logs/tranche", "canary-external-id",
    )  # fmt: skip
    used = place.client._request_signer._credentials.get_frozen_credentials()
    assert (used.access_key, used.token) == (assumed.access_key_id, assumed.session_token)
    assert keys(Bucket("logs", "", store, keys_of_role._replace(access_key_id="AKIAOTHER", secret="x" * 40))) == ["a"]
    assert len(sts.assumed_roles) == before + 2, "what one may use was given to another"
    s3_session.forget(keys_of_role)
    assert keys(Bucket("logs", "", store, keys_of_role)) == ["a"]
    assert len(sts.assumed_roles) == before + 3


def test_keys_of_its_own_are_used_where_it_has_some(s3: Any, store: str) -> None:
    place = Bucket("logs", "", store, Keys("AKIAOWN", "canary-secret"))
    used = place.client._request_signer._credentials.get_frozen_credentials()
    assert (used.access_key, used.secret_key) == ("AKIAOWN", "canary-secret")
    assert keys(place) == []


@pytest.mark.parametrize("asked", ["role", "keys"])
def test_a_refusal_has_no_secret_in_it_and_has_the_role_asked_again(
    s3: Any, store: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Keys("AKIAOWN", "canary-secret", *((ROLE, "an-id") if asked == "role" else ()))
    place = Bucket("logs", "", store, given)
    assert keys(place) == []

    def refuse(**_: Any) -> None:
        said = {"Error": {"Code": "AccessDenied", "Message": "not\nwith\x00canary-secret"}}
        raise ClientError(said | {"ResponseMetadata": {"HTTPStatusCode": 403}}, "ListObjectsV2")  # type: ignore[arg-type]

    place.client.meta.events.register("before-parameter-build.s3.ListObjectsV2", refuse)
    with pytest.raises(SourceUnavailable, match=r"not with \[secret\]$") as caught:
        keys(place)
    assert "canary" not in str(caught.value)
    assert given not in s3_session._roles


def test_a_role_that_cant_be_assumed_is_said(tripwire: socket.socket, settings: Any) -> None:
    """The call to STS goes through the guard too."""
    settings.LOGS_ALLOW_PRIVATE = False
    place = Bucket("logs_", "", f"http://127.0.0.1:{tripwire.getsockname()[1]}", Keys(role_arn=ROLE, external_id="id"))
    with pytest.raises(SourceUnavailable, match="egress guard"):
        keys(place)
    assert is_untouched(tripwire)


# --- the egress guard -----------------------------------------------------------------------------------------------


@pytest.fixture
def tripwire() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def is_untouched(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_store_on_a_private_address_is_not_connected_to(
    scheme: str, host: str, tripwire: socket.socket, settings: Any
) -> None:
    settings.LOGS_ALLOW_PRIVATE = False
    place = Bucket("logs_", "cf/", f"{scheme}://{host}:{tripwire.getsockname()[1]}")
    with pytest.raises(SourceUnavailable, match=r"^s3://logs_/cf/: egress guard: .+ which is not the public internet$"):
        keys(place)
    with pytest.raises(SourceUnavailable, match="egress guard"), place.fetched(ListedObject("a", "0", 0)):
        pass
    assert is_untouched(tripwire)


def test_a_store_on_a_private_address_may_be_allowed(s3: Any, store: str, settings: Any) -> None:
    s3.put_object(Bucket="logs", Key="a", Body=b"x")
    place = Bucket("logs", "", store.replace("127.0.0.1", "localhost"))
    settings.LOGS_ALLOW_PRIVATE = False
    with pytest.raises(SourceUnavailable, match="egress guard"):
        keys(place)
    settings.LOGS_ALLOW_PRIVATE = True
    assert keys(place) == ["a"]


def test_a_store_on_another_port_is_not_connected_to(settings: Any) -> None:
    settings.LOGS_ALLOW_PRIVATE = False
    with pytest.raises(SourceUnavailable, match="egress guard: port 9000 is not one of 80, 443"):
        keys(Bucket("logs", "", "http://8.8.8.8:9000"))


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_proxy_of_the_environment_is_passed_by(
    is_allowed: bool, tripwire: socket.socket, s3: Any, store: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.LOGS_ALLOW_PRIVATE = is_allowed
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{tripwire.getsockname()[1]}")
    if is_allowed:
        assert keys(Bucket("logs", "", store)) == []
    else:
        with pytest.raises(SourceUnavailable, match="egress guard"):
            keys(Bucket("logs", "", store))
    assert is_untouched(tripwire)


def test_a_store_sees_its_own_name(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tls.TlsSite(pki / "good.pem")
    site.answer = tls.respond(200, b"<ListBucketResult></ListBucketResult>")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (site.address, site.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pki / "ca.pem"))
    assert keys(Bucket("logs_", "", f"https://{tls.HOST}:{site.port}")) == []
    site.close()
    (request,) = site.requests
    assert request.server_name == tls.HOST
    assert request.headers["host"] == f"{tls.HOST}:{site.port}"


def test_a_store_with_a_certificate_that_nobody_trusts_is_not_read(pki: Path) -> None:
    site = tls.TlsSite(pki / "good.pem")
    with pytest.raises(SourceUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        keys(Bucket("logs_", "", f"https://127.0.0.1:{site.port}"))
    site.close()
    assert site.requests == []


@pytest.mark.django_db
def test_usage_is_collected_from_a_bucket(s3: Any, store: str) -> None:
    path = factories.target(domain=factories.domain(hostname="www.example.com"))
    source = UsageSource.objects.create(
        name="bucket", cdn=path.cdn, kind="s3", format="cloudflare_logpush", location="logs/cf/", endpoint_url=store
    )
    s3.put_object(Bucket="logs", Key="cf/a.log.gz", Body=gzip.compress(f"{logpush()}\n".encode() * 3))
    metering.collect(source, apply=True, now=NOW)
    s3.put_object(Bucket="logs", Key="cf/a.log.gz", Body=gzip.compress(f"{logpush()}\n".encode() * 2))
    metering.collect(source, apply=True, now=NOW)
    assert not metering.collect(source, apply=True, now=NOW).objects
    assert UsageBucket.objects.get().requests == 2
    assert sorted(LogObject.objects.values_list("state", flat=True)) == ["counted", "replaced"]


@pytest.mark.django_db
@pytest.mark.parametrize("how", ["plainly", "by a link", "by dots"])
def test_a_directory_beside_those_that_are_allowed_is_no_source(tmp_path: Path, settings: Any, how: str) -> None:
    logs, secrets = tmp_path / "logs", tmp_path / "secrets"
    for place in (logs, secrets):
        place.mkdir()
        (place / "a.log").write_text("{}\n")
    settings.LOG_DIRECTORIES = [str(logs)]
    (logs / "link").symlink_to(secrets)
    location = {"plainly": secrets, "by a link": logs / "link", "by dots": f"{logs}/../secrets"}[how]
    source = UsageSource(
        name="s", cdn=factories.cdn(), kind="directory", format="cloudflare_logpush", location=str(location)
    )
    with pytest.raises(ValidationError, match="LOG_DIRECTORIES"):
        source.full_clean()
    source.save()  # by somebody who asks nobody
    [report] = metering.collect_all(apply=True, now=datetime.now(UTC))
    assert "LOG_DIRECTORIES" in report.error and not LogObject.objects.exists()
