"""Amazon Route 53: one weighted set of records and a beacon per hostname, for many hostnames in one batch of UPSERTs.

    provider    what the contract asks for
    records     what a set looks like there, and what a listing says of one (pure)
    refusals    what Amazon's refusals mean (pure)
    policies    what the customer grants (pure)
    checks      what is still missing before a name can be steered
    clients     who calls, and each call

Nothing is deleted in daily work, so the role needs no right to; `adopt` and `release` delete, which operators call, and
compare-and-set replaces the beacon. Options of the account: `role_arn` with `external_id` (without them the credentials, or
else the worker's own), `endpoint_url`, `compare_and_set`. Credentials: `access_key_id`, `secret_access_key`.
"""

from dns.providers.route53.provider import Route53Provider

__all__ = ["Route53Provider"]
