"""What a person sees of a run: its cost before it starts, progress that is never cut, an honest time
left, and one line when it is stopped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Literal

import pytest
import yaml
from typer.testing import CliRunner

from weft.adapters import LoraSettings
from weft.cli.main import app
from weft.cli.stage_progress import StageProgress, Tracker
from weft.cli.stopping import Stopped, stopping_signals
from weft.recommenders.text.bi_encoder import BiEncoderSettings
from weft.stages.executor import StageEvent
from weft.systems.estimate import RunEstimate
from weft.systems.stages.base import DomainSizes
from weft.systems.stages.domains import PrepareDomain
from weft.systems.stages.scoring import ScoringSettings
from weft.systems.stages.training import TrainBranch
from weft.systems.timing import PRIOR, Pace, Speeds, makespan
from weft.training import TrainSettings

# --- a run that is only told of

HOME = PrepareDomain(name="home")
SPEEDS = Speeds(example=0.1, title=0.01, user=0.1, merge=1.0, measured=True)
SIZES = {"home": DomainSizes(items=100, train=10_000, validation=50, test=50)}
SCORING = ScoringSettings(
    backbone="tiny", files="", recommender=BiEncoderSettings(), precision="float32", device="cpu"
)


def training(name: str, examples: int, start: TrainBranch | None = None) -> TrainBranch:
    return TrainBranch(
        label=f"train {name}", domains=(HOME,), scoring=SCORING, split="leave_one_out",
        examples=examples, train=TrainSettings(batch=10), validation=None, data_seed=0,
        seed=len(name) * 1000 + sum(map(ord, name)), lora=LoraSettings(), init_seed=0, start=start,
    )  # fmt: skip


class Told:
    """A tracker with a clock that is moved by hand."""

    def __init__(self, stages: list[TrainBranch], *, done: int = 0, workers: int = 1) -> None:
        self.now = 0.0
        self.tracker = Tracker(lambda: self.now)
        pace = Pace(SIZES, SPEEDS)
        todo = list(stages)
        self.estimate = RunEstimate(len(todo) + done, [*todo], workers, pace, "float32")
        self.tracker.planned(self.estimate)

    def watch(self, kind: Literal["start", "progress", "done"], stage: TrainBranch,
              done: float = 0, total: float = 1, unit: str = "") -> None:  # fmt: skip
        self.tracker.watch(StageEvent(kind, stage, done, total, unit))

    def left(self) -> float:
        found = self.tracker.left()
        assert found is not None
        return found


def test_the_time_left_follows_what_stages_take() -> None:
    """Measured steps say 100 s a stage; they take twice as long, and the rest is expected to."""
    stages = [training(f"branch {n}", 1000) for n in range(10)]
    run = Told(stages)
    assert run.left() == pytest.approx(10 * 101)
    for stage in stages[:5]:
        run.watch("start", stage, 0, 1, "")
        for part in range(1, 5):
            run.now += 50.5
            run.watch("progress", stage, 250 * part, 1000, "examples")
        run.watch("done", stage, 1, 1, "")
    factor = (5 * 202 + PRIOR) / (5 * 101 + PRIOR)
    assert run.left() == pytest.approx(5 * 101 * factor)
    assert run.left() == pytest.approx(5 * 202, rel=0.03)
    assert run.tracker.head() == "5 of 10 stages done, 0:16:50 so far, about 0:16:31 left"


def test_a_slow_stage_under_way_is_seen_before_it_ends() -> None:
    slow = training("slow", 1000)
    run = Told([slow])
    run.watch("start", slow, 0, 1, "")
    run.now = 300.0
    run.watch("progress", slow, 250, 1000, "examples")
    assert run.left() == pytest.approx(900)  # not what the measured steps had said
    run.now = 1190.0
    run.watch("progress", slow, 990, 1000, "examples")
    assert 0 < run.left() < 15


def test_stages_that_wait_for_one_another_are_not_done_at_once() -> None:
    one, two = training("one", 1000), training("two", 1000)
    after = training("after", 1000, start=one)
    assert makespan([(one, 100.0), (two, 100.0), (after, 50.0)], {}, 2) == 150.0
    assert makespan([(one, 100.0), (two, 100.0), (after, 50.0)], {}, 1) == 250.0
    assert makespan([(after, 50.0)], {one.key: 30.0}, 2) == 80.0


def test_nothing_is_said_of_the_time_left_before_anything_was_measured() -> None:
    run = Told([training("one", 1000)])
    run.estimate.pace.speeds = Speeds()
    assert run.tracker.left() is None
    assert run.tracker.head().endswith("time left not known yet")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_numbers_are_never_cut(width: int) -> None:
    name = "a branch of a very long name that says all of its domains+and others+and more, seed 7"
    stages = [training(name, 12_000), training("short", 12_000)]
    run = Told(stages, done=25, workers=2)
    for stage in stages:
        run.watch("start", stage, 0, 1, "")
        run.watch("progress", stage, 1000, 12_000, "examples")
    run.now = 60.0
    for stage in stages:
        run.watch("progress", stage, 1834, 12_000, "examples")
    head, *lines = run.tracker.lines(width)
    assert max(map(len, [head, *lines])) <= width
    assert re.search(r"25( of |/)27.* left$", head)
    assert all("1,834 of 12,000" in line for line in lines)
    assert lines[0].startswith("  train a bra") and "…" in lines[0]
    if width >= 80:
        assert lines[1].endswith("1,834 of 12,000 examples, 14/s")


def test_a_file_gets_a_line_at_start_and_end_and_now_and_then() -> None:
    stage, out = training("one", 1000), StringIO()
    run = Told([stage], done=15)
    with StageProgress(out, every=0.01) as progress:
        progress.planned(run.estimate)
        progress.watch(StageEvent("start", stage))
        progress.watch(StageEvent("progress", stage, 250, 1000, "examples"))
        while "250 of 1,000 examples" not in out.getvalue():
            time.sleep(0.005)
        progress.watch(StageEvent("done", stage))
    lines = out.getvalue().splitlines()
    assert lines[0] == "15 of 16 stages done already, 1 to do: 1 training on 1,000 examples"
    assert lines[1].startswith("about 1 min 41 s with 1 worker (measured here: 10 training")
    assert lines[2] == "start train one" and lines[-1] == "[16/16] train one: 0 s"
    assert "15 of 16 stages done, 0:00:00 so far" in out.getvalue()


def test_the_first_signal_is_raised_and_further_ones_wait() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop, stopping_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # while it cleans up
    assert stop.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


# --- real runs


@pytest.fixture
def recipe(tmp_path: Path, tiny_bert: Path) -> Path:
    values = {
        "domains": ["home", {"name": "toys", "target": False}],
        "mall": {"users": 40, "items": 40},
        "backbone": str(tiny_bert),
        "recommender": {"history_items": 3, "history_tokens": 48},
        "branches": {"examples": 48, "epochs": 400, "batch": 16, "lora": {"rank": 2}},
        "controls": [],
        "evaluate": {"candidates": {"drawn": 9}},
    }
    path = tmp_path / "shops.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_dry_run_says_the_cost_and_does_nothing(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = CliRunner().invoke(app, ["run", str(recipe), "--out", str(out), "--dry-run"])
    first, second = done.stdout.splitlines()
    assert first == (
        "9 stages: 2 trainings on 57,600 examples, 4 evaluations of 120 users, 3 short ones"
    )
    assert re.match(
        r"about .* with \d+ workers? \(measured here: [\d,]+ training examples/s", second
    )
    assert done.exit_code == 0 and not out.exists()


def start(recipe: Path, out: Path, stream: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "weft.cli.main", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--workers", "1"],
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=stream,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    return True


def read_until(stream: int, words: str, seen: list[str]) -> None:
    """Read on until the pattern `words` was seen."""
    while not re.search(words, "".join(seen)):
        ready, _, _ = select.select([stream], [], [], 60)
        assert ready, f"no '{words}' in a minute: {''.join(seen)[-500:]}"
        seen.append(os.read(stream, 65536).decode())


def rest_of(stream: int) -> Iterator[str]:
    with contextlib.suppress(OSError):  # a pseudo-terminal's end is an error
        while data := os.read(stream, 65536):
            yield data.decode()


def test_stopped_in_a_terminal_and_in_a_file_it_says_how_to_go_on(
    recipe: Path, tmp_path: Path
) -> None:
    """Ctrl-C in a terminal of 80 columns while a branch trains, then SIGTERM to a resumed run."""
    out = tmp_path / "run"
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(recipe, out, theirs)
    os.close(theirs)
    seen: list[str] = []
    read_until(ours, r"examples, [\d,.]+/s", seen)  # a branch trains, and its pace is shown
    workers = workers_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    seen += rest_of(ours)
    os.close(ours)
    assert process.wait() == 130 and workers and all(map(gone, workers))
    screen = "".join(seen)
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", screen)]
    assert max(map(len, shown)) <= 80
    assert any(
        re.search(r"\d of 9 stages done, 0:\d\d:\d\d so far, about .* left$", s) for s in shown
    )
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is there again
    last = [line for line in shown if line.strip()][-1]
    stopped = re.fullmatch(r"weft: (\d) of 9 stages done; the same command goes on", last)
    assert stopped and "Traceback" not in screen
    assert not list((out / "stages").glob(".*part*"))
    assert len(list((out / "stages").iterdir())) == int(stopped[1])

    ours, theirs = os.pipe()
    process = start(recipe, out, theirs)
    os.close(theirs)
    seen = []
    read_until(ours, "start train", seen)
    workers = workers_of(process.pid)
    process.terminate()
    seen += rest_of(ours)
    os.close(ours)
    assert process.wait() == 143 and all(map(gone, workers))
    lines = "".join(seen).splitlines()
    assert lines[0].startswith(f"{stopped[1]} of 9 stages done already")
    assert re.fullmatch(r"weft: \d of 9 stages done; the same command goes on", lines[-1])
    assert sum("the same command" in line for line in lines) == 1 and "\x1b" not in "".join(seen)
