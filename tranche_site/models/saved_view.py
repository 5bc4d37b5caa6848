"""Filters of a list that a person keeps under a name."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import models
from django.utils import timezone


class SavedView(models.Model):
    """A search and filters of one list of the console: its owner's, or everybody's."""

    MOST = 30
    """Of one person and list."""

    owner = models.ForeignKey(User, models.CASCADE, related_name="+")
    list = models.CharField(max_length=100, help_text="The model of the list, such as dns.weightchange.")
    name = models.CharField(max_length=40)
    query = models.CharField(max_length=1000, help_text="What stands after the question mark.")
    is_shared = models.BooleanField("everybody’s", default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "saved_views"
        ordering = ["name", "id"]
        constraints = [models.UniqueConstraint(fields=["owner", "list", "name"], name="saved_views_one_name")]
        indexes = [models.Index(fields=["list", "owner"], name="saved_views_of_a_list")]

    def __str__(self) -> str:
        return self.name
