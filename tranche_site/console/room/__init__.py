"""The operations room, the console's first page: what burns, what waits for somebody, and what is normal.

A fixed number of queries, each with a limit, whatever the number of customers. Every number leads to its list.
"""
