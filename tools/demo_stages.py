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

NOTE = 'stage.json'  # of a stage, in its folder
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
        from kd_dense.hosts.checkpoints import checkpoints_of

        return checkpoints_of(self.folder / name)[0]

    def options(self, stage: Stage) -> list[str]:
        """The options of a stage whose needs are there."""
        paths = {name: self.checkpoint(name) for name in stage.needs}
        return [option.format(**paths) for option in stage.options]


class Training:
    """One stage in training, in a process of its own, or found done.

    A file in its folder notes what the stage depends on and, when it is done, its result.

    Args:
        task: the demo.
        stage: one whose needs are done.

    Attributes:
        result: metrics and minutes, when done.
    """

    def __init__(self, task: Task, stage: Stage) -> None:
        self.task, self.stage = task, stage
        self.folder = task.folder / stage.name
        self.log, self.note = self.folder / 'train.log', self.folder / NOTE
        self.mark = self._fingerprint()
        known = json.loads(self.note.read_text()) if self.note.exists() else {}
        self.result = known.get('result') if known.get('fingerprint') == self.mark else None
        if self.result is None:
            if known.get('fingerprint') != self.mark and self.folder.exists():
                shutil.rmtree(self.folder)  # begun with other settings or another teacher
            self._start()

    def _fingerprint(self) -> str:
        """What the result depends on: config, options, data and the stages before."""
        config = Config.fromfile(self.stage.config, import_custom_modules=False)
        digest = hashlib.sha256(json.dumps(config.to_dict(), default=str).encode())
        digest.update(str(self.task.options(self.stage)).encode())
        digest.update((self.task.data / 'digits.json').read_bytes())
        for name in self.stage.needs:
            digest.update((self.task.folder / name / NOTE).read_bytes())
        return digest.hexdigest()

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.note.write_text(json.dumps(dict(fingerprint=self.mark)))
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

    def ended(self) -> bool:
        """Whether it is done; then :attr:`result` is there.

        Raises:
            SystemExit: it failed.
        """
        if self.result is None and self.process.poll() is not None:
            if self.process.returncode:
                lines = [line for line in self.log.read_text().splitlines() if line.strip()]
                raise SystemExit(
                    f'demo: training {self.stage.title} failed: {lines[-1]} (all of it: {self.log})'
                )
            self.result = self._measured()
            noted = dict(fingerprint=self.mark, result=self.result)
            self.note.write_text(json.dumps(noted, indent=1))
        return self.result is not None

    def _measured(self) -> dict[str, float]:
        """The metrics of the last validation, and the minutes of all starts."""
        from kd_dense.logs import read_scalars, validations
        from kd_dense.record import minutes, read_record

        last = list(validations(read_scalars(self.folder)).values())[-1:]
        if not last or self.task.main_metric not in last[0]:
            raise SystemExit(
                f'demo: no evaluation was found in {self.folder}; remove it and start again.'
            )
        record = read_record(self.folder)
        found = {key: last[0][key] for key in self.task.metrics.values()}
        return found | dict(minutes=(minutes(record, self.folder) or 0.0) if record else 0.0)

    def stop(self) -> None:
        """Stop it, to go on another time."""
        if self.result is None:
            self.process.terminate()
            self.process.wait()

    def progress(self) -> str:
        """The last step that its log tells of, and the time that is left."""
        text = self.log.read_text(errors='replace')
        found = re.findall(r'Iter\(train\)\s*\[\s*(\d+/\d+)\].*?eta: (\S+)', text)
        step, eta = found[-1] if found else ('', '')
        return f'{self.stage.name}: ' + (f'step {step}, {eta} to go' if found else 'starting')


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
