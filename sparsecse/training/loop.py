"""The one training loop, for dense SimCSE and for the repair after pruning: resumable, keeps the best on dev."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import statistics
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sparsecse import distributed
from sparsecse.encoders import Encoder
from sparsecse.encoders.dropout import with_dropout
from sparsecse.errors import InputError
from sparsecse.evaluation.dev import Dev
from sparsecse.files import atomic_file
from sparsecse.guard import Figures
from sparsecse.training.checkpointing import layers_again
from sparsecse.training.losses import BatchLoss, Example
from sparsecse.training.planning import TRIED, Pace, Work, plan
from sparsecse.training.precision import computes_bfloat16
from sparsecse.training.sampling import rows_at, visited_rows
from sparsecse.training.settings import TrainingSettings
from sparsecse.training.teacher import Teacher

_NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "bad allocation")


def _is_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: that of a GPU, or of the machine."""
    said = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in said for words in _NO_MEMORY)


class DivergedError(InputError):
    """The loss of a step, or its gradient, is no finite number."""


@dataclass(frozen=True)
class StepReport:
    """What a progress display is told after a step: the figures of dev, or None where it was not measured.

    best_step: whose weights are the best so far.
    steps: those of the whole run; at the step that ends it early, that step.
    """

    step: int
    steps: int
    loss: float
    dev: Figures | None
    best_step: int


@dataclass
class TrainingResult:
    """What became of a run.

    steps: optimiser steps taken, of `planned`; fewer where patience ended it.
    best_step: whose weights the encoder now has; best: their figures on dev. history: one entry per measurement, its
    figures in `dev`.
    """

    steps: int
    planned: int
    best_step: int
    best: Figures | None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _State:
    step: int = 0
    best_step: int = 0
    best: dict[str, float] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def _copy_state(encoder: Encoder) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in encoder.state_dict().items()}


class _Trainer:
    def __init__(
        self,
        encoder: Encoder,
        examples: Sequence[Example],
        settings: TrainingSettings,
        scores: Sequence[float] | None,
        teachers: Sequence[Encoder],
        checkpoint: Path | None,
        warn: Callable[[str], None],
    ):
        """In a process that follows there are no teachers and no checkpoint: those are the leader's."""
        torch.manual_seed(settings.seed)
        self.encoder, self.examples, self.settings = encoder, examples, settings
        self.leads = distributed.rank() == 0
        self.scores = None if scores is None else torch.tensor(scores, dtype=torch.float32)
        taught = "distill" in settings.objective and (teachers or not self.leads)
        self.teacher = Teacher(teachers, encoder, settings) if taught else None
        self.loss = BatchLoss(encoder, settings, self.teacher)
        self.loss.check(examples, scores)
        self.batch_size = min(settings.batch_size, len(examples))
        # Of a batch, in a process.
        self.share = -(-self.batch_size // distributed.size())
        self.loss.parts = -(-self.share // (settings.mini_batch_size or self.share))
        self.total = settings.steps(len(examples))
        self.checkpoint = checkpoint
        self.warn = warn
        self.state = _State()
        self.best_weights = _copy_state(encoder) if self.leads else {}
        trained = [p for p in self.loss.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.dim() > 1]
        other = [p for p in trained if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": other, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        if not self.leads:  # the layers over the vectors begin alike, and dropout masks differ
            torch.manual_seed((settings.seed * 1_000_003 + distributed.rank()) % 2**63)

    def _saved(self) -> dict[str, Any] | None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        try:
            with zipfile.ZipFile(self.checkpoint) as archive:  # whose sums torch.load does not look at
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            return torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        except (
            RuntimeError,
            OSError,
            EOFError,
            ValueError,
            LookupError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            raise InputError(
                f"{self.checkpoint} cannot be read ({type(error).__name__}); delete it to start anew."
            ) from None

    def resume(self) -> bool:
        """Continue from the checkpoint where there is one."""
        saved = distributed.broadcast(self._saved())
        if saved is None:
            return False
        self.loss.load_state_dict(saved["loss"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.state = _State(**saved["state"])
        self.total = saved["total"]
        # Of fewer processes each has a larger share, of which `mini_batch_size` makes more parts.
        self.loss.parts = max(self.loss.parts, saved["parts"])
        self.best_weights = saved["best"]
        # One of fewer processes has no state for the others, which keep the one that they begin with.
        for state in saved["rng"][distributed.rank() :][:1]:
            torch.set_rng_state(state)
        return True

    def save(self) -> None:
        random = distributed.collect(torch.get_rng_state())
        if self.checkpoint is None:
            return
        with atomic_file(self.checkpoint) as temporary, temporary.open("wb") as stream:
            torch.save(
                {
                    "loss": self.loss.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "state": vars(self.state),
                    "total": self.total,
                    "parts": self.loss.parts,
                    "best": self.best_weights,
                    "rng": random,
                },
                stream,
            )

    def embed(self, progress: Callable[[int, int], None] | None) -> None:
        """Let the teacher embed the sentences of all steps.

        After a resumption also those of the steps that were taken: a vector's last bits depend on what is embedded
        beside it, and the run must end as an uninterrupted one.
        """
        if self.teacher is not None and not self.finished():
            self.teacher.embed(self.texts(self.total), progress)

    def texts(self, steps: int) -> list[str]:
        """The sentences of the first steps."""
        positions = steps * self.settings.gradient_accumulation
        rows = visited_rows(len(self.examples), self.batch_size, self.settings.seed, positions)
        return [text for row in rows for text in self.examples[row]]

    def plan(self, began: float, dev: float, note: Callable[[str], None] | None) -> None:
        """Before the first step: say how long all will take; with a time budget plan and save how many there are.

        Args:
            began: the `time.monotonic()` that the budget counts from.
            dev: seconds of a dev score.
        """
        settings = self.settings
        # Without a budget, trying some steps of few is more than telling how long they take is worth.
        worth = settings.time_budget is not None or (note is not None and self.total > 2 * TRIED)
        if not distributed.broadcast(worth):
            return
        tried = min(TRIED, self.total)
        text = ready = 0.0
        if self.teacher is not None:
            start, texts = time.perf_counter(), self.texts(tried)
            passes = self.teacher.embed(texts)
            text, ready = passes / len(set(texts)), time.perf_counter() - start - passes
        own = Pace(statistics.median(self._try_steps(tried)), text, ready, dev), time.monotonic() - began
        pace, spent = distributed.broadcast(own)
        per_step = self.batch_size * settings.gradient_accumulation
        columns = len(self.examples[0])
        work = Work(len(self.examples), columns, per_step, settings.eval_every, self.teacher is not None)
        self.total, said = plan(work, pace, self.total, settings, spent)
        if note is not None and said is not None:
            note(said)
        if settings.time_budget is not None:
            self.save()

    def _try_steps(self, count: int) -> list[float]:
        """The seconds of each of the first steps, taken at a rate of 0; nothing of them is left."""
        state, self.state = self.state, _State()
        device, held = self.encoder.device, self._queue()
        seconds = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self.loss.train()
            for _ in range(count):
                start = time.perf_counter()
                self.step(rate=0.0)
                seconds.append(time.perf_counter() - start)
            self.loss.eval()
        self.optimizer.state.clear()
        self._put_queue(held)
        self.state = state
        return seconds

    def _queue(self) -> dict[str, Any] | None:
        return None if self.loss.queue is None else copy.deepcopy(self.loss.queue.state_dict())

    def _put_queue(self, held: dict[str, Any] | None) -> None:
        if self.loss.queue is not None and held is not None:
            self.loss.queue.load_state_dict(held)

    def restore_best(self) -> None:
        """Give the leader's encoder the best weights so far, for evaluation."""
        if self.leads:
            self.encoder.load_state_dict(self.best_weights)
        self.encoder.eval()

    def finished(self) -> bool:
        """Whether all steps were taken, or as many measurements as the patience were no new best."""
        state, patience = self.state, self.settings.patience
        failed = sum(entry["step"] > state.best_step for entry in state.history)
        return state.step >= self.total or (patience > 0 and failed >= patience)

    def step(self, rate: float | None = None) -> float:
        """One optimiser step; returns its mean loss.

        rate: the learning rate; by default the schedule's.
        """
        settings, state = self.settings, self.state
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(state.step, self.total) if rate is None else rate
        total = self.within_memory()
        self._add_up_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters(), settings.max_grad_norm).item()
        total, norm = distributed.broadcast((total, norm))  # on which all must decide alike
        for what, value in (("training loss", total), ("gradient of the training loss", norm)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"The {what} became {value} at step {state.step + 1}; lower `learning_rate` or use `precision` "
                    f"float32."
                )
        self.optimizer.step()
        self.loss.update_average()
        self.optimizer.zero_grad()
        state.step += 1
        state.losses.append(total)
        return total

    def within_memory(self) -> float:
        """The mean loss of a step, and its gradient; where memory runs out, with batches in twice as many parts.

        Raises:
            InputError: memory runs out with one example alone.
        """
        device = self.encoder.device
        while True:
            queue, rng = self._queue(), torch.get_rng_state()
            gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
            try:
                return self._gradient()
            except (MemoryError, RuntimeError) as error:
                if not _is_memory(error):
                    raise
                alone = not isinstance(error, distributed.ElsewhereError)
            # Outside the handler: its error holds on to the tensors of the failed pass.
            if alone:
                with contextlib.suppress(distributed.ElsewhereError):
                    distributed.confirm(failed=True)
            step = self.state.step + 1
            if self.loss.parts >= self.share:
                raise InputError(
                    f"Memory ran out at step {step} with one example at a time; lower `max_length`, or free memory."
                )
            self.loss.parts = min(2 * self.loss.parts, self.share)
            self.warn(
                f"Memory ran out at step {step}; the {self.batch_size} examples of a batch now go through the model in "
                f"{self.loss.parts} parts, which is slower and leaves the loss that of the whole batch."
            )
            self.optimizer.zero_grad()
            self._put_queue(queue)
            torch.set_rng_state(rng)
            if gpu is not None:
                torch.cuda.set_rng_state(gpu, device)
                torch.cuda.empty_cache()

    def _gradient(self) -> float:
        """The mean loss of a step, whose gradient is added up."""
        settings, total = self.settings, 0.0
        for part in range(settings.gradient_accumulation):
            position = self.state.step * settings.gradient_accumulation + part
            rows = rows_at(len(self.examples), self.batch_size, settings.seed, position)
            scores = None if self.scores is None else self.scores[rows]
            loss = self.loss([self.examples[row] for row in rows], scores) / settings.gradient_accumulation
            if loss.requires_grad:  # not where no sentence fell to this process
                loss.backward()
            total += loss.item()
        distributed.confirm()
        return total

    def _add_up_gradients(self) -> None:
        """Give every process the whole gradient; see `BatchLoss`."""
        if distributed.size() == 1:
            return
        trained = [p for p in self.loss.parameters() if p.requires_grad]
        used = torch.tensor([float(p.grad is not None) for p in trained])
        distributed.add_up([used])
        trained = [p for p, count in zip(trained, used.tolist(), strict=True) if count]
        encoder = {id(p) for p in self.encoder.parameters()}
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif id(parameter) not in encoder:  # the same in each: summed all the same, so that rounding cannot differ
                parameter.grad /= distributed.size()
        distributed.add_up([p.grad for p in trained if p.grad is not None])

    def measure(self, dev: Dev | None) -> dict[str, float] | None:
        """Figures on dev of the weights as they are; remembers them when they are the best so far."""
        state = self.state
        with distributed.alone():
            figures = None if dev is None else dev(self.encoder)
            # Without a dev set the last weights are the ones to keep.
            better = dev is None or figures is None or state.best is None or dev.rank(figures) > dev.rank(state.best)
        figures, better = distributed.broadcast((figures, better))
        mean_loss = sum(state.losses) / len(state.losses) if state.losses else None
        state.history.append({"step": state.step, "loss": mean_loss, "dev": figures})
        state.losses.clear()
        if better:
            state.best, state.best_step = figures, state.step
            if self.leads:
                self.best_weights = _copy_state(self.encoder)
        return figures


def train(
    encoder: Encoder,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    scores: Sequence[float] | None = None,
    teacher: Encoder | Sequence[Encoder] | None = None,
    dev: Dev | None = None,
    checkpoint: Path | None = None,
    keep: Callable[[int, Encoder], None] | None = None,
    progress: Callable[[StepReport], None] | None = None,
    teacher_progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train an encoder in place and leave it with the weights that are best on dev, by the rule of `guard.Guard`.

    The start itself takes part in the comparison (step 0), so with dev sets the result is never worse than no
    training by that rule. An interrupted run that finds its checkpoint goes on from there and ends with the same
    weights as an uninterrupted one on the same machine. A loss that is no finite number ends the run: with the best
    weights so far and a warning, or, where no later ones than the start's were measured, with them and an error.

    Within `distributed.workers` the sentences of a batch, and those that the teacher embeds, are shared out among the
    processes. The result is the same to rounding, but for dropout masks, which are others.

    Args:
        encoder: the model to train; is in evaluation mode afterwards.
        examples: tuples of one to three sentences, all of one length.
        scores: gold scores of the examples, which are pairs then, for the objective "graded".
        teacher: the dense model for the objective "distill", or several whose unit vectors are averaged. It embeds the
            sentences of all steps before the first.
        dev: measured every `settings.eval_every` steps and at both ends. Without it `settings.patience` has nothing to
            count, and the last weights are kept.
        checkpoint: file to save to at each of these points, and to resume from.
        keep: called with (step, encoder) at each of `settings.keep_steps`.
        progress: called after every step.
        teacher_progress: called with (done, total) while the teacher embeds.
        note: called with a sentence that says how long all will take, where that is more than a minute or where
            `settings.time_budget` takes steps away, and with the warnings. Some steps are tried for it, of which
            nothing is left.
    """
    if not examples:
        raise InputError("There is no training example; give a data set with at least one sentence.")
    teachers = [teacher] if isinstance(teacher, Encoder) else teacher or ()
    led = _Led(teachers, dev, note, checkpoint, keep, progress, teacher_progress)
    return distributed.together(_train, encoder, examples, settings, scores, led=led)


@dataclass(frozen=True)
class _Led:
    """The arguments of `train` that one process has, where several compute together."""

    teachers: Sequence[Encoder] = ()
    dev: Dev | None = None
    note: Callable[[str], None] | None = None
    checkpoint: Path | None = None
    keep: Callable[[int, Encoder], None] | None = None
    progress: Callable[[StepReport], None] | None = None
    teacher_progress: Callable[[int, int], None] | None = None


def _train(
    encoder: Encoder,
    examples: Sequence[Example],
    settings: TrainingSettings,
    scores: Sequence[float] | None,
    led: _Led = _Led(),
) -> TrainingResult:
    began = time.monotonic()

    def warn(said: str) -> None:
        if led.note is None:
            warnings.warn(said, stacklevel=5)
        else:
            led.note(f"Warning: {said}")

    encoder.to(distributed.device(encoder.device))
    if distributed.size() > 1:  # another machine might resolve it in another way
        shorter = distributed.broadcast(computes_bfloat16(settings.precision, encoder.device))
        settings = replace(settings, precision="bfloat16" if shorter else "float32")
    # The trainer is made inside: a momentum encoder copies the encoder's dropout.
    # What a teacher says of a sentence is known: there noise only blurs it.
    dropout = 0.0 if settings.dropout is None and set(settings.objective) == {"distill"} else settings.dropout
    with with_dropout(encoder, dropout), layers_again(encoder, settings.gradient_checkpointing):
        trainer = _Trainer(encoder, examples, settings, scores, led.teachers, led.checkpoint, warn)
        if not trainer.resume():
            start = time.monotonic()
            trainer.measure(led.dev)
            trainer.plan(began, time.monotonic() - start, led.note)
        trainer.embed(led.teacher_progress)
        state = trainer.state
        while not trainer.finished():
            trainer.loss.train()
            try:
                loss = trainer.step()
            except DivergedError as error:
                trainer.optimizer.zero_grad()
                if state.best_step == 0:
                    trainer.restore_best()
                    raise
                reason, _, _ = str(error).partition(";")
                warn(f"{reason}; training ends there, with the weights of step {state.best_step}.")
                break
            trainer.loss.eval()
            if led.keep is not None and state.step in settings.keep_steps:
                led.keep(state.step, encoder)
            figures = None
            if state.step % settings.eval_every == 0 or state.step == trainer.total:
                figures = trainer.measure(led.dev)
                trainer.save()
            if led.progress is not None:
                steps = state.step if trainer.finished() else trainer.total
                led.progress(StepReport(state.step, steps, loss, figures, state.best_step))
    trainer.restore_best()
    return TrainingResult(state.step, trainer.total, state.best_step, state.best, state.history)
