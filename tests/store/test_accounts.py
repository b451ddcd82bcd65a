"""After a power failure at any moment, the log says of finished batches what a walk finds of them; so it does after
batches were removed. The service's own parts run over a disk that forgets (tests/harness/crashdisk.py)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from jobworker.server.store import ledger as ledger_module
from jobworker.server.store.disk import Disk
from jobworker.server.store.layout import Layout
from jobworker.server.store.recovery import recover
from jobworker.server.store.removals import Reason, Removal, Removals
from jobworker.server.store.stored import Stored, stored_in
from tests.harness.crashdisk import RecordingDisk, images
from tests.harness.ledger import GatedDisk
from tests.store.test_power_loss import Run, Service


async def remove(service: Service, count: int, *, late: bool = False) -> None:
    """The oldest finished batches, as retention does it; but through the disk that takes notes. `late`: what
    recorded it is gone from the log before they are moved."""
    removals = Removals(ledger=service.ledger, layout=service.layout)
    some = [
        Removal("alice", os.path.basename(folder), folder, stored_in(folder), Reason.AGE, 0.0)
        for folder in list(service.layout.finished_folders())[:count]
    ]
    recorded = await asyncio.to_thread(removals.record, some, lambda: False)
    if late:
        await asyncio.gather(*(service.submit("true", "false " + "x" * 2000) for _ in range(5)))
        await service.quiet()
    for removal in recorded:
        service.ledger.disk.rename(removal.folder, f"{service.layout.trash_root}/{removal.correlation_id}")
    await asyncio.to_thread(removals.removed, some)


async def play(root: Path, run: Run) -> None:
    """Batches come, finish and are removed, through several segments and their checkpoints."""
    service = Service(root, run)
    for step in range(4):
        await asyncio.gather(*(service.submit("true", "false " + "x" * 300) for _ in range(3)))
        if step % 2:
            await service.quiet()
            await remove(service, 2, late=step == 3)
    await service.submit(*["true " + "x" * 3000] * 25, parallelism=3)
    await service.quiet()
    await remove(service, 1)
    for _ in range(3):  # totals with batches whose moves are not durable: too little for a checkpoint
        await service.submit("true")
        await service.quiet()
        service.ledger.append_base(lambda _: None)
    await service.close()


def known(place: Path) -> tuple[dict[str, Stored] | None, dict[str, Stored]]:
    """What a start reads of finished batches, and what there is."""
    layout = Layout(place)
    os.close(layout.prepare())
    found = recover(layout=layout, disk=Disk(), boot="boot", report=lambda _path, _what: None)
    for batch in found.batches:
        batch.close()
    there: dict[str, Stored] = {}
    for folder in layout.finished_folders():
        there.setdefault(Path(folder).relative_to(layout.finished_root).parts[0], Stored()).add(stored_in(folder))
    said = found.stored
    return said and {user: stored for user, stored in said.items() if stored.batches}, there


def test_what_the_log_says_is_what_there_is_after_a_power_failure_at_any_moment(tmp_path: Path) -> None:
    root, place = tmp_path / "data", tmp_path / "images"
    root.mkdir()
    place.mkdir()
    os.close(Layout(root).prepare())
    run = Run(RecordingDisk(root))
    asyncio.run(play(root, run))
    segments = [op.name for op in run.disk.ops if op.kind == "unlink" and op.name.endswith(".log")]
    assert len(segments) >= 2  # there were checkpoints
    told = 0
    for moment, image in images(run.disk, place, first=1, seed=3, each=1):
        said, there = known(image)
        if said is not None:  # before the first segment there is nothing that could
            told += 1
            assert said == there, f"after {moment} calls"
    assert told > len(run.disk.ops)


def test_a_killed_server_loses_no_count_while_nothing_can_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is emptied all the same; the next start counts."""
    monkeypatch.setattr(ledger_module, "_RETRY_SECONDS", 3600)  # the disk stays full

    async def main() -> None:
        root = tmp_path / "data"
        root.mkdir()
        run = Run(RecordingDisk(root))
        run.disk = disk = GatedDisk()  # type: ignore[assignment]
        disk.ops = []  # type: ignore[attr-defined]
        service = Service(root, run)
        for _ in range(30):
            await service.submit("true", "x" * 300)
        await service.quiet()
        async with asyncio.timeout(60):
            while all(map(service.ledger.holds, names(service))):
                await asyncio.sleep(0.001)
        disk.error = OSError(28, "full")
        with pytest.raises(Exception, match="full"):
            await service.submit("true")
        async with asyncio.timeout(60):
            while service.ledger._checkpointing:
                await asyncio.sleep(0.001)
        held = set(filter(service.ledger.holds, names(service)))
        await remove(service, 100)
        assert names(service) == held  # of these the log would make new ones
        assert os.path.exists(service.layout.recount_file)
        assert known_of(service) == len(held)
        await service.close()
        assert known(root)[0] is None

    asyncio.run(main())


def names(service: Service) -> set[str]:
    return {os.path.basename(folder) for folder in service.layout.finished_folders()}


def known_of(service: Service) -> int:
    return service.ledger.accounts.of("alice").batches
