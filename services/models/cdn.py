"""CDNs: whose edges lie between visitors and origins."""

from __future__ import annotations

from django.db import models


class Cdn(models.Model):
    """A CDN, the same row for every customer on it: incidents, reference sites and log formats hang on it."""

    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(unique=True)
    suffixes = models.JSONField(
        default=list, blank=True, help_text='Suffixes of its edge names, for example ["cdn.cloudflare.net"].'
    )

    name_servers = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text='Patterns of the name servers of its own DNS, for example ["*.ns.cloudflare.com"]: DNS that falls with '
        "a CDN can't steer away from it.",
    )
    certificate_authorities = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text='Who issues its certificates, as CAA records name them, for example ["letsencrypt.org", "pki.goog"].',
    )

    class Meta:
        db_table = "cdns"
        ordering = ["name"]
        verbose_name = "CDN"
        verbose_name_plural = "CDNs"

    def __str__(self) -> str:
        return self.name
