"""PowerDNS, from 4.7 on: one LUA record a hostname, whose code picks a target by weight, and the beacon.

    provider    what the contract asks for
    lua         a record's code, written and read back (pure)
    checks      what a server says of itself, and what it lacks (pure)
    api         each call, and what its answer means

It can't compare and set, and two writes at a time get in each other's way, so there is one writer. What stands beside a
LUA record is hidden by it, and the server allows that: `preflight` and `adopt` see to it that the name is free, and `read`
tells when it no longer is. Somebody else's LUA record at the name would be written over by `apply`, which reads nothing.

Options of the account: `api_url`; and if need be `server_id`, `notify` (true, false, or "auto": where the zone is a primary
one), `flush_urls` of further nodes on the same database, `timeout_seconds`, and `zones`, the only ones to be touched.
Credentials: `api_key`.
"""

from dns.providers.powerdns.provider import PowerDnsProvider

__all__ = ["PowerDnsProvider"]
