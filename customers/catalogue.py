"""Every kind of event that there is: what it says, and whether customers hear of it. Writing any other is an error of ours."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Kind:
    """`is_public`: sent to the webhooks of the customer whose event it is. `version` is that of the payload's data: it
    grows when a field of it changes its meaning or goes, and not when one is added."""

    name: str
    meaning: str
    is_public: bool = True
    version: int = 1


_PUBLIC = {
    "storm.opened": "A storm began: the primary CDN fails, or a person declared it.",
    "storm.relapsed": "A storm that was over is back.",
    "storm.ended": "The primary is good again; traffic stays where it is until the storm closes.",
    "storm.closed": "The storm is closed: traffic may go home.",
    "storm.acknowledged": "A person of ours has seen the storm.",
    "weights.wanted": "Another distribution of traffic is wanted; it is about to be written into DNS.",
    "weights.held": "Another distribution is wanted and waits for a person.",
    "weights.approved": "A person let a held change go.",
    "weights.rejected": "A person refused a held change.",
    "weights.observed": "Every authoritative server answers with the new weights.",
    "weights.failed": "A change could not be written; it is tried again.",
    "weights.drifted": "DNS does not say what was written.",
    "weights.restored": "DNS says again what was written.",
    "weights.reasserted": "What somebody else changed in DNS was written again.",
    "finding.origin_fault": "All paths fail alike: the origin does.",
    "finding.backup_unfit": "A backup fails while the primary is good.",
    "finding.blocked": "A CDN refuses our probes.",
    "finding.certificate": "A certificate is about to lapse, or has.",
    "finding.always_failing": "A path was never good.",
    "finding.no_samples": "A path is not being seen.",
    "finding.latency": "A path is slow.",
    "finding.one_family": "A path answers over one of IPv4 and IPv6 alone.",
    "finding.partial": "Some domains or regions fail, and fewer than the policy asks for.",
    "service.created": "A service was made.",
    "service.updated": "A service was changed: how it is probed, or its name.",
    "service.deleted": "A service was deleted: nothing of it is probed or steered.",
    "service.restored": "A service that was deleted is back, with what was deleted with it.",
    "domain.created": "A hostname was added.",
    "domain.deleted": "A hostname was deleted.",
    "domain.restored": "A hostname that was deleted is back.",
    "cdn_path.created": "A path or witness of a hostname was added.",
    "cdn_path.updated": "A path or witness was changed.",
    "cdn_path.deleted": "A path or witness was switched off.",
    "storm_policy.created": "A policy was made.",
    "storm_policy.updated": "A policy was changed; it has another version where its terms were.",
    "storm_policy.deleted": "A policy was deleted.",
    "storm_policy.restored": "A policy that was deleted is back.",
    "maintenance_window.created": "Maintenance was planned.",
    "maintenance_window.deleted": "Maintenance was lifted.",
    "steering_terms.created": "How a service comes home and rehearses was set.",
    "steering_terms.updated": "How a service comes home and rehearses was changed.",
    "domain.verified": "A hostname is proven.",
    "domain.released": "Another account proved the hostname after this one let it go.",
    "domain.contested": "Another account shows its record for the hostname, too.",
    "domain.proof_missing": "The record that proves a hostname is gone.",
    "domain.proof_found": "The record that proves a hostname is back.",
    "domain.proof_lost": "The record was gone for so long that nothing new is written for the hostname.",
    "domain.armed": "Every must of the domain's check list holds: storms move it.",
    "domain.disarmed": "A must of the domain's check list fails: nothing is written for it.",
    "record_set.adopted": "Weights of a hostname are ours to write.",
    "record_set.released": "Weights of a hostname are ours no more.",
    "data_plane.armed": "A hostname's health checks at the vendor are armed.",
    "data_plane.disarmed": "A hostname's health checks at the vendor are disarmed.",
    "dns_account.failing": "Your DNS account can't be written to.",
    "dns_account.recovered": "Your DNS account can be written to again.",
    "drill.running": "A drill sends some traffic to the backup.",
    "drill.passed": "A drill went well.",
    "drill.failed": "A drill found something wrong.",
    "drill.cancelled": "A drill was called off.",
    "pin.placed": "Weights of a service are fixed until a time.",
    "pin.ended": "Fixed weights are over.",
    "freeze.placed": "Nothing moves by itself until it is lifted.",
    "freeze.lifted": "Traffic moves by itself again.",
    "usage.object_quarantined": "A log object of yours could not be read and was given up.",
    "invoice.drafted": "The draft of a month changed.",
    "invoice.finalized": "An invoice was issued.",
    "invoice.paid": "An invoice has nothing left to pay.",
    "invoice.reopened": "An invoice that was paid is due again: a credit note of it was taken back.",
    "invoice.voided": "An invoice was taken back.",
    "invoice.marked_uncollectible": "An invoice was given up.",
    "invoice.payment_overdue": "An invoice is past its due date.",
    "credit_note.created": "A credit note was issued.",
    "credit_note.voided": "A credit note was taken back.",
    "payment.recorded": "A payment came in.",
    "dispute.opened": "A line of an invoice is disputed.",
    "dispute.accepted": "A dispute was accepted.",
    "dispute.rejected": "A dispute was rejected.",
    "dispute.withdrawn": "A dispute was taken back.",
    "contract.amended": "The contract changes at a time to come.",
    "contract.amendment_withdrawn": "The contract does not change after all.",
    "contract.postponed": "A change of cover waits, because of an incident.",
    "contract.retired": "The contract ends at a time to come.",
    "cover.ruled": "A person decided whether a storm is covered.",
    "alert.triggered": "The month's spend passed an amount.",
    "api_key.issued": "An API key was made.",
    "api_key.rotated": "An API key was replaced, and goes on for a while.",
    "api_key.revoked": "An API key is refused from now on.",
    "webhook_endpoint.disabled": "A webhook endpoint gets nothing more until it is enabled.",
    "webhook.test": "You asked for it.",
}
_OURS = {
    "incident.opened": "A CDN incident is suspected or seen.",
    "incident.confirmed": "A CDN incident is confirmed.",
    "incident.over": "A CDN incident is over.",
    "vantage_point.blind": "A vantage point has no vote.",
    "vantage_point.sees": "A vantage point has its vote again.",
    "selfcheck.violated": "Something that must always hold does not.",
}
KINDS = {name: Kind(name, meaning) for name, meaning in _PUBLIC.items()} | {
    name: Kind(name, meaning, is_public=False) for name, meaning in _OURS.items()
}


def matches(patterns: list[str], name: str) -> bool:
    """Whether a kind is among those that somebody asked for: names, or beginnings such as `storm.*`, or `*`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_pattern(text: str) -> bool:
    """Whether it names at least one public kind, and nothing stranger than a beginning."""
    beginning = text.removesuffix("*")
    if set("*?[]") & set(beginning) or (text != "*" and text.endswith("*") and not beginning.endswith(".")):
        return False
    return any(kind.is_public and fnmatchcase(kind.name, text) for kind in KINDS.values())
