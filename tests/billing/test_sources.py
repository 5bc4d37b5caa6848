"""Directories and buckets: what is listed, and that what is fetched is what was listed."""

from __future__ import annotations

import gzip
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from billing import metering
from billing.models import LogObject, UsageBucket, UsageSource
from billing.sources import Bucket, Directory, ListedObject, ObjectGone, SourceUnavailable
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
