"""DNS vendors: one file each, one contract (`contract.Provider`), and this dict, which lists them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dns.providers.contract import Provider

VENDORS = {
    "log": "dns.providers.log:LogProvider",
    "embedded": "dns.providers.embedded:EmbeddedProvider",
    "powerdns": "dns.providers.powerdns:PowerDnsProvider",
    "route53": "dns.providers.route53:Route53Provider",
}


def provider_class(vendor: str) -> type[Provider]:
    """The class behind a vendor's name, imported when first needed: boto3 alone costs 20 MB."""
    module, name = VENDORS[vendor].split(":")
    cls: type[Provider] = getattr(import_module(module), name)
    return cls


def has_apex(vendor: str) -> bool:
    """Whether this vendor can weigh answers at a zone's apex."""
    return provider_class(vendor).has_apex
