"""What a person has beside the password: an authenticator app, and recovery codes for the day on which it is gone."""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models, transaction
from django.utils import timezone
from django_otp.models import Device, ThrottlingMixin
from django_otp.oath import TOTP

from tranche_site.floor import sealed

ISSUER = "Tranche"
KEY_BYTES = 20
STEP_SECONDS, STEPS_OFF = 30, 1
"""RFC 6238: a clock may be off by one step."""
RECOVERY_CODES = 8


class SecondFactor(ThrottlingMixin, Device):
    """One a person. The key of the app and the recovery codes are sealed; `confirmed` once a code of the app was right.

    With the password alone somebody may set it up for SECOND_FACTOR_HOURS from `opened_at`, and no longer.
    """

    user = models.OneToOneField(User, models.CASCADE, related_name="second_factor")
    name = None
    confirmed = models.BooleanField(default=False)
    sealed_credentials = models.TextField(blank=True, default="", editable=False)
    last_step = models.BigIntegerField(default=-1, help_text="That of the last code: no code is good twice.")
    opened_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "second_factors"

    def __str__(self) -> str:
        return f"second factor of {self.user}"

    @classmethod
    def of(cls, user: User) -> SecondFactor:
        """That of a person, who has had the time since the account was made if there is none yet. Raises SealedError."""
        found = cls.objects.filter(user=user).first()
        return found or cls.anew(user, user.date_joined)

    @classmethod
    def anew(cls, user: User, opened_at: datetime) -> SecondFactor:
        """In place of what there was: another key, and no codes. Raises SealedError."""
        factor = cls(user=user, opened_at=opened_at)
        factor.seal({"key": base64.b32encode(secrets.token_bytes(KEY_BYTES)).decode(), "codes": []})
        with transaction.atomic():
            cls.objects.filter(user=user).delete()
            factor.save()
        return factor

    @property
    def is_open(self) -> bool:
        """Whether it can still be set up."""
        hours = timedelta(hours=settings.SECOND_FACTOR_HOURS)
        return not self.confirmed and timezone.now() - self.opened_at <= hours

    # --- what is sealed ---

    @property
    def credentials_aad(self) -> str:
        return f"second_factor:{self.user_id}:credentials"

    def seal(self, held: dict[str, Any]) -> None:
        self.sealed_credentials = sealed.seal(held, self.credentials_aad)

    def _held(self) -> dict[str, Any]:
        return sealed.open_sealed(self.sealed_credentials, self.credentials_aad)

    @property
    def key(self) -> str:
        """Base32, as apps take it. Raises SealedError."""
        return str(self._held()["key"])

    @property
    def url(self) -> str:
        """What an app scans: the key URI format of Google Authenticator, which all apps read."""
        asked = urlencode({"secret": self.key, "issuer": ISSUER})
        return f"otpauth://totp/{quote(f'{ISSUER}:{self.user.get_username()}')}?{asked}"

    # --- codes ---

    def enrol(self, code: str) -> list[str]:
        """Confirm it by a code of the app. Returns the recovery codes, which nobody can ask for again; [] if it is wrong."""
        with transaction.atomic():
            row = SecondFactor.objects.select_for_update().get(pk=self.pk)
            if not row.is_open or not row.verify_token(code):
                return []
            codes = [base64.b32encode(secrets.token_bytes(5)).decode().lower() for _ in range(RECOVERY_CODES)]
            row.confirmed = True
            row.seal(row._held() | {"codes": codes})
            row.save()
        return codes

    def accepts(self, code: str) -> bool:
        """A code of the app, or a recovery code. Each is good once, and after wrong ones it takes a while."""
        with transaction.atomic():
            row = SecondFactor.objects.select_for_update().get(pk=self.pk)
            return row.confirmed and row.verify_token(code)

    def verify_token(self, token: str) -> bool:
        """django-otp's word for it. The row must be locked. Raises SealedError."""
        allowed, _ = self.verify_is_allowed()
        if not allowed:
            return False
        if not self._is_of_the_app(token) and not self._is_recovery_code(token):
            self.throttle_increment()
            return False
        self.throttle_reset(commit=False)
        self.save()
        return True

    def _is_of_the_app(self, token: str) -> bool:
        if not (token.isascii() and token.isdigit() and len(token) == 6):
            return False
        app = TOTP(base64.b32decode(self.key), step=STEP_SECONDS)
        app.time = time.time()
        if not app.verify(int(token), STEPS_OFF, self.last_step + 1):
            return False
        self.last_step = app.t()
        return True

    def _is_recovery_code(self, token: str) -> bool:
        held = self._held()
        # Each is compared, whichever is right.
        left = [code for code in held["codes"] if not hmac.compare_digest(code.encode(), token.encode())]
        if len(left) == len(held["codes"]):
            return False
        self.seal(held | {"codes": left})
        return True

    def get_throttle_factor(self) -> int:
        """Seconds after the first wrong code; each further one doubles them."""
        return 1
