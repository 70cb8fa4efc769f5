"""Sequences read back from the disk: equal answers, whatever the files hold."""

from __future__ import annotations

import os
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from edgellm.backends.base import SavingBackend
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.options import GenerateOptions
from edgellm.engine.planning import plan
from edgellm.engine.prefix_cache import PrefixCache
from edgellm.engine.prefix_disk import PrefixDisk, model_key
from edgellm.engine.prefix_store import ROOT, PrefixStore, chain, make_piece
from edgellm.engine.runner import EngineThread
from edgellm.engine.scheduler import Scheduler
from edgellm.gguf.reader import GGUFFile
from tests.support.fake_model import EOG, Collected, CountingBackend, alone, run_all
from tests.support.tiny_model import write_tiny_model

MODEL = b"m" * 16
KINDS: dict[str, dict[str, Any]] = {
    "blocks": {},
    "recurrent": {"recurrent": True},
    "windowed": {"kept_tokens": 9},
}
GREEDY = GenerateOptions(temperature=0.0, max_tokens=6)
PROMPT = [n % 7 for n in range(150)]


class Life:
    """One process: a backend, its scheduler, and the store in a folder."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 20, model: bytes = MODEL, **kind: Any) -> None:
        self.store = PrefixStore(folder, max_bytes)
        self.backend = CountingBackend(**{"block_tokens": 8, "cache_tokens": 1024, **kind})
        self.disk = PrefixDisk(self.store, model, self.backend)
        self.scheduler = Scheduler(self.backend, frozenset({EOG}), disk=self.disk)

    def ask(self, *prompts: list[int]) -> list[Collected]:
        asked = [Collected(prompt, GREEDY) for prompt in prompts]
        run_all(self.scheduler, *asked)
        for one in asked:
            assert one.text == alone(one.request.prompt, GREEDY).text
        return asked

    def step_until_finished(self, one: Collected) -> None:
        while not one.finished:
            self.scheduler.step()

    def end(self) -> None:
        self.scheduler.stop()
        self.store.close()
        assert self.backend.sequences == ()
        assert self.backend.free_blocks == self.backend.n_blocks


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return KINDS[request.param]


def cached(*asked: Collected) -> list[int]:
    return [one.finish.stats.n_cached for one in asked]


def test_the_same_prompt_after_a_restart(tmp_path: Path, kind: dict[str, Any]) -> None:
    life = Life(tmp_path, **kind)
    assert cached(*life.ask(PROMPT)) == [0]
    life.end()
    life = Life(tmp_path, **kind)
    (first,) = life.ask(PROMPT)
    assert cached(first) == [149 if kind else 128]
    (second,) = life.ask(PROMPT)
    assert cached(second) == [149]
    life.end()


def test_prompts_that_part(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Sequences saved whole cannot be truncated; the position at which prompts differ is noticed and used the
    third time.
    """
    prompts = [[*PROMPT, *tail] for tail in ([9, 9, 9], [8, 8], [7, 9, 8, 7])]
    expected = {True: [0, 0, 150], False: [0, 128, 128]}[bool(kind)]
    for prompt, n_cached in zip(prompts, expected, strict=True):
        life = Life(tmp_path, **kind)
        assert cached(*life.ask(prompt)) == [n_cached]
        life.end()


def test_sequences_of_other_adapters_are_others(tmp_path: Path, kind: dict[str, Any]) -> None:
    def ask(scales: tuple[float, ...]) -> int:
        life = Life(tmp_path, **kind)
        one = Collected(PROMPT, GREEDY)
        one.request.scales = scales
        run_all(life.scheduler, one)
        life.end()
        return cached(one)[0]

    assert [ask(scales) for scales in ((), (0.5,), (1.0,))] == [0, 0, 0]
    assert min(ask(scales) for scales in ((), (0.5,), (1.0,))) >= 128


def test_common_beginnings_are_written_once(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.ask(PROMPT, [*PROMPT[:128], *[9] * 70])
    life.end()
    assert len(list((tmp_path / "prefixes").glob("*.kv"))) == 3


def test_several_wait_for_what_the_disk_brings(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.ask(PROMPT)
    life.end()
    life = Life(tmp_path)
    asked = life.ask([*PROMPT, 1], [*PROMPT, 2], [5, 5, 5], [*PROMPT, 3])
    assert cached(*asked)[0] == 128
    assert min(cached(asked[1], asked[3])) >= 128
    assert cached(asked[2]) == [0]
    life.end()


def test_another_model_s_sequences_are_not_used(tmp_path: Path, kind: dict[str, Any]) -> None:
    life = Life(tmp_path, **kind)
    life.ask(PROMPT)
    life.end()
    life = Life(tmp_path, model=b"o" * 16, **kind)
    assert cached(*life.ask(PROMPT)) == [0]
    life.end()


def test_damage_costs_what_it_hides_and_nothing_else(tmp_path: Path, kind: dict[str, Any]) -> None:
    for n_good in range(1 if kind else 2):
        life = Life(tmp_path, **kind)
        life.ask(PROMPT)
        life.end()
        good = [piece.name for piece in chain(MODEL, array("i", PROMPT), 64)][:n_good]
        for path in (tmp_path / "prefixes").glob("*.kv"):
            if path.name not in good:
                path.write_bytes(path.read_bytes()[:-7])
        life = Life(tmp_path, **kind)
        assert cached(*life.ask(PROMPT)) == [64 * n_good]
        life.end()


def test_foreign_pieces_with_good_sums_are_refused(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Bytes that no backend of this kind has written, under the right names: too short, too long, empty."""
    prompt_ids = Collected(PROMPT, GREEDY).request.prompt_ids
    for forged in (b"", b"x", b"\xff" * 256, b"\0" * 4 * 64, b"\0" * 4 * 128, b"\0" * 4 * 4096):
        store = PrefixStore(tmp_path, 1 << 20)
        pieces = [*chain(MODEL, prompt_ids, 64), make_piece(MODEL, ROOT, 0, prompt_ids[:100])]
        for piece in pieces[1:]:
            store.put(piece, forged, [])
        store.put(pieces[0], prompt_ids[:64].tobytes(), [])
        store.close()
        life = Life(tmp_path, **kind)
        wrong = forged == b"\0" * 4 * 64 and not kind
        one = Collected(PROMPT, GREEDY)
        run_all(life.scheduler, one)
        if not wrong:  # of the right size: only a process that may write to the folder can do this
            assert one.text == alone(PROMPT, GREEDY).text
        life.end()


def test_a_cache_without_room_gives_the_recall_up(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.ask(PROMPT)
    life.end()
    life = Life(tmp_path, cache_tokens=256)
    asked = life.ask([3] * 200, [*PROMPT, 4], [2] * 150, [*PROMPT, 5])
    assert len(asked) == 4
    life.end()


def test_a_limit_smaller_than_one_sequence(tmp_path: Path, kind: dict[str, Any]) -> None:
    for _ in range(2):
        life = Life(tmp_path, max_bytes=500, **kind)
        life.ask(PROMPT)
        assert life.store.n_bytes <= 500
        life.end()


def test_a_cancelled_request_lets_the_recall_end(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.ask(PROMPT)
    life.end()
    life = Life(tmp_path)
    one = Collected(PROMPT, GREEDY)
    life.scheduler.submit(one.request)
    life.scheduler.step()
    one.request.cancel()
    life.scheduler.step()
    assert one.finish.reason == "cancelled"
    life.ask(PROMPT)
    life.end()


def test_it_is_saved_while_the_engine_has_nothing_to_do(tmp_path: Path, kind: dict[str, Any]) -> None:
    """A killed process has saved its sequences in its idle moments."""
    life = Life(tmp_path, **kind)
    runner = EngineThread(life.scheduler)
    one = Collected(PROMPT, GREEDY)
    runner.submit(one.request)
    deadline = time.monotonic() + 30
    while not one.finished or life.scheduler.busy or life.scheduler.save_some():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    runner.stop()
    life.end()
    life = Life(tmp_path, **kind)
    assert cached(*life.ask(PROMPT)) == [149 if kind else 128]
    life.end()


def test_a_slow_disk_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests without a prefix on disk are answered while the disk reads."""
    life = Life(tmp_path)
    life.ask(PROMPT)
    life.end()
    life = Life(tmp_path)
    read = PrefixStore.read
    proceed = threading.Event()

    def slow(self: PrefixStore, piece: Any) -> bytes | None:
        assert proceed.wait(60)
        return read(self, piece)

    monkeypatch.setattr(PrefixStore, "read", slow)
    waiting, quick = Collected(PROMPT, GREEDY), Collected([5, 5, 5], GREEDY)
    life.scheduler.submit(waiting.request)
    life.scheduler.submit(quick.request)
    life.step_until_finished(quick)
    assert not waiting.finished
    proceed.set()
    life.step_until_finished(waiting)
    assert waiting.finish.stats.n_cached == 128
    life.end()


def test_a_model_s_key_changes_with_all_that_matters(tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "a.gguf")

    def key(kv_type: str = "f16", variant: str = "native x", context: int | None = None) -> bytes:
        with GGUFFile.open(path) as file:
            return model_key(file, plan(file, LoadOptions(context=context)).program, (), kv_type, variant)

    keys = {key(), key(kv_type="q8_0"), key(variant="native y")}
    assert key() in keys
    data = path.read_bytes()
    status = path.stat()
    path.write_bytes(data[:-4] + b"\1\2\3\4")  # other weights
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    keys.add(key())
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    keys.add(key())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert key() in keys
    assert len(keys) == 5


def test_the_backend_of_the_tests_saves() -> None:
    assert isinstance(CountingBackend(), SavingBackend)
    assert PrefixCache(CountingBackend(), max_cached=1).save_some(idle=True) is False
