"""Our `dns` stands where dnspython's would: nothing may need that one, and nothing of ours may look like it."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import dns

REPOSITORY = Path(__file__).resolve().parents[1]
DNSPYTHON_MODULES = {
    "asyncbackend", "asyncquery", "asyncresolver", "btree", "btreezone", "dnssec", "dnssectypes", "e164", "edns", "entropy",
    "enum", "exception", "flags", "grange", "immutable", "inet", "ipv4", "ipv6", "message", "name", "namedict", "nameserver",
    "node", "opcode", "query", "quic", "rcode", "rdata", "rdataclass", "rdataset", "rdatatype", "rdtypes", "renderer",
    "resolver", "reversename", "rrset", "serial", "set", "tokenizer", "transaction", "tsig", "tsigkeyring", "ttl", "update",
    "version", "versioned", "win32util", "wire", "xfr", "zone", "zonefile", "zonetypes",
}  # fmt: skip


def test_dns_is_ours() -> None:
    assert [Path(place) for place in dns.__path__] == [REPOSITORY / "dns"]


def test_dnspython_is_neither_installed_nor_wanted() -> None:
    installed = {distribution.name.lower() for distribution in metadata.distributions()}
    assert "django" in installed
    assert "dnspython" not in installed
    wanted = re.findall(r"^[\w.-]+", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    assert len(wanted) > 10
    # What pulls it in by itself.
    assert not {name.lower() for name in wanted} & {"dnspython", "eventlet", "email-validator", "motor"}


def test_no_installed_package_brings_a_top_level_name_of_ours() -> None:
    ours = {"customers", "services", "storms", "dns", "billing", "tranche_site", "tests"}
    theirs = metadata.packages_distributions()
    assert "django" in theirs
    assert not ours & set(theirs)


def test_no_file_of_ours_bears_a_name_of_dnspython() -> None:
    names = {path.stem for path in (REPOSITORY / "dns").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert "models" in names
    assert not names & DNSPYTHON_MODULES
