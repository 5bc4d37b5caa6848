"""The resident prober: one event loop in one thread per probe worker, for every vantage point that the worker serves.

It plans its own slots from a cached list of targets, so a lost broker or a lost Postgres does not stop the probing.
Beat's task only makes sure that it runs and tells it to look for changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import Error, close_old_connections, connections, transaction

from customers.models import Event
from services import outcomes, samples, schedule, statuses
from services.models import Target, VantagePoint
from services.outcomes import Outcome
from services.probe import Probe, classify
from services.transport import Transport

logger = logging.getLogger(__name__)

T = TypeVar("T")

RELOAD_SECONDS = 5.0
FLUSH_SECONDS = 0.2
OWN_TIMEOUT_SECONDS = 3.0
OWN_ROLES = (Target.Role.CANARY, Target.Role.REFERENCE)
OWN_IN_FLIGHT = 100
MOST_WAITING = 2
"""Probes begun but not answered, in multiples of those that may be in flight, before further ones are dropped."""
NOTE_SECONDS = 2.0
KEPT_ROWS = 100_000
"""How many samples wait in memory while Postgres is away; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One target as the loop keeps it."""

    id: int
    role: str
    probe: Probe
    interval_seconds: float
    domain_id: int | None
    service_id: int | None
    customer_id: int | None


@dataclass(slots=True)
class Sight:
    """What a vantage point's canaries say. Without canaries it is never called blind."""

    canaries: dict[int, tuple[float, bool]] = field(default_factory=dict)
    """Newest result by target: (monotonic time, whether it was good)."""
    blind_reason: str = "its canaries have not answered yet"
    announced: bool | None = None
    """What the database was told; None until the first round of canaries is over."""

    def judge(self, canary_ids: Iterable[int], now: float, patience_seconds: float) -> str:
        """Why the vantage point is blind, or "". Canaries that fail or stay silent in the majority make it blind."""
        ids = list(canary_ids)
        if not ids:
            return ""
        good = sum(1 for i in ids if (seen := self.canaries.get(i)) and seen[1] and now - seen[0] <= patience_seconds)
        return "" if good * 2 > len(ids) else f"{len(ids) - good} of {len(ids)} canaries fail or are silent"


class Prober:
    """`on_bad(service_ids)` is called after samples were recorded among which some were bad; `on_first_bad(domain_id,
    slot)` when a path that was good turns bad, so that every other vantage point can confirm it. Both in a thread."""

    def __init__(
        self,
        vantage_points: Iterable[str],
        on_bad: Callable[[set[int]], None] = lambda service_ids: None,
        on_first_bad: Callable[[int, float], None] = lambda domain_id, slot: None,
    ) -> None:
        self._names = sorted(vantage_points)
        self._on_bad = on_bad
        self._on_first_bad = on_first_bad
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        # The loop waits for nobody: one thread for the database keeps batches in order, another tells others, so that
        # a broker that hangs does not hold up the recording.
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="teller")

        self._points: list[VantagePoint] = []
        self._point_ranks: dict[int, int] = {}
        self._point_count = 1
        self._targets: dict[int, Watched] = {}
        self._by_domain: dict[int, list[Watched]] = {}
        self._canary_ids: list[int] = []
        self._due: list[tuple[float, int, int]] = []
        self._planned: set[tuple[int, int]] = set()
        self._sights: dict[int, Sight] = defaultdict(Sight)
        self._was_good: dict[tuple[int, int], bool] = {}
        self._bursts: dict[tuple[int, int], float] = {}
        self._canaries_shot: dict[int, float] = {}
        self._noted: dict[int, float] = {}
        self._rows: deque[samples.Row] = deque(maxlen=KEPT_ROWS)
        self._bad_services: set[int] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    # --- called from other threads ----------------------------------------------------------------------------------

    def ensure_running(self) -> None:
        with self._lock:
            if self._thread and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="prober", daemon=True)
            self._thread.start()

    def look_for_changes(self) -> None:
        if self._loop and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._reload.set)

    def confirm(self, domain_id: int, slot: float) -> None:
        """Burst-probe every path and witness of a domain, because another vantage point saw it fail."""
        if self._loop and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._burst_everywhere, domain_id, slot)

    def stop(self) -> None:
        if self._loop and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread:
            self._thread.join(timeout=10)
        for executor in (self._recorder, self._teller):
            with contextlib.suppress(RuntimeError):  # it was stopped before
                executor.submit(connections.close_all)
            executor.shutdown(wait=True)

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = Transport(settings.PROBE_IN_FLIGHT)
        self._own_transport = Transport(OWN_IN_FLIGHT)
        jobs = [
            asyncio.create_task(self._keep_up(job))
            for job in (self._keep_loaded, self._keep_probing, self._keep_recording)
        ]
        await self._stop.wait()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._transport.close()
        self._own_transport.close()
        try:
            await self._in_thread(samples.write, list(self._rows))
        except Error:
            logger.warning("%s samples were not recorded", len(self._rows))

    @staticmethod
    async def _keep_up(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A job that stumbles over something unforeseen goes on: a prober that stands still looks like one that is well."""
        while True:
            try:
                await job()
            except Exception:
                logger.exception("the prober stumbled")
                await asyncio.sleep(1)

    async def _keep_loaded(self) -> None:
        while True:
            try:
                loaded = await self._in_thread(_load, self._names)
            except Error:
                logger.warning("targets can't be read; probing goes on with the last list")
            else:
                self._take(*loaded)
            self._reload.clear()
            try:
                await asyncio.wait_for(self._reload.wait(), RELOAD_SECONDS)
            except TimeoutError:
                continue

    def _take(self, points: list[VantagePoint], ranks: dict[int, int], targets: list[Watched]) -> None:
        self._points, self._point_ranks, self._point_count = points, ranks, max(len(ranks), 1)
        self._targets = {target.id: target for target in targets}
        self._canary_ids = [target.id for target in targets if target.role == Target.Role.CANARY]
        by_domain: dict[int, list[Watched]] = defaultdict(list)
        for target in targets:
            if target.domain_id:
                by_domain[target.domain_id].append(target)
        self._by_domain = dict(by_domain)
        for point in points:
            for target in targets:
                if (target.id, point.pk) not in self._planned:
                    self._planned.add((target.id, point.pk))
                    self._plan(target, point.pk, time.time())

    def _plan(self, target: Watched, point_id: int, now: float) -> None:
        phase = schedule.phase_seconds(
            target.id, self._point_ranks.get(point_id, 0), self._point_count, target.interval_seconds
        )
        heapq.heappush(self._due, (schedule.next_slot(now, target.interval_seconds, phase), target.id, point_id))

    async def _keep_probing(self) -> None:
        while True:
            now = time.time()
            points = {point.pk: point for point in self._points}
            while self._due and self._due[0][0] <= now:
                slot, target_id, point_id = heapq.heappop(self._due)
                target, point = self._targets.get(target_id), points.get(point_id)
                if target is None or point is None:
                    self._planned.discard((target_id, point_id))
                    continue
                if not schedule.is_late(now, slot, target.interval_seconds):
                    self._start(target, point, slot, 0)
                self._plan(target, point_id, max(now, slot))
            wait = min(self._due[0][0] - time.time(), 0.25) if self._due else 0.25
            await asyncio.sleep(max(wait, 0.001))

    def _start(self, target: Watched, point: VantagePoint, slot: float, attempt: int) -> None:
        if len(self._running) >= MOST_WAITING * settings.PROBE_IN_FLIGHT and target.role not in OWN_ROLES:
            return  # what waits longer than this would measure our own queue
        task = asyncio.create_task(self._probe(target, point, slot, attempt))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _probe(self, target: Watched, point: VantagePoint, slot: float, attempt: int) -> None:
        probe = target.probe
        if point.source_address:
            probe = _from_source(probe, point.source_address)
        # Canaries have room of their own: a mass outage must not make us look blind.
        reply = await (self._own_transport if target.role in OWN_ROLES else self._transport).send(probe)
        verdict = classify(probe, reply)
        is_bad, is_good = verdict.outcome in outcomes.BAD, verdict.outcome is Outcome.OK
        sight = self._sights[point.pk]
        if target.role == Target.Role.CANARY:
            sight.canaries[target.id] = (time.monotonic(), is_good)
        self._look_around(point, sight)

        self._rows.append(
            samples.Row(
                datetime.fromtimestamp(slot, UTC), target.id, point.pk, attempt, reply.at, target.customer_id,
                target.service_id, verdict.outcome.value, reply.status, reply.dns_ms, reply.connect_ms, reply.tls_ms,
                reply.first_byte_ms, reply.total_ms, reply.certificate_expires_at, reply.remote_address,
                verdict.reason.replace("\x00", "")[:500], bool(sight.blind_reason),
            )
        )  # fmt: skip
        if is_bad and target.service_id:
            self._bad_services.add(target.service_id)
        was_good = self._was_good.get((target.id, point.pk), True)
        if is_bad or is_good:
            self._was_good[target.id, point.pk] = is_good
        if is_bad and was_good and attempt == 0 and target.role in Target.PATH_ROLES and target.domain_id:
            self._burst_everywhere(target.domain_id, slot)
            self._teller.submit(self._tell, self._on_first_bad, target.domain_id, slot)

    def _burst_everywhere(self, domain_id: int, slot: float) -> None:
        """Confirming shots at every path and witness of the domain, and at the canaries: is it the CDN, or are we blind?"""
        for point in self._points:
            if self._bursts.get((domain_id, point.pk), 0.0) > time.monotonic():
                continue
            length = settings.PROBE_BURST_SHOTS * settings.PROBE_BURST_SPACING_SECONDS
            self._bursts[domain_id, point.pk] = time.monotonic() + 2 * length
            for shot in range(settings.PROBE_BURST_SHOTS):
                asyncio.get_running_loop().call_later(
                    shot * settings.PROBE_BURST_SPACING_SECONDS, self._shoot, domain_id, point, slot, shot + 1
                )

    def _shoot(self, domain_id: int, point: VantagePoint, slot: float, attempt: int) -> None:
        for target in self._by_domain.get(domain_id, []):
            self._start(target, point, slot, attempt)
        # However many domains fail at once, one look at the canaries answers for all of them.
        now = time.monotonic()
        if now - self._canaries_shot.get(point.pk, -math.inf) >= settings.PROBE_BURST_SPACING_SECONDS / 2:
            self._canaries_shot[point.pk] = now
            for canary_id in self._canary_ids:
                self._start(self._targets[canary_id], point, slot, attempt)

    def _look_around(self, point: VantagePoint, sight: Sight) -> None:
        patience = 2 * settings.PROBE_OWN_INTERVAL_SECONDS + OWN_TIMEOUT_SECONDS / 2
        sight.blind_reason = sight.judge(self._canary_ids, time.monotonic(), patience)
        first_round_is_over = sight.announced is not None or all(i in sight.canaries for i in self._canary_ids)
        if first_round_is_over and bool(sight.blind_reason) != sight.announced:
            sight.announced = bool(sight.blind_reason)
            self._teller.submit(self._tell_sight, point.pk, sight, sight.blind_reason)

    @staticmethod
    def _tell_sight(point_id: int, sight: Sight, reason: str) -> None:
        """No sweep would find this later: what could not be stored is announced again with the next probe."""
        try:
            close_old_connections()
            _store_sight(point_id, reason)
        except Exception:
            logger.exception("the sight of vantage point %s could not be stored", point_id)
            sight.announced = None

    async def _keep_recording(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            rows, self._rows = self._rows, deque(maxlen=KEPT_ROWS)
            bad, self._bad_services = self._bad_services, set()
            if not rows:
                continue
            try:
                await self._in_thread(_record, list(rows), self._not_noted_lately(rows))
            except Error:
                logger.warning("%s samples wait for Postgres", len(rows))
                rows.extend(self._rows)
                self._rows = rows
                self._bad_services |= bad
                await asyncio.sleep(1)
                continue
            if bad:
                self._teller.submit(self._tell, self._on_bad, bad)

    def _not_noted_lately(self, rows: Iterable[samples.Row]) -> set[int]:
        now = time.monotonic()
        points = {row.vantage_point_id for row in rows}
        due = {point for point in points if now - self._noted.get(point, -math.inf) >= NOTE_SECONDS}
        self._noted |= dict.fromkeys(due, now)
        return due

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        def run() -> T:
            close_old_connections()
            return function(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._recorder, run)

    @staticmethod
    def _tell(function: Callable[..., object], *arguments: object) -> None:
        """Tell somebody something that the sweep would find later anyway: a failure costs time, never the prober."""
        try:
            close_old_connections()
            function(*arguments)
        except Exception:
            logger.exception("the prober could not pass on %s", arguments)


def _record(rows: list[samples.Row], probing: set[int]) -> None:
    samples.write(rows)
    if probing:
        VantagePoint.objects.filter(pk__in=probing).update(last_probe_at=datetime.now(UTC))


def _from_source(probe: Probe, address: str) -> Probe:
    return replace(probe, source_address=address)


def _load(names: list[str]) -> tuple[list[VantagePoint], dict[int, int], list[Watched]]:
    """The vantage points that this worker serves, the rank of each among all that probe, and every target."""
    probing = list(VantagePoint.objects.exclude(state=VantagePoint.State.OFF).order_by("name"))
    ranks = {point.pk: rank for rank, point in enumerate(probing)}
    targets = Target.objects.live().select_related("domain__service")
    return (
        [point for point in probing if point.name in names],
        ranks,
        [watched for target in targets if (watched := _watched(target))],
    )


def _watched(target: Target) -> Watched | None:
    """None for a domain whose owner has not proved it: no probe before the proof."""
    domain = target.domain
    if domain is None:
        return Watched(
            target.pk, target.role,
            Probe(
                target.hostname, target.address, target.port, target.probe_path or "/",
                timeout_seconds=OWN_TIMEOUT_SECONDS, allow_private=settings.PROBE_ALLOW_PRIVATE,
            ),
            settings.PROBE_OWN_INTERVAL_SECONDS, None, None, None,
        )  # fmt: skip
    if domain.verified_at is None:
        return None
    service = domain.service
    probe = Probe(
        host=domain.hostname,
        address=target.address,
        port=target.port,
        path=target.probe_path or service.probe_path,
        method=service.probe_method,
        expected=statuses.parse(service.expected_statuses),
        body_marker=service.body_marker.encode(),
        timeout_seconds=float(service.timeout_seconds),
        allow_private=settings.PROBE_ALLOW_PRIVATE,
    )
    return Watched(
        target.pk, target.role, probe, service.interval_seconds, domain.pk, service.pk, service.customer_id
    )  # fmt: skip


def _store_sight(point_id: int, reason: str) -> None:
    with transaction.atomic():
        point = VantagePoint.objects.select_for_update().get(pk=point_id)
        if bool(reason) == bool(point.blind_since):
            return
        logger.warning("vantage point %s %s", point.name, f"is blind: {reason}" if reason else "sees again")
        point.blind_since = (point.blind_since or datetime.now(UTC)) if reason else None
        point.blind_reason = reason[:300]
        point.save(update_fields=["blind_since", "blind_reason"])
        kind, summary = (
            ("vantage_point.blind", f"{point.name} is blind: {reason}")
            if reason
            else ("vantage_point.sees", f"{point.name} sees again")
        )
        Event.record(kind, point, summary, customer_id=None)
