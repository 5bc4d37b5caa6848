"""Fees, requests, commitment, corrections and taxes. Amounts are worked out in the comments."""

from __future__ import annotations

import json
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from billing import bill as billing_bill
from billing.bill import Bill, BillLine, Charges, Correction, Requests, bill
from billing.money import exponent
from billing.rating import Line, Rated

CASES = 600


def usage(amount: int, path: str = "primary", service: str = "1") -> Line:
    return Line("usage", service, path, 10**9, amount)


def cover(amount: int, service: str = "1", **details: Any) -> Line:
    return Line("cover", service, "backup", 10**9, amount, details)


def rated(*lines: Line) -> Rated:
    covers = sum(line.amount_minor for line in lines if line.kind == "cover")
    return Rated(lines, sum(line.amount_minor for line in lines) - covers, covers)


def correction(amount: int, category: str = "delivery", rate: str = "0") -> Correction:
    return Correction(7, "1", "primary", amount, category, Fraction(rate), "Correction of INV-000001")


def charges(**kw: Any) -> Charges:
    texts = {"share", "fixed_fee", "premium", "minimum_commitment"}
    told = {key: Fraction(value) if key in texts else value for key, value in kw.items()}
    if "tax_rates" in told:
        told["tax_rates"] = {category: Fraction(rate) for category, rate in told["tax_rates"].items()}
    return Charges(**told)


def amounts(made: Bill) -> list[tuple[str, int]]:
    return [(entry.line.kind, entry.line.amount_minor) for entry in made.lines]


DELIVERY = (usage(100_00), usage(30_00, "backup"), cover(10_00))


# --- fees and requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "currency", "fee", "expected"),
    [
        ("1", "USD", "99.99", 99_99),
        ("1/2", "USD", "99.99", 50_00),  # 49.995 and a tie goes up
        ("16/31", "USD", "100", 51_61),  # 51.6129…
        ("15/31", "USD", "100", 48_39),  # the other part: 48.3870…
        ("372/743", "USD", "743", 372_00),  # by hours of a short month
        ("1/3", "JPY", "100", 33),
        ("1/2", "JPY", "101", 51),
        ("1/3", "KWD", "1", 333),
        ("1", "USD", "0.004", 0),  # a fee below half a cent stands with 0
    ],
)
def test_fees_are_billed_for_the_share_of_the_month(share: str, currency: str, fee: str, expected: int) -> None:
    made = bill(rated(), charges(share=share, fixed_fee=fee), currency)
    assert amounts(made) == [("fixed_fee", expected)]
    assert made.total_minor == expected


def test_a_fee_of_nothing_is_no_line() -> None:
    assert bill(rated(), charges(), "USD") == Bill([], 0, 0, [], [])


def test_premium_and_fee_stand_after_delivery() -> None:
    made = bill(rated(*DELIVERY), charges(fixed_fee="20", premium="5"), "USD")
    assert amounts(made) == [
        ("usage", 100_00), ("usage", 30_00), ("fixed_fee", 20_00), ("premium", 5_00), ("cover", 10_00),
    ]  # fmt: skip
    assert (made.subtotal_minor, made.discount_minor, made.total_minor) == (155_00, 10_00, 145_00)


@pytest.mark.parametrize(
    ("count", "per_10k", "expected"),
    [(10_000, "0.0075", 1), (9_999, "0.005", 0), (10_000, "0.005", 1), (1, "100", 1), (0, "1", 0), (10**12, "1", 10**10)],
)  # fmt: skip
def test_requests_are_priced_by_ten_thousand_and_exact(count: int, per_10k: str, expected: int) -> None:
    made = bill(rated(), charges(requests=[Requests("1", "primary", count, Fraction(per_10k))]), "USD")
    assert amounts(made) == [("requests", expected)]


# --- F13 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commitment", "share", "on_net", "expected"),
    [
        ("130", "1", False, None),  # delivery is 130.00
        ("130.01", "1", False, 1),
        ("200", "1", False, 70_00),
        ("200", "1", True, 80_00),  # against 130.00 − 10.00 of cover
        ("130", "1", True, 10_00),
        ("120", "1", True, None),
        ("400", "1/2", False, 70_00),
        ("260", "1/2", False, None),
        ("0", "1", False, None),
        ("130.005", "1", False, 1),  # the commitment is rounded to 130.01 before the difference is taken
        ("130.004", "1", False, None),
    ],
)
def test_delivery_is_billed_up_to_the_commitment(
    commitment: str, share: str, on_net: bool, expected: int | None
) -> None:
    told = charges(minimum_commitment=commitment, share=share, commit_on_net=on_net, fixed_fee="1000", premium="1000")
    made = bill(rated(*DELIVERY), told, "USD")
    found = [amount for kind, amount in amounts(made) if kind == "minimum"]
    assert found == ([] if expected is None else [expected])


def test_requests_count_for_the_commitment_and_fees_and_corrections_do_not() -> None:
    told = charges(
        minimum_commitment="150", fixed_fee="50", premium="50", corrections=[correction(50_00)],
        requests=[Requests("1", "primary", 50_000, Fraction(1))],
    )  # fmt: skip
    made = bill(rated(*DELIVERY), told, "USD")
    assert dict(amounts(made))["minimum"] == 15_00  # 150 − 130 − 5
    assert dict(amounts(made))["correction"] == 50_00


# --- F12 ------------------------------------------------------------------------------------------------------------


def taxes(made: Bill) -> list[tuple[str, str, int, int]]:
    return [(tax.category, str(tax.rate), tax.taxable_minor, tax.tax_minor) for tax in made.taxes]


def test_taxes_are_taken_once_for_each_category_on_the_sum_of_its_lines() -> None:
    """Three lines of 0.05 at 10 % are 0.015 of tax, so 0.02; one by one they would be 0.03."""
    made = bill(
        rated(usage(5), usage(5, "backup"), usage(5, service="2")), charges(tax_rates={"delivery": "0.1"}), "USD"
    )
    assert taxes(made) == [("delivery", "1/10", 15, 2)]
    assert made.total_minor == 17


def test_cover_lowers_what_is_taxed() -> None:
    rates = {"delivery": "0.19", "fee": "0.07", "premium": "0"}
    made = bill(rated(*DELIVERY), charges(tax_rates=rates, fixed_fee="10", premium="5"), "USD")
    # (130 − 10) × 19 % = 22.80; 10 × 7 % = 0.70; the premium bears none
    assert taxes(made) == [("delivery", "19/100", 120_00, 22_80), ("fee", "7/100", 10_00, 70)]
    assert made.total_minor == 120_00 + 10_00 + 5_00 + 22_80 + 70


def test_a_correction_bears_the_tax_of_what_it_corrects() -> None:
    told = charges(
        tax_rates={"delivery": "0.19"}, corrections=[correction(1_00, rate="0.16"), correction(1_00, rate="0.19")]
    )
    made = bill(rated(usage(10_00)), told, "USD")
    assert taxes(made) == [("delivery", "4/25", 1_00, 16), ("delivery", "19/100", 11_00, 2_09)]
    assert [entry.corrects for entry in made.lines] == [None, 7, 7]


@pytest.mark.parametrize(("currency", "tax"), [("USD", 1), ("JPY", 1), ("KWD", 1)])
def test_tax_ties_go_up_in_minor_units(currency: str, tax: int) -> None:
    made = bill(rated(usage(5)), charges(tax_rates={"delivery": "0.1"}), currency)
    assert made.tax_minor == tax


# --- the customer pays its CDNs itself ----------------------------------------------------------------------------------


def own(**kw: Any) -> Charges:
    return charges(**{"sells_delivery": False, "fixed_fee": "20", "premium": "5"} | kw)


def test_notional_usage_is_not_billed_and_cover_is_paid_out_of_the_fees() -> None:
    told = own(
        requests=[Requests("1", "primary", 10**6, Fraction(1))], minimum_commitment="500", tax_rates={"fee": "0.1"}
    )
    made = bill(rated(*DELIVERY), told, "USD")
    assert amounts(made) == [("fixed_fee", 20_00), ("premium", 5_00), ("cover", 10_00)]
    assert (made.subtotal_minor, made.discount_minor, made.tax_minor, made.total_minor) == (25_00, 10_00, 2_00, 17_00)
    assert made.excess == []
    assert made.lines[-1].tax_category == "" and made.lines[-1].tax_rate == 0  # a payment of cover is no delivery


def test_cover_beyond_the_charges_is_the_excess_and_no_cent_is_lost() -> None:
    made = bill(rated(cover(15_00, "1"), cover(20_00, "2"), cover(3_00, "3")), own(), "USD")
    assert amounts(made) == [("fixed_fee", 20_00), ("premium", 5_00), ("cover", 15_00), ("cover", 10_00)]
    assert made.total_minor == 0
    assert [(line.service, line.amount_minor) for line in made.excess] == [("2", 10_00), ("3", 3_00)]
    # The line that was cut says of how much.
    assert made.lines[-1].line.details["of_cover_minor"] == made.excess[0].details["of_cover_minor"] == 20_00
    assert "of_cover_minor" not in made.excess[1].details


def test_all_cover_is_excess_where_nothing_is_charged() -> None:
    """There is a line that the payout can stand on all the same."""
    made = bill(rated(cover(15_00)), own(fixed_fee="0", premium="0"), "USD")
    assert amounts(made) == [("premium", 0)]
    assert (made.total_minor, [line.amount_minor for line in made.excess]) == (0, [15_00])


# --- whatever it is -------------------------------------------------------------------------------------------------


def random_bill(dice: Random) -> tuple[Rated, Charges, str]:
    lines = []
    for service in "12":
        for path in ("primary", "backup"):
            lines.append(usage(dice.choice([0, 1, dice.randrange(10**6)]), path, service))
        lines += [cover(amount, service) for amount in _below(dice, lines[-1].amount_minor)]
    amount = lambda most: dice.choice(["0", f"{dice.randrange(most)}.{dice.randrange(10**6):06d}"])  # noqa: E731
    rates = {
        c: dice.choice(["0.19", "0.07", "0.0875", "0"]) for c in ("delivery", "fee", "premium") if dice.random() < 0.7
    }
    told = charges(
        share=Fraction(dice.randint(1, 744), 744), sells_delivery=dice.random() < 0.7, fixed_fee=amount(1000),
        premium=amount(100), minimum_commitment=amount(50_000), commit_on_net=dice.random() < 0.5, tax_rates=rates,
        requests=[Requests("1", "primary", dice.randrange(10**9), Fraction(dice.choice(["0.0075", "1"])))],
        corrections=[correction(dice.randint(1, 10**4), "delivery", dice.choice(["0", "0.16", "0.19"]))] * dice.randint(0, 2),
    )  # fmt: skip
    return rated(*lines), told, dice.choice(["USD", "JPY", "KWD"])


def _below(dice: Random, most: int) -> list[int]:
    first = dice.randint(0, most)
    return [first, dice.randint(0, most - first)]


def test_every_bill_adds_up() -> None:
    """total = Σ lines − Σ cover + Σ taxes ≥ 0, and a tax is of its lines alone, in decimals computed once more."""
    for number in range(CASES):
        what, told, currency = random_bill(Random(number))
        made = bill(what, told, currency)
        added = sum(entry.line.amount_minor for entry in made.lines if entry.line.kind != "cover")
        covers = sum(entry.line.amount_minor for entry in made.lines if entry.line.kind == "cover")
        assert all(entry.line.amount_minor >= 0 for entry in made.lines), number
        assert (made.subtotal_minor, made.discount_minor) == (added, covers), number
        assert made.total_minor == added - covers + sum(tax.tax_minor for tax in made.taxes) >= 0, number
        assert sum(line.amount_minor for line in made.excess) + covers == what.discount_minor, number
        assert not made.excess or not told.sells_delivery, number
        assert {(t.category, t.rate): t.tax_minor for t in made.taxes} == _taxes(made.lines), number


def _taxes(lines: Any) -> dict[tuple[str, Fraction], int]:
    sums = defaultdict[tuple[str, Fraction], Decimal](Decimal)
    for entry in lines:
        if entry.tax_rate:
            sums[entry.tax_category, entry.tax_rate] += entry.line.amount_minor * (
                1 if entry.line.kind != "cover" else -1
            )
    return {
        key: int((taxable * Decimal(key[1].numerator) / key[1].denominator).quantize(Decimal(1), ROUND_HALF_UP))
        for key, taxable in sums.items()
    }


def test_what_an_invoice_keeps_gives_the_same_bill() -> None:
    for number in range(CASES):
        what, told, currency = random_bill(Random(number))
        kept = json.loads(json.dumps(billing_bill.to_json(told)))
        again = billing_bill.from_json(kept)
        assert bill(what, again, currency) == bill(what, told, currency), number
        assert billing_bill.to_json(again) == billing_bill.to_json(told), number


def test_the_shares_of_a_month_make_its_fee_within_half_a_unit_each() -> None:
    for number in range(CASES):
        dice = Random(number)
        currency = dice.choice(["USD", "JPY", "KWD"])
        cuts = sorted(dice.sample(range(1, 2976), dice.randint(1, 4)))
        shares = [Fraction(b - a, 2976) for a, b in zip([0, *cuts], [*cuts, 2976], strict=True)]
        fee = Fraction(dice.randrange(10**6), 10**3)
        parts = [bill(rated(), charges(share=share, fixed_fee=fee), currency).total_minor for share in shares]
        assert abs(sum(parts) - fee * 10 ** exponent(currency)) * 2 <= len(parts), number


def test_lines_without_tax_have_no_rate() -> None:
    [entry] = bill(rated(usage(5)), charges(), "USD").lines
    assert entry == BillLine(usage(5), "delivery")
