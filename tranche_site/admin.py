"""The console's pages that belong to no app of ours: the beat schedule, users, the audit log."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_beat import admin as beat
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from tranche_site import roles
from tranche_site.console import digest_admin, pages, paging_admin  # noqa: F401  their admins register themselves
from tranche_site.floor.console_admin import InfinitePaginator, ModelAdmin, RangeDateTimeFilter, ReadOnly, display

setattr(admin.site, "extra_urls", pages.urls)  # noqa: B010  unfold asks its site for them; Django's class has no such name

for model in (User, Group, PeriodicTask, IntervalSchedule, CrontabSchedule, ClockedSchedule, SolarSchedule):
    admin.site.unregister(model)  # Solar stays away: nothing here depends on the sun


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "email", "shown_roles", "is_active", "is_superuser", "last_login"]
    list_filter = ["is_active", "is_superuser", "groups"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        found: QuerySet[User] = super().get_queryset(request).prefetch_related("groups")
        return found

    @display(description="roles")
    def shown_roles(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all()) or "-"

    # Who gives access and is no superuser gives roles, and nothing else: no single permissions, no superusers, and
    # nothing to or of a superuser or himself.

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        may = bool(super().has_change_permission(request, obj))
        is_beyond = obj is not None and (obj.is_superuser or obj.pk == request.user.pk)
        return may and (_is_superuser(request) or not is_beyond)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False  # what a person did is told by his name: make him inactive

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[Any]:
        mine = [] if _is_superuser(request) else ["is_superuser", "user_permissions"]
        return [*super().get_readonly_fields(request, obj), *mine]

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "groups" and not _is_superuser(request):
            kwargs["queryset"] = Group.objects.filter(name__in=roles.NAMES)
        return super().formfield_for_manytomany(db_field, request, **kwargs)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    pass


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnly):
    list_display = ["what", "user", "content_type", "said", "action_time"]
    list_select_related = ["user", "content_type"]
    list_filter = ["action_flag", ("action_time", RangeDateTimeFilter)]
    search_fields = ["object_repr", "user__username", "change_message"]
    paginator = InfinitePaginator
    empty_hint = "What people do in this console is kept here."

    @display(description="what")
    def what(self, entry: LogEntry) -> str:
        return entry.object_repr

    @display(description="done")
    def said(self, entry: LogEntry) -> str:
        return entry.get_change_message() or entry.get_action_flag_display()


class _TaskSelect(UnfoldAdminSelectWidget, beat.TaskSelectWidget):
    pass


class PeriodicTaskForm(beat.PeriodicTaskForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = _TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(beat.PeriodicTaskAdmin, ModelAdmin):
    form = PeriodicTaskForm
    list_display = ["name", "task", "enabled", "scheduler", "last_run_at", "total_run_count"]
    list_filter = ["enabled", "one_off"]
    date_hierarchy = None
    warn_unsaved_form = True


class _ScheduleAdmin(ModelAdmin):
    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # deleting one deletes its tasks


@admin.register(IntervalSchedule)
class IntervalScheduleAdmin(_ScheduleAdmin):
    list_display = ["__str__", "every", "period"]


@admin.register(CrontabSchedule)
class CrontabScheduleAdmin(_ScheduleAdmin):
    list_display = ["__str__", "human_readable", "timezone"]


@admin.register(ClockedSchedule)
class ClockedScheduleAdmin(_ScheduleAdmin):
    list_display = ["__str__", "clocked_time"]
