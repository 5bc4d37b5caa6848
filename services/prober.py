"""The resident prober: one event loop in one thread per probe worker, for every vantage point that the worker serves.

It plans its own slots from a cached list of targets, so a lost broker or a lost Postgres does not stop the probing.
Beat's task only makes sure that it runs and tells it to look for changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import Error, close_old_connections, connections, transaction
from django.db.models import Case, F, Q, Value, When

from customers.models import Event
from services import outcomes, rollups, samples, schedule, watched
from services.budget import Bucket
from services.metrics import ProbeMetrics
from services.models import SILENT, Target, VantagePoint
from services.outcomes import Outcome
from services.probe import Fault, Reply, Verdict, classify
from services.sight import Sight
from services.spool import Spool
from services.transport import Transport
from services.watched import OWN_TIMEOUT_SECONDS, Picture, Watched

logger = logging.getLogger(__name__)

T = TypeVar("T")

RELOAD_SECONDS = 5.0
FLUSH_SECONDS = 0.2
SITE_ROLES = (*Target.PATH_ROLES, Target.Role.REFERENCE)
OWN_IN_FLIGHT = 100
MOST_WAITING = 2
"""Probes begun but not answered, in multiples of those that may be in flight, before further ones are dropped."""
MOST_UNTOLD = 20
NOTE_SECONDS = 2.0
CANARY_LOOKS_PER_SECOND, CANARY_LOOKS = 0.5, 12
"""Of the looks at canaries that bursts ask for, and how many may come at once."""
PATIENCE_SECONDS = 5.0
"""How long one batch may take to be recorded before the next samples go to disk."""
KEPT_ROWS = 100_000
"""How many samples wait in memory if the disk fails too; the oldest go first."""


def spare_collector() -> None:
    """A probe makes some hundred objects and no cycles, while targets by the ten thousand stay: looking at those again
    and again for garbage would cost a tenth of a probe, and hold up the loop for it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


class Prober:
    """`posts` are vantage points' names, with `.1` and so on for further shards, as their queues say.

    `on_bad(service_ids)` is called after samples were recorded among which some were bad; `on_first_bad(domain_id, slot)`
    when a path that was good turns bad, so that every other vantage point can confirm it. Both in a thread.
    """

    def __init__(
        self,
        posts: Iterable[str],
        on_bad: Callable[[set[int]], None] = lambda service_ids: None,
        on_first_bad: Callable[[int, float], None] = lambda domain_id, slot: None,
    ) -> None:
        self._shards: dict[str, set[int]] = defaultdict(set)
        for post in posts:
            name, _, shard = post.partition(".")
            self._shards[name].add(int(shard or 0))
        self._on_bad = on_bad
        self._on_first_bad = on_first_bad
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        # The loop waits for nobody: one thread for the database keeps batches in order, another tells others, so that
        # a broker that hangs does not hold up the recording.
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="recorder")
        self._teller = ThreadPoolExecutor(1, thread_name_prefix="teller")
        self._untold = threading.Semaphore(MOST_UNTOLD)
        # What must reach the database though the broker hangs or the recorder is busy.
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="clerk")
        self._metrics = ProbeMetrics()
        self._spool = Spool(
            settings.PROBE_SPOOL_DIR / "+".join(sorted(posts)),
            settings.PROBE_SPOOL_BYTES,
            settings.PROBE_SPOOL_SECONDS,
        )

        self._picture = Picture()
        self._points: dict[int, VantagePoint] = {}
        self._by_domain: dict[int, list[Watched]] = {}
        self._canary_ids: list[int] = []
        self._rings: list[schedule.Ring[tuple[int, int]]] = []
        self._planned_until = math.inf
        self._clock_base = 0.0
        self._sights: dict[int, Sight] = {}
        self._blind: dict[int, str] = {}
        self._announced: dict[int, bool] = {}
        """What the database was told of a vantage point; nothing until the first round of its canaries is over."""
        self._was_good: dict[tuple[int, int], bool] = {}
        self._bursts: dict[tuple[int, int], float] = {}
        self._burst_budget = Bucket(settings.PROBE_BURSTS_PER_SECOND, 2 * settings.PROBE_BURSTS_PER_SECOND)
        self._canary_looks: dict[int, Bucket] = {}
        self._canaries_shot: dict[int, float] = {}
        self._noted: dict[int, float] = {}
        self._rows: deque[samples.Row] = deque(maxlen=KEPT_ROWS)
        self._bad_services: set[int] = set()
        self._late_slots: list[datetime] = []
        self._running: set[asyncio.Task[None]] = set()
        self._slot_running: set[tuple[int, int]] = set()
        self._customer_running: dict[int | None, int] = defaultdict(int)
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
        for executor in (self._recorder, self._teller, self._clerk):
            with contextlib.suppress(RuntimeError, TimeoutError):  # it was stopped before, or hangs with its server
                executor.submit(connections.close_all).result(PATIENCE_SECONDS)
            executor.shutdown(wait=False)

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = Transport(settings.PROBE_IN_FLIGHT, is_capped=True)
        # Of a resolver that begins to lie each name would learn when its answer gets old, the canaries perhaps last.
        self._own_transport = Transport(OWN_IN_FLIGHT, is_cached=False)
        self._metrics.watch(
            lambda: self._transport.in_flight + self._own_transport.in_flight,
            lambda: len(self._rows),
            lambda: self._spool.size_bytes,
        )
        stop_serving = self._metrics.serve()
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
        stop_serving()
        rows = self._taken()
        try:
            await asyncio.wait_for(self._in_thread(samples.write, rows), PATIENCE_SECONDS)
        except (Error, TimeoutError):
            self._put_aside(rows)

    @staticmethod
    async def _keep_up(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A job that stumbles over something unforeseen goes on: a prober that stands still looks like one that is well."""
        while True:
            try:
                await job()
            except Exception:
                logger.exception("the prober stumbled")
                await asyncio.sleep(1)

    # --- what to probe ----------------------------------------------------------------------------------------------

    async def _keep_loaded(self) -> None:
        while True:
            try:
                picture = await self._in_thread(watched.read, self._picture)
            except Error:
                logger.warning("targets can't be read; probing goes on with the last list")
            else:
                self._take(picture)
            self._reload.clear()
            try:
                await asyncio.wait_for(self._reload.wait(), RELOAD_SECONDS)
            except TimeoutError:
                continue

    def _take(self, picture: Picture) -> None:
        before, self._picture = self._picture, picture
        self._clock_base = time.time() - time.monotonic()
        self._points = {point.pk: point for point in picture.points if point.name in self._shards}
        is_reshaped = picture.shape != before.shape
        if is_reshaped:
            self._announced.clear()  # with fewer shards than before, what the others said must be forgotten
        if picture.targets is before.targets and not is_reshaped:
            return
        self._canary_ids = [target for ids in picture.canaries.values() for target in ids]
        by_domain: dict[int, list[Watched]] = defaultdict(list)
        for target in picture.targets.values():
            if target.domain_id:
                by_domain[target.domain_id].append(target)
        self._by_domain = dict(by_domain)
        self._rings = self._ring(picture)
        self._was_good = {key: good for key, good in self._was_good.items() if key[0] in picture.targets}
        self._bursts = {key: until for key, until in self._bursts.items() if until > time.monotonic()}
        spare_collector()

    def _ring(self, picture: Picture) -> list[schedule.Ring[tuple[int, int]]]:
        entries: dict[float, list[tuple[float, tuple[int, int]]]] = defaultdict(list)
        for rank, point in enumerate(picture.points):
            if point.pk not in self._points:
                continue
            for target in picture.targets.values():
                if self._serves(point, target):
                    interval = target.interval_seconds
                    phase = schedule.phase_seconds(target.id, rank, len(picture.points), interval)
                    entries[interval].append((phase, (target.id, point.pk)))
        return [schedule.Ring(interval, found) for interval, found in entries.items()]

    def _serves(self, point: VantagePoint, target: Watched) -> bool:
        """Every shard looks at the canaries itself; all else is one shard's, a domain with all its targets."""
        if target.role == Target.Role.CANARY:
            return True
        return schedule.shard_of(target.domain_id or target.id, point.shards) in self._shards[point.name]

    async def _keep_probing(self) -> None:
        while True:
            now = time.time()
            since, self._planned_until = min(self._planned_until, now), now
            for ring in self._rings:
                due, dropped = ring.due(since, now)
                for slot, (target_id, point_id) in due:
                    self._start(self._picture.targets.get(target_id), self._points.get(point_id), slot, 0)
                if dropped:
                    self._metrics.dropped.labels("late").inc(dropped)
            wait = min((ring.next_after(now) for ring in self._rings), default=math.inf) - time.time()
            await asyncio.sleep(min(max(wait, 0.001), 0.25))

    # --- probing ----------------------------------------------------------------------------------------------------

    def _start(self, target: Watched | None, point: VantagePoint | None, slot: float, attempt: int) -> None:
        if target is None or point is None:
            return
        if reason := self._obstacle(target, point, attempt):
            self._metrics.dropped.labels(reason).inc()
            return
        task = asyncio.create_task(self._probe(target, point, slot, attempt))
        self._running.add(task)
        customer, place = target.customer_id, (target.id, point.pk)
        self._customer_running[customer] += 1
        if attempt == 0:
            self._slot_running.add(place)

        def is_done(done: asyncio.Task[None]) -> None:
            self._running.discard(done)
            self._customer_running[customer] -= 1
            if not self._customer_running[customer]:
                del self._customer_running[customer]
            if attempt == 0:
                self._slot_running.discard(place)

        task.add_done_callback(is_done)

    def _obstacle(self, target: Watched, point: VantagePoint, attempt: int) -> str:
        """Why this probe may not begin now, or "". What hangs must not take the room of what others watch."""
        if target.role in Target.OWN_ROLES:
            return ""
        if attempt == 0 and (target.id, point.pk) in self._slot_running:
            return "overlap"
        room, taken = MOST_WAITING * settings.PROBE_IN_FLIGHT, len(self._running)
        if taken >= room:
            return "busy"  # what waits longer than this would measure our own queue
        if taken >= room / 2 and self._customer_running.get(target.customer_id, 0) >= room / 4:
            return "share"
        return ""

    async def _probe(self, target: Watched, point: VantagePoint, slot: float, attempt: int) -> None:
        probe = replace(target.probe, source_address=point.source_address) if point.source_address else target.probe
        # Canaries have room of their own: a mass outage must not make us look blind.
        reply = await (self._own_transport if target.role in Target.OWN_ROLES else self._transport).send(probe)
        verdict = classify(probe, reply)
        is_bad, is_good = verdict.outcome in outcomes.BAD, verdict.outcome is Outcome.OK
        self._look_around(target, point, reply, verdict)
        self._record(target, point, slot, attempt, reply, verdict)

        if is_bad and target.service_id:
            self._bad_services.add(target.service_id)
        was_good = self._was_good.get((target.id, point.pk), True)
        if is_bad or is_good:
            self._was_good[target.id, point.pk] = is_good
        is_news = is_bad and was_good and attempt == 0 and target.role in Target.PATH_ROLES
        if is_news and target.domain_id and not self._blind[point.pk]:
            self._burst_everywhere(target.domain_id, slot)
            self._pass_on(self._on_first_bad, target.domain_id, slot)

    def _record(
        self, target: Watched, point: VantagePoint, slot: float, attempt: int, reply: Reply, verdict: Verdict
    ) -> None:
        self._metrics.probes.labels(point.name, verdict.outcome.value).inc()
        if attempt == 0:
            self._metrics.slip.labels(point.name).observe(max(reply.at.timestamp() - slot, 0))
        if target.role == Target.Role.CANARY and min(self._shards[point.name]):
            return  # every shard looks at the canaries, and the first one's samples are kept
        self._rows.append(
            samples.Row(
                datetime.fromtimestamp(slot, UTC), target.id, point.pk, attempt, reply.at, target.customer_id,
                target.service_id, verdict.outcome.value, reply.status, reply.dns_ms, reply.connect_ms, reply.tls_ms,
                reply.first_byte_ms, reply.total_ms, reply.certificate_expires_at, reply.certificate_issuer.replace("\x00", ""),
                reply.protocol, reply.remote_address, verdict.reason.replace("\x00", "")[:500], bool(self._blind[point.pk]),
                in_maintenance=self._picture.is_maintained(target, reply.at),
            )
        )  # fmt: skip

    def _burst_everywhere(self, domain_id: int, slot: float) -> None:
        """Confirming shots at every path and witness of the domain, and at the canaries: is it the CDN, or are we blind?"""
        targets = self._by_domain.get(domain_id, [])
        for point in self._points.values():
            if not targets or not self._serves(point, targets[0]):
                continue
            now = time.monotonic()
            if self._bursts.get((domain_id, point.pk), 0.0) > now:
                continue
            if not self._burst_budget.take(now):
                self._metrics.dropped.labels("burst budget").inc(settings.PROBE_BURST_SHOTS)
                continue
            length = settings.PROBE_BURST_SHOTS * settings.PROBE_BURST_SPACING_SECONDS
            self._bursts[domain_id, point.pk] = now + 2 * length
            for shot in range(settings.PROBE_BURST_SHOTS):
                asyncio.get_running_loop().call_later(
                    shot * settings.PROBE_BURST_SPACING_SECONDS, self._shoot, domain_id, point, slot, shot + 1
                )

    def _shoot(self, domain_id: int, point: VantagePoint, slot: float, attempt: int) -> None:
        # However many domains fail at once, one look at the canaries answers for all of them; and whoever flaps can't
        # have us ask them so often that they shut us out.
        now = time.monotonic()
        looks = self._canary_looks.setdefault(point.pk, Bucket(CANARY_LOOKS_PER_SECOND, CANARY_LOOKS))
        is_old = now - self._canaries_shot.get(point.pk, -math.inf) >= settings.PROBE_BURST_SPACING_SECONDS / 2
        if is_old and looks.take(now):
            self._canaries_shot[point.pk] = now
            for canary_id in self._canary_ids:
                self._start(self._picture.targets.get(canary_id), point, slot, attempt)
        for target in self._by_domain.get(domain_id, []):
            self._start(target, point, slot, attempt)

    # --- whether we see ---------------------------------------------------------------------------------------------

    def _look_around(self, target: Watched, point: VantagePoint, reply: Reply, verdict: Verdict) -> None:
        sight = self._sights.get(point.pk)
        if sight is None:
            patience = 2 * settings.PROBE_OWN_INTERVAL_SECONDS + OWN_TIMEOUT_SECONDS / 2
            sight = self._sights[point.pk] = Sight(patience)
        now, is_good = time.monotonic(), verdict.outcome is Outcome.OK
        if reply.fault is Fault.OURS:
            sight.note_trouble(reply.fault_text, now)
        if target.role == Target.Role.CANARY:
            sight.note_canary(target.id, is_good, now)
        elif target.role in SITE_ROLES and (is_good or verdict.outcome in outcomes.BAD):
            sight.note_site(target.cdn_id, target.customer_id, is_good, now)
        networks = self._picture.canaries
        is_settled = sight.settle(networks)
        reason = sight.judge(networks, self._clock_off(), now) if is_settled else "its canaries have not answered yet"
        self._blind[point.pk] = reason
        self._metrics.blind.labels(point.name).set(bool(reason))
        if is_settled and self._announced.get(point.pk) is not bool(reason):
            self._announced[point.pk] = bool(reason)
            self._clerk.submit(self._tell_sight, point, reason)

    def _clock_off(self) -> float:
        """This clock less the database's: as it was measured last, and what the clock has jumped since."""
        jumped = time.time() - time.monotonic() - self._clock_base if self._clock_base else 0.0
        return self._picture.clock_off_seconds + jumped

    def _tell_sight(self, point: VantagePoint, reason: str) -> None:
        """No sweep would find this later: what could not be stored is announced again with the next probe."""
        try:
            close_old_connections()
            _store_sight(point.pk, min(self._shards[point.name]), reason)
        except Exception:
            logger.exception("the sight of vantage point %s could not be stored", point)
            self._announced.pop(point.pk, None)

    # --- recording --------------------------------------------------------------------------------------------------

    async def _keep_recording(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            rows = self._taken()
            bad, self._bad_services = self._bad_services, set()
            if rows and not await self._is_recorded(rows):
                self._put_aside(rows)
                await asyncio.sleep(1)
                continue
            if bad:
                self._pass_on(self._on_bad, bad)
            if rows:
                await self._back_fill()

    def _taken(self) -> list[samples.Row]:
        """What waits to be recorded. What failed while its canaries were still on their way has no vote if they then
        failed, too."""
        waiting, self._rows = self._rows, deque(maxlen=KEPT_ROWS)
        return [replace(row, is_blind=True) if self._blind[row.vantage_point_id] else row for row in waiting]

    async def _is_recorded(self, rows: list[samples.Row]) -> bool:
        """Tried twice, since a connection that was cut is new at the second time."""
        for _ in range(2):
            try:
                await self._patiently(_record, rows, self._not_noted_lately(rows))
            except Error:
                continue
            except asyncio.CancelledError:
                self._put_aside(rows)  # recorded twice is harmless, and not at all is not
                raise
            self._metrics.recorded.labels("no").inc(len(rows))
            return True
        return False

    async def _patiently(self, function: Callable[..., object], *arguments: object) -> None:
        """In the recorder's thread. If Postgres hangs, what comes in meanwhile is safer on disk."""
        writing = asyncio.ensure_future(self._in_thread(function, *arguments))
        while not (await asyncio.wait({writing}, timeout=PATIENCE_SECONDS))[0]:
            self._put_aside(self._taken())
        writing.result()

    def _put_aside(self, rows: list[samples.Row]) -> None:
        if not rows:
            return
        logger.warning("%s samples wait for Postgres on disk", len(rows))
        try:
            self._spool.append(rows)
        except OSError:
            logger.exception("the spool can't be written: samples wait in memory")
            self._rows.extendleft(reversed(rows))

    async def _back_fill(self) -> None:
        """One file of the spool at a time, so that what is fresh never waits long for what is old. The minutes that they
        belong to are counted again once all are in, in a thread that nothing fresh waits for."""
        try:
            found = self._spool.oldest()
            if found:
                path, rows = found
                await self._patiently(samples.write, rows)
                self._spool.remove(path)
                self._late_slots += [pick(row.slot_at for row in rows) for pick in (min, max) if rows]
                self._metrics.recorded.labels("yes").inc(len(rows))
                logger.info("%s samples of %s were back-filled", len(rows), path.name)
            elif self._late_slots:
                first, last, self._late_slots = min(self._late_slots), max(self._late_slots), []
                self._clerk.submit(self._tell, rollups.count_again, first, last, datetime.now(UTC))
        except (Error, OSError):
            logger.exception("the spool could not be back-filled")

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

    def _pass_on(self, function: Callable[..., object], *arguments: object) -> None:
        """In the teller's thread. While a broker hangs only the first few wait: old news is worth nothing."""
        if not self._untold.acquire(blocking=False):
            self._metrics.dropped.labels("untold").inc()
            return
        self._teller.submit(self._tell, function, *arguments).add_done_callback(lambda done: self._untold.release())

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
        now = datetime.now(UTC)
        probed_on = Q(last_probe_at__gt=now - SILENT, sees_since__isnull=False)
        sees_since = Case(When(probed_on, then=F("sees_since")), default=Value(now))
        VantagePoint.objects.filter(pk__in=probing).update(last_probe_at=now, sees_since=sees_since)


def _store_sight(point_id: int, shard: int, reason: str) -> None:
    """A vantage point is blind while one of its shards is."""
    with transaction.atomic():
        point = VantagePoint.objects.select_for_update().get(pk=point_id)
        was_blind = point.blind_since is not None
        shards = {number: why for number, why in point.blind_shards.items() if int(number) < point.shards}
        shards.pop(str(shard), None)
        if reason:
            shards[str(shard)] = reason
        said = next(iter(shards.values()), "")[:300]
        point.blind_shards, point.blind_reason = shards, said
        point.blind_since = (point.blind_since or datetime.now(UTC)) if said else None
        if was_blind and not said:
            point.sees_since = datetime.now(UTC)
        point.save(update_fields=["blind_shards", "blind_since", "blind_reason", "sees_since"])
        if bool(said) == was_blind:
            return
        logger.warning("vantage point %s %s", point.name, f"is blind: {said}" if said else "sees again")
        kind, summary = (
            ("vantage_point.blind", f"{point.name} is blind: {said}")
            if said
            else ("vantage_point.sees", f"{point.name} sees again")
        )
        Event.record(kind, point, summary, customer_id=None)
