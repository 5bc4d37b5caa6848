"""The demo world: two TLS edges that play CDNs in front of one origin, a DNS server, visitors, and their access logs."""
