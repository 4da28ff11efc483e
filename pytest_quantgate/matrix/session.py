"""A run's session in one process: settings, cache, engines, events; cells are resolved with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pytest_quantgate.artifacts.library import Library
from pytest_quantgate.config.limits import profile_limits
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.conditions import Conditions
from pytest_quantgate.engines.devices import default_threads, placement_of
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.inventory import list_devices
from pytest_quantgate.engines.messages import EngineDevice
from pytest_quantgate.engines.messages.placement import CPU, Placement
from pytest_quantgate.engines.pool import EnginePool, MakeEngine
from pytest_quantgate.errors import CellError, CellUnavailable, CellUnsupported, HostLost
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.hosts.inventory import ask_host
from pytest_quantgate.hosts.lanes import Lane, pool_members
from pytest_quantgate.hosts.link import HostLink
from pytest_quantgate.hosts.remote_engine import RemoteEngine
from pytest_quantgate.matrix.artifacts import CellArtifacts
from pytest_quantgate.matrix.cells import NO_TEXT, Cell
from pytest_quantgate.matrix.matrix import Matrix
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.results.baseline import Baseline, Key
from pytest_quantgate.results.baseline_store import Found, Store
from pytest_quantgate.results.durations import Stopwatch
from pytest_quantgate.results.events import Copying, EventLog, WaitingForDevice
from pytest_quantgate.results.measurement_store import Measurements
from pytest_quantgate.results.measurements.speed import SpeedMeasurement
from pytest_quantgate.results.orphans import with_device
from pytest_quantgate.storage.cache import Cache
from pytest_quantgate.storage.keys import key_of


class Session:
    """What all steps of a run share in one process; what several processes need is in the cache.

    Args:
        settings: checked settings.
        run_id: the same in all processes of a run.
        make_engine: makes an engine of a name; None or a result of None is the usual one.
        lane: the lane whose cells are measured with it; None is the run's own session, which
            measures all where there is one lane.
        library: models and texts that were read already.

    Attributes:
        measured_once: metrics that were measured already, by their name, the cell's id, and whether
            no further than one question needed.
        timed: which cell was timed first of some bytes, and its speed, by what makes a speed.
        controlled: references that this lane measured itself, or was held against, by their ids.
        unable_before: why the old engine cannot measure a cell, by the cell's id.

    """

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        make_engine: MakeEngine | None = None,
        *,
        lane: Lane | None = None,
        library: Library | None = None,
    ) -> None:
        self.settings = settings
        self.run_id = run_id
        self.lane = lane
        self.n_threads = settings.profile.n_threads or default_threads()
        if lane is not None and lane.cpus:
            self.n_threads = min(self.n_threads, len(lane.cpus))
        self.cache = Cache(settings.cache_dir, settings.cache_max_bytes)
        self.folder = self.cache.sub("runs") / run_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started_s = _started_s(self.folder)
        self.lane_name = lane_name = "" if lane is None else lane.name
        self.events = EventLog(self.folder / "events.jsonl", lane_name)
        self.library = library or Library(settings)
        self._link = self._connect()
        if self._link is not None:
            self.n_threads = settings.profile.n_threads or self._link.facts.n_cpus
        self.engines = EnginePool(
            settings,
            self.folder / "logs",
            self.cache.sha256_of,
            make_engine if self._link is None else self._remote_engine,
            suffix=f"-{key_of(lane=lane_name)[:8]}" if lane_name else "",
            identities=self.cache.sub("identities"),
        )
        self.store = Store(settings.baselines_dir, use_shipped=settings.uses_built_in_profile)
        self.matrix = Matrix(settings, self.library, self.store)
        self.measurements = Measurements(self.cache)
        self.stopwatch = Stopwatch()
        self.artifacts = CellArtifacts(
            settings,
            self.cache,
            self.library,
            self.engines,
            self.n_threads,
            self.events.append,
            lambda: self._hold(CPU, None),
            self.stopwatch,
        )
        self.measured_once: dict[tuple[str, str, bool], Any] = {}
        self.timed: dict[str, tuple[str, SpeedMeasurement]] = {}
        self.controlled: set[str] = set()
        self.unable_before: dict[str, CellError] = {}
        self._resolved: dict[str, ResolvedCell] = {}

    def _connect(self) -> HostLink | None:
        """Return the host of the session's lane, None for this machine."""
        label = None if self.lane is None else self.lane.host
        if label is None:
            return None
        log = self.folder / "logs" / f"host-{label}-{key_of(lane=self.lane_name)[:8]}.log"
        return HostLink(label, self.settings.hosts[label], log)

    def _remote_engine(self, name: str, settings: Settings, log: Path) -> Engine | None:
        link = self._link
        assert link is not None

        def on_copy(file: str, done: int, total: int) -> None:
            self.events.append(Copying(cell=file, done=done, total=total, host=link.label))

        return RemoteEngine(
            link=link,
            name=name,
            log=log,
            stall_s=settings.stall_s,
            sha256_of=self.cache.sha256_of,
            on_copy=on_copy,
        )

    @property
    def lost(self) -> HostLost | None:
        """Why the lane's host can measure nothing more, None while it can."""
        return None if self._link is None else self._link.lost

    def leave_host(self, problem: str) -> NoReturn:
        """Give the lane's host up, so that its cells move to an equal lane.

        Raises:
            HostLost: always.

        """
        assert self._link is not None
        raise self._link.leave(problem)

    @property
    def only_run(self) -> str | None:
        """What confines measurements to this run: a fresh one, or two engines compared."""
        is_alone = self.settings.overrides.fresh or self.settings.profile.against is not None
        return self.run_id if is_alone else None

    def resolve(self, cell: Cell) -> ResolvedCell:
        """Return a cell with everything that its names stand for.

        Raises:
            ModelFileError: a model's file that cannot be used.
            CellUnavailable: a model that could not be downloaded.

        """
        if cell.id not in self._resolved:
            device = self.settings.devices[cell.device]
            host = None if self.lane is None else self.lane.host
            if self.lane is not None and host not in device.hosts:
                raise CellUnsupported(
                    f"device {cell.device!r} is on another machine than what is held against it;"
                    " compare devices of one host"
                )
            profile = with_device(self.settings.profile, device)
            n_batch = profile.n_batch or cell.n_ctx
            self._resolved[cell.id] = ResolvedCell(
                cell=cell,
                model=self.library.model(cell.model),
                text=None if cell.text == NO_TEXT else self.library.text(cell.text),
                profile=profile,
                conditions=Conditions(
                    n_threads=self.n_threads,
                    n_batch=n_batch,
                    n_ubatch=profile.n_ubatch or min(512, n_batch),
                ),
                placement=self._placement(cell),
                placement_key=placement_of(device).to_text(),
                engine=self.engines[cell.engine],
                quantizer=self.engines[cell.quantizer],
                limits=profile_limits(self.settings.limits, cell.format),
                key=self.matrix.key(cell),
                reference=self.matrix.reference(cell),
            )
        return self._resolved[cell.id]

    def _placement(self, cell: Cell) -> Placement:
        """Return where a cell computes: of a pool the lane's member, without lanes the first."""
        device = self.settings.devices[cell.device]
        names = device.names
        if self.lane is not None:
            names = self.lane.backends.get(cell.device, names)
        if device.is_pool and names == device.names:
            listed = list_devices(self.engines[cell.engine])
            names = pool_members(cell.device, device.backend, listed)[:1]
        return placement_of(device, names)

    def devices_of(self, host: str | None) -> tuple[EngineDevice, ...]:
        """Return the devices of the profile's engine on a host; None is this machine.

        Raises:
            CellError: it cannot be asked.

        """
        if host is None:
            return list_devices(self.engines[self.settings.profile.engine])
        logs = self.folder / "logs"
        name, table = self.settings.profile.engine, self.settings.hosts[host]
        return ask_host(host, table, logs, self.settings.stall_s, engine=name).devices

    def reference(self, cell: ResolvedCell) -> ResolvedCell:
        """Return the cell that a cell is compared with; itself if it is the reference."""
        return cell if cell.is_reference else self.resolve(cell.reference)

    def before(self, cell: ResolvedCell) -> ResolvedCell | None:
        """Return a judged cell as the old engine makes and measures it.

        None where no engine is held against another, or where the old one could not.
        """
        old = None if cell.id in self.unable_before else self.matrix.of_old_engine(cell.cell)
        return None if old is None else self.resolve(old)

    def device(self, cell: ResolvedCell) -> str:
        """Return a cell's placement as a message carries it.

        Raises:
            CellUnavailable: the engine does not have one of its devices.
            CellUnsupported: they are on a host, and this session measures here.

        """
        name = cell.cell.device
        if self._link is None and None not in self.settings.devices[name].hosts:
            raise CellUnsupported(
                f"device {name!r} is on another machine, and this is measured here; name a cell of"
                " one of this machine's devices"
            )
        listed = cell.engine.identity().devices
        missing = [name for name in cell.placement.devices if name not in listed]
        if missing:
            raise CellUnavailable(
                f"device {name!r}: the engine has no {missing[0]!r}; there are: cpu,"
                f" {', '.join(listed)}"
            )
        return cell.placement.to_text()

    def hold_device(self, device: str, cell: ResolvedCell) -> AbstractContextManager[None]:
        """Keep every other measurement on this host off a device; a wait is an event."""
        return self._hold(
            device,
            lambda waited_s: self.events.append(
                WaitingForDevice(cell=cell.id, device=device, waited_s=round(waited_s))
            ),
        )

    def _hold(
        self, device: str, on_wait: Callable[[float], None] | None
    ) -> AbstractContextManager[None]:
        lane = self.lane
        if lane is None:
            return hold_device(device, on_wait)
        return hold_device(device, on_wait, cpus=lane.cpus, host=lane.host)

    def stored(self, cell: Cell) -> Found:
        """Look a cell's stored baseline up; its source is named as this run names it."""
        return self._stored(cell, self.matrix.key(cell))

    def baseline_before(self, cell: Cell) -> Baseline | None:
        """Return a cell's baseline under settings that no profile has any more.

        Of several that whose settings are the most alike.
        """
        key = self.matrix.key(cell)
        keys = self.matrix.keys_before(cell)
        nearest = min(keys, key=lambda other: len(key.settings_unlike(other)), default=None)
        return None if nearest is None else self._stored(cell, nearest).baseline

    def _stored(self, cell: Cell, key: Key) -> Found:
        found = self.store.find(key)
        model = self.library.find_model(cell.model)
        if found.baseline is None or model is None:
            return found
        source = self.artifacts.files.source_like(model, found.baseline.source_sha256)
        changed = found.baseline.model_copy(update={"source_sha256": source})
        return replace(found, baseline=changed)

    def baseline(self, cell: Cell) -> Baseline | None:
        """Return a cell's stored baseline; there is none where an old engine stands for it."""
        if self.settings.profile.against is not None:
            return None
        return self.stored(cell).baseline

    def close(self) -> None:
        """End all engines' processes, and the connection to the lane's host."""
        self.engines.close()
        if self._link is not None:
            self._link.close()


def _started_s(folder: Path) -> float:
    """Return when the first of a run's processes began, in seconds since the epoch."""
    mark = folder / "started"
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
    return mark.stat().st_mtime
