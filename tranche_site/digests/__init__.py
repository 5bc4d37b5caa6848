"""Events by mail, few of them: `collecting` puts events into digests, `timing` says when one is due, `mailing` sends it.

In the roof, since which storms are one incident is nothing that `customers` could know.
"""
