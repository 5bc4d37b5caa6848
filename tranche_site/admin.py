"""The console's pages that belong to no app of ours: the beat schedule, users, the audit log."""

from __future__ import annotations

from typing import Any

from axes.models import AccessAttempt, AccessLog
from django import forms
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
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
from tranche_site.console import access_pages, audit_admin, digest_admin, pages, paging_admin  # noqa: F401  their admins register themselves
from tranche_site.floor import access
from tranche_site.floor.console_admin import (
    InfinitePaginator,
    ModelAdmin,
    RangeDateTimeFilter,
    ReadOnly,
    confirmed,
    display,
    settled,
    when,
)
from tranche_site.models import SavedView

setattr(admin.site, "extra_urls", pages.urls)  # noqa: B010  unfold asks its site for them; Django's class has no such name

for model in (User, Group, PeriodicTask, IntervalSchedule, CrontabSchedule, ClockedSchedule, SolarSchedule):
    admin.site.unregister(model)  # Solar stays away: nothing here depends on the sun


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc]
    writing_is_dangerous = True
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "email", "shown_roles", "is_active", "is_superuser", "last_login"]
    list_filter = ["is_active", "is_superuser", "groups"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        found: QuerySet[User] = super().get_queryset(request).prefetch_related("groups")
        return found

    actions_detail = ["reset_second_factor"]

    def offers(self, action_name: str, row: User) -> bool:
        return row.is_active and row.is_staff

    @confirmed(
        "Reset second factor",
        "The person sets up another with the next log-in, for which the password alone is enough for some days; every "
        "session ends now. Make sure that it is the person who asks.",
        submit="Reset",
        permission="reset",
        icon="phonelink_erase",
        dangerous=True,
    )
    def reset_second_factor(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        user = self.row_of(request, object_id, "reset_second_factor")
        if not self.has_change_permission(request, user):
            raise PermissionDenied
        access_pages.reset_second_factor(user)
        self.log_change(request, user, f"Reset the second factor: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(user), f"{user} sets up another second factor with the next log-in.")

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        answer: HttpResponse = access.ask_again(request) or super().user_change_password(request, id, form_url)
        return answer

    def has_reset_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("auth.change_user")

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


@admin.register(SavedView)
class SavedViewAdmin(ReadOnly):
    list_display = ["name", "list", "owner", "is_shared", "query", "created_at"]
    list_select_related = ["owner"]
    search_fields = ["name", "owner__username"]
    empty_hint = "People keep the filters of a list under a name, above that list."


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    writing_is_dangerous = True


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


@admin.register(AccessAttempt)
class AccessAttemptAdmin(ReadOnly):
    list_display = ["username", "ip_address", "failures_since_start", when("attempt_time"), "user_agent"]
    list_filter = [("attempt_time", RangeDateTimeFilter)]
    search_fields = ["username", "ip_address"]
    fields = ["username", "ip_address", "failures_since_start", "attempt_time", "user_agent"]
    paginator = InfinitePaginator
    empty_hint = "Wrong passwords are counted here, by name and address, until the right one is given."
    actions_detail = ["let_in"]

    @confirmed("Let in", "Forgets these failures, so that the next log-in is tried again.", submit="Let in",
               permission="let_in", icon="lock_open", dangerous=True)  # fmt: skip
    def let_in(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self.row_of(request, object_id, "let_in")
        self.log_change(request, row, f"Let in: {form.cleaned_data['reason']}")
        row.delete()
        return settled(request, self.list_url(), f"{row.username} may try again from {row.ip_address}.")

    def has_let_in_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("auth.change_user")


@admin.register(AccessLog)
class AccessLogAdmin(ReadOnly):
    list_display = ["username", "ip_address", when("attempt_time"), when("logout_time"), "user_agent"]
    list_filter = [("attempt_time", RangeDateTimeFilter)]
    search_fields = ["username", "ip_address"]
    fields = ["username", "ip_address", "attempt_time", "logout_time", "user_agent", "path_info"]
    paginator = InfinitePaginator
    empty_hint = "Who logged in and out, from where and when."


class _TaskSelect(UnfoldAdminSelectWidget, beat.TaskSelectWidget):
    pass


class PeriodicTaskForm(beat.PeriodicTaskForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = _TaskSelect()


@admin.register(PeriodicTask)
class PeriodicTaskAdmin(beat.PeriodicTaskAdmin, ModelAdmin):
    writing_is_dangerous = True
    form = PeriodicTaskForm
    change_form_template = None  # theirs has a script within, which our pages do not run
    list_display = ["name", "task", "enabled", "scheduler", "last_run_at", "total_run_count"]
    list_filter = ["enabled", "one_off"]
    date_hierarchy = None
    warn_unsaved_form = True

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Theirs ask for no permission: whoever may read the schedule could stop it."""
        found: dict[str, Any] = super().get_actions(request) if self.has_change_permission(request) else {}
        return found


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
