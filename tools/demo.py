"""Distil a small detector from a large one on handwritten digits, and show that it helped.

python tools/demo.py

Builds the embedded dataset, trains the teacher, the student alone and the student with localization
distillation, and prints what came out. What is done is skipped, what was interrupted goes on.
"""

from __future__ import annotations

import argparse
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

ROOT = Path(__file__).resolve().parents[1]
OUT = Path('work_dirs/demo')
DIGITS = Path('data/digits')
TEACHER_CHECKPOINT = OUT / 'teacher' / 'iter_2000.pth'
STUDENT_CHECKPOINT = OUT / 'student' / 'iter_1200.pth'


@dataclass(frozen=True)
class Stage:
    """One training: its name, config, what it depends on, and its usual minutes on two cores."""

    name: str
    title: str
    config: str
    minutes: float
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return OUT / self.name


STAGES = (
    Stage('teacher', 'the teacher', 'configs/digits_teacher.py', 5),
    Stage('student', 'the student alone', 'configs/digits_student.py', 2),
    Stage(
        'distilled',
        'the student, taught by the teacher',
        'configs/digits_ld.py',
        3,
        (
            f'model.teacher.checkpoint={TEACHER_CHECKPOINT}',
            f'custom_hooks.2.alone={STUDENT_CHECKPOINT}',
        ),
        ('teacher', 'student'),
    ),
)


def fingerprint(stage: Stage) -> str:
    """What the result of a stage depends on: configs, data, code and the stages before."""
    digest = hashlib.sha256(str(stage.options).encode())
    files = [DIGITS / 'digits.json', *sorted(Path('configs').rglob('*digits*.py'))]
    files += [Path('configs/_base_/gfl_small.py'), Path('configs/_base_/short_schedule.py')]
    for file in files:
        digest.update(file.read_bytes())
    for name in stage.needs:
        digest.update(json.loads((OUT / name / 'done.json').read_text())['fingerprint'].encode())
    return digest.hexdigest()


def build_digits() -> None:
    """Build the dataset where it is not there."""
    print('1/4 building the dataset: handwritten digits in scenes, about half a minute', flush=True)
    command = [sys.executable, 'tools/make_digits.py', str(DIGITS)]
    if subprocess.run(command).returncode:
        raise SystemExit('demo: the dataset could not be built, see above.')


def train(stage: Stage, number: int) -> dict:
    """Train a stage, or go on with it, unless it is done; returns its metrics and minutes."""
    print(f'{number}/4 training {stage.title}: about {stage.minutes:g} minutes', flush=True)
    done, started = stage.folder / 'done.json', stage.folder / 'started.json'
    mark = fingerprint(stage)
    if done.exists() and json.loads(done.read_text())['fingerprint'] == mark:
        print(f'    already there: {stage.folder}', flush=True)
        return json.loads(done.read_text())
    if started.exists() and json.loads(started.read_text())['fingerprint'] != mark:
        shutil.rmtree(stage.folder)  # begun with other settings or another teacher
    stage.folder.mkdir(parents=True, exist_ok=True)
    spent = json.loads(started.read_text())['minutes'] if started.exists() else 0.0
    began = time.monotonic()
    try:
        started.write_text(json.dumps(dict(fingerprint=mark, minutes=spent)))
        run(stage)
    finally:
        spent += (time.monotonic() - began) / 60
        started.write_text(json.dumps(dict(fingerprint=mark, minutes=spent)))
    result = last_metrics(stage.folder) | dict(fingerprint=mark, minutes=spent)
    done.write_text(json.dumps(result, indent=1))
    print(f'    done in {spent:.1f} minutes: AP {result["coco/bbox_mAP"]:.3f}', flush=True)
    return result


def run(stage: Stage) -> None:
    """Run tools/train.py, with its output in a log and a line of progress now and then."""
    command = [sys.executable, 'tools/train.py', stage.config, '--work-dir', str(stage.folder)]
    command.append('--resume')
    if stage.options:
        command += ['--cfg-options', *stage.options]
    log = stage.folder / 'train.log'
    environment = os.environ | dict(DIGITS_ROOT=str(DIGITS), PYTHONWARNINGS='ignore')
    # these models are so small that a second thread gains nothing, and waiting for one that
    # another program holds up costs ten times the time
    environment.setdefault('OMP_NUM_THREADS', '1')
    with log.open('a') as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            shown = 0.0
            while process.poll() is None:
                time.sleep(0.5)
                if time.monotonic() - shown > 15:
                    shown = time.monotonic()
                    print(f'    {progress(log)}', flush=True)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise SystemExit('\ndemo: interrupted; the same command goes on from here.') from None
    if process.returncode:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        raise SystemExit(f'demo: training {stage.title} failed: {lines[-1]} (all of it: {log})')


def progress(log: Path) -> str:
    """The last step that a log tells of, and the time that is left."""
    found = re.findall(r'Iter\(train\)\s*\[\s*(\d+/\d+)\].*?eta: (\S+)', tail(log))
    if not found:
        return 'starting'
    step, eta = found[-1]
    return f'step {step}, {eta} to go'


def tail(path: Path, size: int = 20_000) -> str:
    """The end of a text file."""
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors='replace')


def last_metrics(folder: Path) -> dict:
    """The last COCO metrics that a training wrote."""
    lines = []
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    metrics = [line for line in lines if 'coco/bbox_mAP' in line]
    if not metrics:
        raise SystemExit(f'demo: no evaluation was found in {folder}; remove it and start again.')
    return {key: value for key, value in metrics[-1].items() if key.startswith('coco/')}


def parameters(stage: Stage) -> float:
    """Millions of weights in the plain model of a stage."""
    import torch

    from kd_dense.checkpoints import model_state

    path = max(stage.folder.glob('iter_*0.pth'), key=lambda p: int(p.stem.split('_')[1]))
    state = model_state(torch.load(path, map_location='cpu', weights_only=False))
    buffers = ('running_mean', 'running_var', 'num_batches_tracked', 'integral.project')
    return sum(v.numel() for k, v in state.items() if not k.endswith(buffers)) / 1e6


def report(results: dict[str, dict]) -> None:
    """Print the table and the paths of the pictures."""
    alone, teacher = (results[n]['coco/bbox_mAP'] for n in ('student', 'teacher'))
    columns = ('model', 'parameters', 'AP', 'AP50', 'AP75', 'gain', 'minutes')
    print('\n{:36}{:>12}{:>8}{:>8}{:>8}{:>8}{:>9}'.format(*columns))
    for stage in STAGES:
        result = results[stage.name]
        gain = ''
        if stage.name == 'distilled':
            gain = f'{result["coco/bbox_mAP"] - alone:+.3f}'
        values = ''.join(f'{result["coco/bbox_mAP" + k]:8.3f}' for k in ('', '_50', '_75'))
        print(
            f'{stage.title:36}{parameters(stage):10.2f} M{values}{gain:>8}{result["minutes"]:9.1f}'
        )
    gained = results['distilled']['coco/bbox_mAP'] - alone
    if gained > 0 and teacher > alone:
        share = gained / (teacher - alone)
        print(f'\nDistillation closed {share:.0%} of the gap between student and teacher.')
    else:
        print('\nDistillation did not help here.')


def draw() -> None:
    """Draw the curves, and say where the pictures are."""
    command = [sys.executable, 'tools/plot.py', *(str(s.folder) for s in STAGES)]
    subprocess.run([*command, '--out', str(OUT / 'curves.png')], check=True, capture_output=True)
    pictures = sorted((OUT / 'distilled' / 'pictures').glob('*.png'), key=os.path.getmtime)
    print('pictures:')
    for path in [*pictures[-1:], OUT / 'curves.png']:
        print(f'  {path}')
    print(f'the small detector, for plain mmdet:\n  {OUT / "distilled" / "iter_1200_student.pth"}')


def main() -> None:
    """Run the demo."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    os.chdir(ROOT)
    os.environ['PYTHONPATH'] = str(ROOT)
    print('The whole demo takes about 12 minutes on two cores. Interrupt it whenever you like.')
    build_digits()
    results = {stage.name: train(stage, i) for i, stage in enumerate(STAGES, start=2)}
    report(results)
    draw()


if __name__ == '__main__':
    main()
