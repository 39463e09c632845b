"""Train the stages of a demo: skip what is done, go on with what was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

SIDE_BY_SIDE = min(2, os.cpu_count() or 1)  # trainings, each on one thread


@dataclass(frozen=True)
class Stage:
    """One training: its name, config, what it depends on, and its usual minutes on two cores.

    In ``options`` stands ``{NAME}`` for the checkpoint of a stage that it needs.
    """

    name: str
    title: str
    config: str
    minutes: float
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One demo: where it writes, its stages, and what of their evaluation to show.

    Attributes:
        folder: where it writes.
        product: what comes out.
        minutes: of all of it on two cores.
        metrics: of the table, by their titles; the first one is what distillation shall raise.
        decimals: of the metrics.
        stages: ``teacher``, ``student`` and ``distilled``.
        data: where the dataset lies, or will lie.
        variable: what tells the configs so.
        scenes: what differs in the dataset from the usual one.
    """

    folder: Path
    product: str
    minutes: int
    metrics: dict[str, str]
    decimals: int
    stages: tuple[Stage, ...]
    data: Path
    variable: str
    scenes: tuple[str, ...] = ()

    @property
    def main_metric(self) -> str:
        """What distillation shall raise."""
        return next(iter(self.metrics.values()))

    def checkpoint(self, name: str) -> Path:
        """The last checkpoint of a stage."""
        found = (self.folder / name).glob('iter_*.pth')
        steps = {int(p.stem[5:]): p for p in found if p.stem[5:].isdigit()}  # without the students
        return steps[max(steps)]

    def options(self, stage: Stage) -> list[str]:
        """The options of a stage whose needs are there."""
        paths = {name: self.checkpoint(name) for name in stage.needs}
        return [option.format(**paths) for option in stage.options]


class Training:
    """One stage in training, in a process of its own, or found done.

    Args:
        task: the demo.
        stage: one whose needs are done.

    Attributes:
        result: metrics and minutes, when done.
    """

    def __init__(self, task: Task, stage: Stage) -> None:
        self.task, self.stage = task, stage
        self.folder = task.folder / stage.name
        self.log = self.folder / 'train.log'
        self.began = time.monotonic()
        self.mark = self._fingerprint()
        known = _read(self.folder / 'done.json')
        self.result = known if known.get('fingerprint') == self.mark else None
        if self.result is None:
            self._start()

    def _fingerprint(self) -> str:
        """What the result depends on: config, options, data and the stages before."""
        config = Config.fromfile(self.stage.config, import_custom_modules=False)
        digest = hashlib.sha256(json.dumps(config.to_dict(), default=str).encode())
        digest.update(str(self.task.options(self.stage)).encode())
        digest.update((self.task.data / 'digits.json').read_bytes())
        for name in self.stage.needs:
            digest.update(_read(self.task.folder / name / 'done.json')['fingerprint'].encode())
        return digest.hexdigest()

    def _start(self) -> None:
        started = _read(self.folder / 'started.json')
        if started and started['fingerprint'] != self.mark:
            shutil.rmtree(self.folder)  # begun with other settings or another teacher
            started = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spent = started.get('minutes', 0.0)
        self._note_time()
        command = [sys.executable, 'tools/train.py', self.stage.config, '--resume']
        command += ['--work-dir', str(self.folder)]
        if options := self.task.options(self.stage):
            command += ['--cfg-options', *options]
        environment = os.environ | {self.task.variable: str(self.task.data)}
        environment['PYTHONWARNINGS'] = 'ignore'
        # these models are so small that a second thread gains nothing, and waiting for one that
        # another program holds up costs ten times the time
        environment.setdefault('OMP_NUM_THREADS', '1')
        with self.log.open('a') as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment
            )

    def _note_time(self) -> float:
        minutes = self.spent + (time.monotonic() - self.began) / 60
        text = json.dumps(dict(fingerprint=self.mark, minutes=minutes))
        (self.folder / 'started.json').write_text(text)
        return minutes

    def ended(self) -> bool:
        """Whether it is done; then :attr:`result` is there.

        Raises:
            SystemExit: it failed.
        """
        if self.result is None and self.process.poll() is not None:
            minutes = self._note_time()
            if self.process.returncode:
                lines = [line for line in self.log.read_text().splitlines() if line.strip()]
                raise SystemExit(
                    f'demo: training {self.stage.title} failed: {lines[-1]} (all of it: {self.log})'
                )
            self.result = last_metrics(self.folder, self.task)
            self.result |= dict(fingerprint=self.mark, minutes=minutes)
            (self.folder / 'done.json').write_text(json.dumps(self.result, indent=1))
        return self.result is not None

    def stop(self) -> None:
        """Stop it, to go on another time."""
        if self.result is None:
            self.process.terminate()
            self.process.wait()
            self._note_time()

    def progress(self) -> str:
        """The last step that its log tells of, and the time that is left."""
        with self.log.open('rb') as file:
            file.seek(max(0, self.log.stat().st_size - 20_000))
            text = file.read().decode(errors='replace')
        found = re.findall(r'Iter\(train\)\s*\[\s*(\d+/\d+)\].*?eta: (\S+)', text)
        step, eta = found[-1] if found else ('', '')
        return f'{self.stage.name}: ' + (f'step {step}, {eta} to go' if found else 'starting')


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def train_all(task: Task) -> dict[str, dict]:
    """Train the stages, side by side where they do not need each other; their results by name."""
    results: dict[str, dict] = {}
    waiting, running = list(enumerate(task.stages, start=2)), []
    shown = time.monotonic()
    try:
        while waiting or running:
            for number, stage in list(waiting):
                if len(running) < SIDE_BY_SIDE and set(stage.needs) <= set(results):
                    waiting.remove((number, stage))
                    minutes = f'about {stage.minutes:g} minutes'
                    print(f'{number}/4 training {stage.title}: {minutes}', flush=True)
                    running.append(training := Training(task, stage))
                    if training.result is not None:
                        print(f'    already there: {training.folder}', flush=True)
            for training in [each for each in running if each.ended()]:
                running.remove(training)
                results[training.stage.name] = result = training.result
                value = f'{result[task.main_metric]:.{task.decimals}f}'
                print(f'    {training.stage.title}: {next(iter(task.metrics))} {value}', flush=True)
            if running and time.monotonic() - shown > 15:
                shown = time.monotonic()
                print('    ' + '; '.join(each.progress() for each in running), flush=True)
            time.sleep(0.5 if running else 0)
    except KeyboardInterrupt:
        raise SystemExit('\ndemo: interrupted; the same command goes on from here.') from None
    finally:
        for training in running:
            training.stop()
    return results


def last_metrics(folder: Path, task: Task) -> dict[str, float]:
    """The last metrics that a training wrote."""
    lines = []
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    found = [line for line in lines if task.main_metric in line]
    if not found:
        raise SystemExit(f'demo: no evaluation was found in {folder}; remove it and start again.')
    return {key: found[-1][key] for key in task.metrics.values()}
