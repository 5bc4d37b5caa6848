"""The SQL that DuckDB runs over one object, made of a format's own SQL; no text of a log ever enters it."""
# ruff: noqa: S608

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from billing.logs.format import RowQuery

# What becomes of a row. Numbers, because every row is grouped by its own.
COUNTED, EXCLUDED, BAD, MALFORMED, OTHER = range(5)


def rows(query: RowQuery, scan: str, extra: str = "") -> str:
    """Every data row with its texts and values, and what becomes of it."""
    unidentified = " OR identity IS NULL" if query.all_identified else ""
    derived = f"SELECT *, {query.derived} FROM" if query.derived else "FROM"
    texts = f"""
        SELECT {extra} {query.at.text} AS at_text, nullif({query.host.text}, '') AS host_text,
            {query.bytes.text} AS bytes_text, ({query.malformed}) AS malformed, ({query.of_another_kind}) AS other,
            ({query.excluded}) AS excluded, {query.identity} AS identity, ({query.flaw})::VARCHAR AS flaw
        FROM ({derived} ({scan}) WHERE {query.is_row})"""
    values = (
        f"SELECT *, {query.at.value} AS minute, {query.host.value} AS host, {query.bytes.value} AS size FROM ({texts})"
    )
    return f"""
        SELECT *, (CASE WHEN other THEN {OTHER} WHEN malformed THEN {MALFORMED}
            WHEN minute IS NULL OR host IS NULL OR size IS NULL OR flaw IS NOT NULL{unidentified} THEN {BAD}
            WHEN excluded THEN {EXCLUDED} ELSE {COUNTED} END)::TINYINT AS state
        FROM ({values})"""


def counting(query: RowQuery, scan: str) -> str:
    """Rows read, host, minute, bytes and requests for each state; host and minute only of what is counted."""
    values = ", ".join(
        f"CASE WHEN state = {COUNTED} THEN {value} END AS {name}"
        for name, value in (
            ("host", "lower(host)"), ("minute", "minute::INTEGER"), ("size", "size"), ("identity", "identity"),
        )
    )  # fmt: skip
    marked = f"SELECT state, {values}, at_text FROM ({rows(query, f'SELECT * FROM {scan}')})"
    if query.identity == "NULL":
        return f"""
            SELECT state, count(*), host, minute, sum(size)::BIGINT, count(*)
            FROM ({marked}) GROUP BY state, host, minute"""
    # Rows of the same identity, time and host are one request. Rows without an identity are all requests.
    size, count, at_text = "max(size)", "1", "at_text"
    if not query.all_identified:
        size = f"CASE WHEN identity IS NULL THEN sum(size) ELSE {size} END"
        count = f"CASE WHEN identity IS NULL THEN count(*) ELSE {count} END"
        at_text = f"CASE WHEN identity IS NOT NULL THEN {at_text} END"
    requests = f"""
        SELECT state, host, minute, count(*) AS read_rows, {size} AS size, {count} AS requests
        FROM ({marked}) GROUP BY state, identity, host, minute, {at_text}"""
    return f"""
        SELECT state, sum(read_rows)::BIGINT, host, minute, sum(size)::BIGINT, sum(requests)::BIGINT
        FROM ({requests}) GROUP BY state, host, minute"""


def bad_rows(query: RowQuery, scan: str, limit: int) -> str:
    """The first bad rows with their number in the scan, whether they are malformed, its flaw, and each text beside its value."""
    numbered = f"SELECT row_number() OVER () AS number, * FROM {scan}"
    return f"""
        SELECT number, state = {MALFORMED}, flaw, at_text, minute, host_text, host, bytes_text, size
        FROM ({rows(query, numbered, "number,")}) WHERE state IN ({BAD}, {MALFORMED})
        ORDER BY number LIMIT {limit}"""
