"""By which terms a customer is billed and insured."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.models import Contract, Prices
from customers.scoped import ReadViewSet


class PricesSerializer(serializers.ModelSerializer[Prices]):
    """Amounts are major units per unit of the rate card, in quotes so that they stay exact."""

    primary_tiers = serializers.ListField(child=serializers.DictField(), read_only=True)
    backup_tiers = serializers.ListField(child=serializers.DictField(), read_only=True)
    cdn_tiers = serializers.DictField(read_only=True, help_text="By CDN and path, where a CDN has a price of its own.")
    per_10k_requests = serializers.DictField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = Prices
        fields = [
            "version", "valid_from", "valid_until", "tier_mode", "primary_tiers", "backup_tiers", "cdn_tiers",
            "per_10k_requests",
        ]  # fmt: skip


class ContractSerializer(serializers.ModelSerializer[Contract]):
    """One version of a contract: what is paid for delivery and cover, and what cover pays. It holds in
    [valid_from, valid_until)."""

    currency = serializers.CharField(source="rate_card.currency", read_only=True)
    unit = serializers.CharField(source="rate_card.unit", read_only=True)
    rate_card = serializers.CharField(source="rate_card.name", read_only=True)
    layers = serializers.ListField(child=serializers.DictField(), read_only=True)
    tax_rates = serializers.DictField(child=serializers.CharField(), read_only=True)
    prices = serializers.SerializerMethodField(help_text="Of the time in which it holds, the newest first.")

    class Meta:
        model = Contract
        fields = [
            "id", "version", "kind", "valid_from", "valid_until", "time_zone", "rate_card", "currency", "unit",
            "discount_rate", "max_coverage_factor", "coverage_mode", "waiting_seconds", "waiting_mode",
            "hours_clause_seconds", "aggregate_seconds", "merge_gap_seconds", "drain_seconds", "layers", "policy_from",
            "fixed_fee", "premium", "minimum_commitment", "commit_on_net", "tax_rates", "grace_hours", "payment_days",
            "notice_days", "prices",
        ]  # fmt: skip

    @extend_schema_field(PricesSerializer(many=True))
    def get_prices(self, contract: Contract) -> Any:
        mine = [
            version
            for version in contract.rate_card.versions.all()
            if (contract.valid_until is None or version.valid_from < contract.valid_until)
            and (version.valid_until is None or version.valid_until > contract.valid_from)
        ]
        return PricesSerializer(mine, many=True).data


class ContractViewSet(ReadViewSet):
    """The versions of the contract, newest first. They are agreed with us and only read here."""

    queryset = Contract.objects.select_related("rate_card").prefetch_related("rate_card__versions")
    serializer_class = ContractSerializer
    newest_first = True
