"""Train the jobs of a chain: each in a process of its own, some side by side."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock, Timeout

from ..errors import SetupError
from .job import Job
from .notes import NOTE, read_note, row_of, write_note
from .plan import Chain
from .rows import main_metric, make_row, points
from .training import Means, Training

PACE = 0.5  # seconds between looks at the trainings
TOLD = 30  # seconds between lines of progress


def run_chain(chain: Chain, means: Means, only: Sequence[str] = ()) -> list[str]:
    """Train what is not done of a chain.

    Args:
        chain: as read.
        means: how to train.
        only: names of stages; what they need is trained too. All without names.

    Returns:
        what failed, in sentences, and what was left out for that; the rest is done.

    Raises:
        SetupError: another process works on the chain, or a command of its ``prepare`` failed.
        KeyboardInterrupt: after the trainings were stopped.
    """
    with _one_at_a_time(chain), _terminated_like_interrupted():
        for job in chain.jobs:  # of a file that keeps rows since it was done
            if job.trained and row_of(job.row_file) != (note := read_note(job.folder)):
                keep_row(job, note['row'])
        return _Work(chain, means).run(to_train(chain.chosen(only)))


def to_train(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that have to be trained for some of them to be done, in order.

    One whose row is kept is done; if another needs its checkpoint, and that is not here, it is
    trained again.
    """
    found: dict[int, Job] = {}

    def visit(job: Job, hand_over: bool) -> None:
        if id(job) in found or job.trained or (job.row is not None and not hand_over):
            return
        for need in job.needs.values():
            visit(need, hand_over=True)
        found[id(job)] = job

    for job in jobs:
        visit(job, hand_over=False)
    return list(found.values())


def prepare(chain: Chain) -> None:
    """Run the commands that a chain names to be run first.

    Raises:
        SetupError: one failed.
    """
    for text in chain.settings.get('prepare', ()):
        words = shlex.split(text)
        start = {'kd-dense': [sys.executable, '-m', 'kd_dense'], 'python': [sys.executable]}
        if subprocess.run([*start.get(words[0], words[:1]), *words[1:]]).returncode:
            raise SetupError(f'{chain.file}: `{text}` failed, see above.')


def keep_row(job: Job, row: Mapping[str, Any]) -> None:
    """Keep what came out of a job where its chain file keeps rows."""
    if job.row_file is not None:
        write_note(job.row_file, dict(fingerprint=job.fingerprint, row=row))


def move_aside(folder: Path) -> Path:
    """Move a folder out of the way, and return where it is now; nothing is deleted."""
    taken = [folder.with_name(f'{folder.name}.old{n or ""}') for n in range(1000)]
    target = next(path for path in taken if not path.exists())
    folder.rename(target)
    return target


class _Work:
    """One call of a chain."""

    def __init__(self, chain: Chain, means: Means) -> None:
        self.chain, self.means = chain, means
        self.running: list[Training] = []
        self.waiting: list[Job] = []
        self.failed: dict[int, str] = {}
        self.told: set[int] = set()  # jobs whose folders are in use
        self.shown = time.monotonic()

    def run(self, jobs: list[Job]) -> list[str]:
        """Train some jobs, in order."""
        self.waiting = jobs
        try:
            while self.waiting or self.running:
                self._start()
                time.sleep(PACE if self.running or self.told else 0)
                self._end()
                self._tell()
        finally:
            for training in self.running:
                training.stop()
        return list(self.failed.values())

    def _start(self) -> None:
        """Start what can be started."""
        for job in list(self.waiting):
            if broken := [n for n, need in job.needs.items() if id(need) in self.failed]:
                self.waiting.remove(job)
                self.failed[id(job)] = f'{job.name} was left out, because {broken[0]} failed.'
            elif len(self.running) < self.means.side_by_side and all(
                need.trained for need in job.needs.values()
            ):
                if self._left_behind(job):
                    continue
                self.waiting.remove(job)
                if job.folder.exists() and not job.begun and any(job.folder.iterdir()):
                    old = move_aside(job.folder)
                    _say(f'{job.name}: begun with other settings, data or teacher; now in {old}')
                again = any(job.folder.glob('*.pth'))
                minutes = job.stage.about.get('minutes')
                about = f', about {minutes:g} minutes' if minutes and not again else ''
                doing = 'testing' if job.evaluates else 'going on with' if again else 'training'
                _say(f'{doing} {job.name}{about}')
                slots = set(range(self.means.side_by_side)) - {t.slot for t in self.running}
                self.running.append(Training(job, self.means, min(slots)))

    def _left_behind(self, job: Job) -> bool:
        """Whether a training that a killed chain left behind still writes into a job's folder."""
        lock = job.folder / '.lock'  # see kd_dense.training.locked
        try:
            if lock.is_file():
                with FileLock(lock, timeout=0):
                    pass
        except Timeout:
            if id(job) not in self.told:
                _say(f'{job.name}: waiting for the training that still goes on in {job.folder}')
            self.told.add(id(job))
            return True
        except NotImplementedError:  # a file system without locks
            pass
        return False

    def _end(self) -> None:
        """Note what has ended."""
        for training in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(training)
            job = training.job
            if training.process.returncode:
                told = f'{job.name} failed: {training.reason()} (all of it: {training.log})'
            elif (row := make_row(self.chain, job)) is None:
                told = f'{job.name} left no result in {job.folder}.'
            else:
                write_note(job.folder / NOTE, dict(fingerprint=job.fingerprint, row=row))
                keep_row(job, row)
                metric = main_metric([row], self.chain)
                value = points(row, metric) if metric else None
                said = f': {metric.title} {value:.1f}' if metric and value is not None else ''
                _say(f'{job.name} is done{said}, {row["minutes"] or 0:.1f} minutes')
                continue
            self.failed[id(job)] = told
            _say(told)

    def _tell(self) -> None:
        """Tell how far it is, now and then."""
        if self.running and time.monotonic() - self.shown > TOLD:
            self.shown = time.monotonic()
            left = f'; {len(self.waiting)} to follow{self._estimate()}' if self.waiting else ''
            _say('    ' + '; '.join(each.progress() for each in self.running) + left)

    def _estimate(self) -> str:
        """The minutes of what waits, where they are known from other seeds or from the file."""
        total = 0.0
        for job in self.waiting:
            rows = [other.row for other in self.chain.jobs if other.stage is job.stage]
            known = [row['minutes'] for row in rows if row and row['minutes']]
            usual = fmean(known) if known else job.stage.about.get('minutes')
            if usual is None:
                return ''
            total += usual
        return f', about {total / self.means.side_by_side:.0f} minutes'


def _say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def _one_at_a_time(chain: Chain) -> Iterator[None]:
    """Keep the folder of a chain to one process."""
    chain.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(chain.folder / '.chain.lock', timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SetupError(
            f'Another process works on {chain.folder}. Wait for its end; side by side it trains by '
            '--side-by-side.'
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let a chain that is told to end stop its trainings in order, as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
