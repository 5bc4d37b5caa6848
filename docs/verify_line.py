"""Check a line of an invoice from its evidence pack: `python verify_line.py pack.json` prints the arithmetic step by step.

Exit 0 if all of it follows, 1 if not, 2 if it is no pack. Shares no code with the seller's, and needs Python 3.11 alone.
No pack proves that it holds all there was: compare the SHA-256 in it with the one on the invoice. Times are in microseconds."""

import hashlib
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

SECOND, QUARTER, HOUR = 10**6, 900 * 10**6, 3600 * 10**6
SILENCE, TAIL, WEEK, NORMAL_PERCENT, ZERO = HOUR // 2, HOUR, 7 * 24 * HOUR, 5, Fraction(0)
KINDS, FAULTS = {"http_availability", "tls", "dns"}, {"cdn_fault", "edge_cannot_reach_origin", "unproven"}
DECIMALS, UNITS = {"JPY": 0, "KWD": 3}, {"GB": 10**9, "GiB": 2**30}
EPOCH, FOREVER = datetime(1970, 1, 1, tzinfo=UTC), 253402300799999999  # the end of the year 9999
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
PATHS, FIELDS = ("primary", "backup"), ("kind", "service", "path", "cdn", "bytes", "amount_minor")


def moment(text):
    return (datetime.fromisoformat(text.removesuffix("Z") + "+00:00") - EPOCH) // timedelta(microseconds=1)


def pairs(entries):
    return [(moment(e["start"]), moment(e["end"])) for e in entries]


def show(spans):
    texts = [" to ".join((EPOCH + timedelta(microseconds=at)).isoformat()[:-6] for at in span) for span in spans]
    return ", ".join(texts) or "never"


def number(value):
    return f"{float(value):,.12g}"  # only to be read: what is computed with is exact


def joined(spans, gap=0):
    """Spans in order; those that overlap, touch, or lie less than `gap` apart are one."""
    out = []
    for a, b in sorted(s for s in spans if s[0] < s[1]):
        first = out.pop() if out and a - out[-1][1] < max(gap, 1) else (a, b)
        out.append((first[0], max(first[1], b)))
    return out


def within(spans, low, high):
    return [(max(a, low), min(b, high)) for a, b in spans if max(a, low) < min(b, high)]


def without(spans, holes):
    for low, high in holes:
        spans = [(a, b) for s in spans for a, b in ((s[0], min(s[1], low)), (max(s[0], high), s[1])) if a < b]
    return spans


def shifts(pack):
    """When DNS was seen to send the backups more than a normal share for a storm, until the drain after failback."""
    backups, begun, spans = {str(t["target"]) for t in pack["targets"] if t["role"] == "backup"}, {}, []
    for change in sorted(pack["changes"], key=lambda c: (c["record_set"], c["generation"])):
        at, lane = moment(change["observed_at"]), (change["record_set"], change["region"] or "")
        if sum(percent for target, percent in change["weights"].items() if target in backups) <= NORMAL_PERCENT:
            for key in [k for k in begun if k == lane or (change["region"] is None and k[0] == lane[0])]:
                spans.append((begun.pop(key), at + pack["cover"]["drain_seconds"] * SECOND))
        elif change["storm"] is not None:
            begun.setdefault(lane, at)
    return joined(spans + [(at, FOREVER) for at in begun.values()])


def does_pay(storm):
    """A person's ruling goes before the attribution and the witness."""
    found = storm["ruling"]["is_covered"] if storm["ruling"] else storm["attribution"] in FAULTS and storm["witness"]
    return bool(found and storm["is_armed"] and storm["kind"] in KINDS)


def raged(storm, as_of):
    """Its bad stretches; the last is believed in for half an hour after the last evidence of it."""
    *spells, (start, end) = [(moment(a), moment(b) if b else as_of) for a, b in storm["spells"]]
    return [*spells, (start, min(end, moment(storm["last_bad_at"]) + SILENCE, as_of))]


def events(pack):
    """F1 to F3: the events that touch the period, each as (start, end, paid spans, baseline)."""
    terms, (low, high) = pack["content"]["inputs"]["cover"], map(moment, pack["content"]["period"])
    as_of, moved, barred = moment(pack["invoice"]["as_of"]), shifts(pack), joined(pairs(pack["excluded"]))
    busy = [s for storm in pack["storms"] for s in raged(storm, as_of)] + moved
    paying = [s for storm in pack["storms"] if does_pay(storm) for s in raged(storm, as_of)]
    used, year = sum(e["used_microseconds"] for e in pack["cover"]["earlier"]) // SECOND, terms["aggregate_seconds"]
    left, paid = FOREVER if year is None else max(year - used, 0) * SECOND, []
    wait, is_excess = terms["waiting_seconds"] * SECOND, terms["waiting_mode"] == "excess"
    clause = FOREVER if terms["hours_clause_seconds"] is None else terms["hours_clause_seconds"] * SECOND
    for start, end in joined(paying, terms["merge_gap_seconds"] * SECOND):
        first, until = start + wait if is_excess else start, min(end + TAIL, as_of)
        is_long = end - start > wait if is_excess else end - start >= wait
        spans = without(within(moved, first, min(until, first + clause)), barred + paid) if is_long else []
        paid += spans  # what the tail of an event reaches is not paid again in the next
        if start < high and until > low:
            for place, (a, b) in enumerate(spans := within(spans, low, high)):
                spans[place] = a, min(b, a + left)
                left -= spans[place][1] - a
            calm = [(a + -a % QUARTER, b - b % QUARTER) for a, b in without([(start - WEEK, start)], joined(busy))]
            yield start, end, [s for s in spans if s[0] < s[1]], [s for s in calm if s[0] < s[1]]


def delivered(rows, spans, hours=()):
    """Bytes by path and CDN: sums of whole hours, and in spans buckets, of which one that is cut counts by its time."""
    sums = defaultdict(Fraction)
    for row in rows:
        start, length = moment(row["start"]), row["minutes"] * 60 * SECOND
        if parts := within(hours if row["minutes"] == 60 else spans, start, start + length):
            sums[row["path"], row["cdn"]] += row["bytes"] * Fraction(sum(b - a for a, b in parts), length)
    return sums


def covered(pack, spans, baseline, say):
    """{backup CDN: (bytes in the spans, those of them that are covered)}: what is above the normal share, pro rata."""
    hours = [(a + -a % HOUR, b - b % HOUR) for a, b in baseline if a + -a % HOUR < b - b % HOUR]
    inside, before = delivered(pack["usage"], spans), delivered(pack["usage"], without(baseline, hours), hours)
    backup, usual = (sum((n for key, n in found.items() if key[0] == "backup"), ZERO) for found in (inside, before))
    everything, week = sum(inside.values(), ZERO), sum(before.values(), ZERO)
    above = max(backup - (usual / week * everything if week else 0), ZERO)
    say(f"    the week before, {number(usual)} of {number(week)} bytes were on backups, and that share is normal")
    say(f"    in the paid spans {number(backup)} of {number(everything)} were: {number(above)} bytes are above normal")
    ours = [(cdn, size) for (path, cdn), size in sorted(inside.items()) if path == "backup"]
    return {cdn: (int(size), int(above * size / backup) if backup else 0) for cdn, size in ours}


def rounded(amount, currency):
    """F8: to the minor unit, half up; amounts are not negative."""
    return int(amount * 10 ** DECIMALS.get(currency, 2) + Fraction(1, 2))


def gross(units, tiers, mode):
    """F7: graduated, each tier's units at its own price; volume, all at the price of the tier that is reached."""
    below, total = ZERO, ZERO
    for tier in tiers:
        top = units if tier["up_to"] is None or tier is tiers[-1] else min(units, Fraction(tier["up_to"]))
        if mode == "volume" and top == units:
            return units * Fraction(tier["per_unit"])
        total, below = total + max(top - below, ZERO) * Fraction(tier["per_unit"]), max(below, top)
    return total


def rated(doc, say):
    """F4 to F9: usage lines and cover lines, each in the order of FIELDS."""
    terms, rates, currency = doc["cover"], doc["rates"], doc["currency"]
    groups, usage, covers, before = defaultdict(list), [], [], Fraction(terms["covered_before"])
    for w in doc["usage"]:
        has_own = w["path"] in rates.get("cdns", {}).get(w["cdn"], {})
        groups[w["service"], w["path"] != "primary", w["cdn"] if has_own else ""].append(w)
    for (service, is_backup, cdn), windows in sorted(groups.items()):
        path, (size, paid) = PATHS[is_backup], (sum(w[name] for w in windows) for name in ("bytes", "covered_bytes"))
        cost = gross(Fraction(size, UNITS[doc["unit"]]), (rates["cdns"][cdn] if cdn else rates)[path], doc["tier_mode"])
        left = charge = rounded(cost, currency)
        usage.append(["usage", service, path, cdn, size, charge])
        say(f"Service {service}, {path} {cdn}: {size:,} bytes cost {number(cost)}: {charge} minor units of {currency}")
        after = before + (paid * cost / size if paid else 0)
        for layer in terms["layers"] if paid else ():
            inside = [max(cost - Fraction(layer["attachment"]), ZERO) for cost in (before, after)]
            low, high = inside if layer["limit"] is None else [min(cost, Fraction(layer["limit"])) for cost in inside]
            exact = Fraction(layer["share"]) * (high - low)
            amount = min(rounded(exact, currency), left)
            left -= amount
            say(f"    layer from {layer['attachment']}: {number(low)} to {number(high)} of it used: {number(exact)}")
            covers += [["cover", service, path, cdn, paid, amount]] if amount else []
        before = after
        if paid and not terms["layers"]:
            most, exact = terms["max_coverage_factor"], ZERO
            factor = min(Fraction(most), Fraction(terms["service_factors"].get(service, most)))
            for w in windows:
                part = Fraction(w["covered_bytes"], w["bytes"] or 1)
                part = factor * part if terms["coverage_mode"] == "multiply" else min(part, factor)
                exact += w["bytes"] * cost / size * min(Fraction(terms["discount_rate"]) * part, 1)
            covers.append(["cover", service, path, cdn, paid, min(rounded(exact, currency), charge)])
            say(f"    {paid:,} bytes covered, factor {number(factor)}, share {terms['discount_rate']}: {number(exact)}")
    return usage, covers


def verify(pack, say):
    """What differs between the pack and what follows from it, in words; `say` is told each step."""
    wrong, line, content, invoice = [], pack["line"], pack["content"], pack["invoice"]
    service, doc, decided = str(line["service"]), content["inputs"], content["decisions"]

    def same(what, stored, made):
        wrong.extend([f"{what}: the pack says {stored}, but {made} follows"] if stored != made else [])

    same("type, format, formula", [pack["type"], pack["format"], content["formula"]], ["line", 1, "tranche/1"])
    say(f"Invoice {invoice['number']}, {' to '.join(content['period'])}, SHA-256 {invoice['sha256']}")
    bare = {key: value for key, value in pack.items() if key != "sha256"}
    for name, stored, hashed in (("sha256", pack["sha256"], bare), ("invoice.sha256", invoice["sha256"], content)):
        same(name, stored, hashlib.sha256(CANONICAL.encode(hashed).encode()).hexdigest())
    same("invoice period, currency", [invoice["period"], invoice["currency"]], [content["period"], doc["currency"]])
    paying = {f"storm-{s['id']}": does_pay(s) for s in pack["storms"]}
    for d in [d for d in decided["storms"] if d["service"] == service]:
        say(f"{d['storm']} {'pays' if d['is_covered'] else 'does not pay'}: {d['reason']}")
        same(f"{d['storm']}: whether it pays", d["is_covered"], paying.get(d["storm"]))
    bounds = [[s["spells"][0][0], s["spells"][-1][1]] for s in pack["storms"]]
    same("start and end of storms", [[s["start"], s["end"]] for s in pack["storms"]], bounds)
    say(f"DNS showed our shifts: {show(shifts(pack))}")
    same("shifts", pairs(pack["shifts"]), shifts(pack))
    made, windows, rest = [], [], defaultdict(int)
    for row in pack["period_usage"]:
        rest[row["path"] != "primary", row["cdn"]] += row["bytes"]
    for start, end, spans, baseline in events(pack):
        say(f"Event {show([(start, end)])}; paid: {show(spans)}")
        made.append([(start, end), spans, baseline])
        for cdn, (size, paid) in covered(pack, spans, baseline, say).items() if spans else ():
            windows.append(["backup", cdn, (spans[0][0], spans[-1][1]), size, paid])
            rest[True, cdn] -= size
    told, own = ([entry for entry in some if entry["service"] == service] for some in (decided["events"], doc["usage"]))
    same("events", [[*pairs([e]), pairs(e["spans"]), pairs(e["baseline"])] for e in told], made)
    windows += [[PATHS[key[0]], key[1], tuple(map(moment, content["period"])), n, 0] for key, n in sorted(rest.items())]
    same("rated usage", [[w["path"], w["cdn"], *pairs([w]), w["bytes"], w["covered_bytes"]] for w in own], windows)
    as_of = moment(pack["invoice"]["as_of"])
    hit = [s for s in pack["storms"] if does_pay(s) and any(within(raged(s, as_of), *event[0]) for event in made)]
    used = {f"{s['policy']}/{s['policy_version']}" for s in hit} & pack["policies"].keys()
    factor = min((Fraction(pack["policies"][name]["max_coverage_factor"]) for name in used), default=None)
    same("own factor", {s: Fraction(f) for s, f in doc["cover"]["service_factors"].items()}.get(service), factor)
    earlier = sum((Fraction(e["covered_cost"]) for e in pack["cover"]["earlier"] if doc["cover"]["layers"]), ZERO)
    same("covered_before", round(Fraction(doc["cover"]["covered_before"]), 9), round(earlier, 9))
    stored, (usage, covers) = [[entry[name] for name in FIELDS] for entry in content["lines"]], rated(doc, say)
    lines = usage if content["extras"]["sells_delivery"] else []
    # Fees, requests, commitment and corrections are as the invoice has them; cover is paid up to all charges.
    lines += [entry for entry in stored if entry[0] not in ("usage", "cover")]
    subtotal = left = sum(entry[-1] for entry in lines)
    for *what, amount in covers:
        lines += [[*what, min(amount, left)]] if left and amount else []
        left -= min(amount, left)
    same("lines", stored, lines)
    same("subtotal and discount", content["totals"][:2], [subtotal, subtotal - left])
    mine = [service if name == "service" else line[name] for name in FIELDS]
    same(f"line {line['position']}", mine, dict(enumerate(lines, 1)).get(line["position"]))
    return wrong


def main(path):
    try:
        pack = json.loads(Path(path).read_text("utf-8"), parse_float=int, parse_constant=int)  # no floats
        wrong = verify(pack, print)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        print(f"{path} can't be read as an evidence pack: {error!r}", file=sys.stderr)
        return 2
    print("\n".join(f"WRONG  {it}" for it in wrong) or f"OK: the line is {pack['line']['amount_minor']} minor units")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else "Say one file. Nothing"))
