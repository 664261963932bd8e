"""A pack: M trials of one structure trained epoch by epoch in one vectorised program.

Between epochs ended slots leave, newcomers take their place and the buffers are laid anew, so no step is spent on
an empty slot. Within an epoch a slot that diverges is frozen in the same step. Nothing a slot does depends on its
neighbours, its place or the pack's size: same bits as alone.

Axes: M slot, P padded parameters, S step, R rows of a batch padded to a multiple of 16, D data, L latent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ..records import State, TrialCheckpoint, TrialTask, derive_seed
from ..vae.admission import admit
from ..vae.metrics import ImageDetails, evaluate
from ..vae.model import VAE, build_vae, initialise, start_from
from ..vae.scales import SCALES
from .checkpoint import resume, save
from .device_data import DeviceData
from .draws import batch_order, epoch_noise
from .optimizers import OPTIMIZERS, SlotHyper, Update
from .slots import Slot, SlotMaths
from .stack import Stack
from .step import Step
from .stopping import stop_cause
from .structure import Structure

CURVES = {
    "elbo": "val/elbo",
    "rate": "val/rate",
    "distortion": "val/distortion",
    "active_units": "val/active_units",
    "sigma_mean": "posterior/sigma_mean",
    "sigma_min": "posterior/sigma_min",
    "sigma_max": "posterior/sigma_max",
}
"""metrics of an evaluation -> names of the curves"""


class Pack:
    """Trains its slots; `slots[i]` owns row i of every buffer."""

    def __init__(self, structure: Structure, data: DeviceData) -> None:
        """Raises UserError where the structure's network cannot be trained in a pack."""
        self.structure, self.data = structure, data
        self.slots: list[Slot] = []
        self.step_seconds = 0.0
        """wall time spent in training steps so far"""
        self.stack = Stack(admit(self._built(0), data.pixels).to(data.device, data.dtype))
        self._optimizer = OPTIMIZERS[structure.optimizer]
        self.rows_MP = self._buffer(0)
        self._state = [self._buffer(0) for _ in range(self._optimizer.buffers)]
        self._gradient_MP = self._buffer(0)
        self._batches = _Batches(data.train_x.shape[0], structure.batch_size, data)
        self._maths = SlotMaths([], data.dtype, data.device)

    def resettle(self, newcomers: Sequence[TrialTask]) -> None:
        """Drops ended slots and admits newcomers; equal scales stand together."""
        if not newcomers and all(slot.running for slot in self.slots):
            return
        places = [(slot, self.rows_of(slot)) for slot in self.slots if slot.running]
        places += [self._place(task) for task in newcomers]  # may raise: nothing is changed yet
        places.sort(key=lambda place: place[0].scale)
        self.rows_MP, *self._state = (self._buffer(len(places)) for _ in range(1 + self._optimizer.buffers))
        self._gradient_MP = self._buffer(len(places))
        for i, (_, rows) in enumerate(places):
            for buffer, row in zip((self.rows_MP, *self._state), rows, strict=False):  # a beginner has no state yet
                buffer[i] = row
        self.slots = [slot for slot, _ in places]
        self._maths = SlotMaths(self.slots, self.data.dtype, self.data.device)
        for slot in self.slots:
            slot.largest_pack = max(slot.largest_pack, len(self.slots))

    def rows_of(self, slot: Slot) -> list[Tensor]:
        """A slot's parameters and optimizer state, each (P,): views that the next `resettle` leaves behind."""
        i = self.slots.index(slot)
        return [buffer[i] for buffer in (self.rows_MP, *self._state)]

    def checkpoint(self, slot: Slot) -> TrialCheckpoint:
        """A slot in training as it is between two epochs."""
        return TrialCheckpoint(
            slot.task.key, slot.epoch, save(slot, self.stack, self.rows_of(slot), self.data.identity)
        )

    def train_epoch(self) -> None:
        """One epoch of every slot, its evaluation, and the decision who ends here."""
        began, stepping = time.process_time(), time.perf_counter()
        train_elbo_M = self.train_steps()
        self.step_seconds += time.perf_counter() - stepping
        self._record_epoch(train_elbo_M)
        share = (time.process_time() - began) / len(self.slots)
        for slot in self.slots:
            slot.worker_seconds += share

    @torch.no_grad()
    def train_steps(self, limit: int | None = None) -> Tensor:
        """The optimizer steps of one epoch (at most `limit`); returns the mean training ELBO, (M,) float64."""
        self._maths.begin_epoch()
        order_SMR, noise_SMKRL = self._draw()
        compute = Step(
            self.stack,
            self._maths,
            self.rows_MP,
            self._gradient_MP,
            samples=self.structure.samples,
            images=self._batches.images,
        )
        # Optimizer steps taken by each slot, as torch's fused kernels want them.
        taken_M = torch.tensor([float(slot.epoch * len(self._batches.counts)) for slot in self.slots])
        taken_M = taken_M.to(self.data.device)
        updates = self._updates(taken_M)
        total_M = torch.zeros(len(self.slots), dtype=torch.float64, device=self.data.device)
        batches = zip(order_SMR, noise_SMKRL, self._batches.weight_SR, self._batches.counts, strict=True)
        # Where autograd has no part in it, its bookkeeping for every tensor costs small packs a tenth of a step.
        with torch.inference_mode() if compute.by_hand else nullcontext():
            for step, (order_MR, noise_MKRL, weight_R, count) in enumerate(batches):
                if step == limit:
                    break
                if self.stack.apart and (rows := _padded(count)) < self._batches.rows:
                    order_MR, noise_MKRL, weight_R = order_MR[:, :rows], noise_MKRL[:, :, :rows], weight_R[:rows]
                x_MRD = self.data.train_x.index_select(0, order_MR.reshape(-1)).view(*order_MR.shape, -1)
                computed = compute(x_MRD, noise_MKRL.contiguous(), weight_R)
                loss_M = (computed.loss * weight_R).sum(-1)
                total_M.sub_((computed.cost * weight_R).sum(-1), alpha=count)
                if not self._all_finite(loss_M):
                    for i, finite in enumerate(self._finite(loss_M)):
                        if self.slots[i].running and not finite:
                            self.slots[i].end(State.DIVERGED, _blame(self.slots[i], step, loss_M[i], computed.raw[i]))
                taken_M += 1
                for slot, update in updates:
                    if slot.running:
                        update()
        return total_M / self.data.train_x.shape[0] + self.data.train_log_base

    def _updates(self, taken_M: Tensor) -> list[tuple[Slot, Update]]:
        """What takes each slot's optimizer step, by its count in `taken_M`; several where parts have their own."""
        return [
            (
                slot,
                self._optimizer.bind(
                    self.rows_MP[i, part],
                    self._gradient_MP[i, part],
                    tuple(state[i, part] for state in self._state),
                    taken_M[i],
                    hyper,
                ),
            )
            for i, slot in enumerate(self.slots)
            for part, hyper in self._parts(slot)
        ]

    def _all_finite(self, loss_M: Tensor) -> bool:
        """Whether all losses and gradients are surely finite."""
        return math.isfinite(float((loss_M + self._gradient_MP.sum(1)).sum()))

    def _finite(self, loss_M: Tensor) -> list[bool]:
        """Whether each slot's loss and gradient are finite, the same in any pack."""
        # A sum of finite numbers may overflow in one order and not in another; times zero it cannot.
        exact: list[bool] = ((loss_M * 0 + (self._gradient_MP * 0).sum(1)) == 0).tolist()
        return exact

    def subset(self, slots: Sequence[Slot]) -> SlotMaths:
        """Binds the rows of some slots for evaluation; returns their maths."""
        indices = [i for i, slot in enumerate(self.slots) if slot in slots]
        rows = self.rows_MP if len(indices) == len(self.slots) else self.rows_MP[indices]
        self.stack.bind(rows)
        return SlotMaths([self.slots[i] for i in indices], self.data.dtype, self.data.device)

    def evaluate(self, slots: Sequence[Slot], split: str) -> dict[str, list[float]]:
        """Metrics of some slots (in pack order) on `val` or `test`, a value a slot."""
        return self._evaluate(slots, split, None)

    def examine(self, slots: Sequence[Slot], split: str) -> tuple[dict[str, list[float]], ImageDetails]:
        """The same, and what is seen of the single images."""
        details = ImageDetails(self.data.evaluation(split, self.structure.latent_dim), len(slots))
        return self._evaluate(slots, split, details), details

    def _evaluate(self, slots: Sequence[Slot], split: str, details: ImageDetails | None) -> dict[str, list[float]]:
        maths = self.subset(slots)
        metrics = evaluate(
            self.stack.model,
            maths.scale,
            self.data.evaluation(split, self.structure.latent_dim),
            maths.hyper,
            len(slots),
            details,
        )
        return {name: values.tolist() for name, values in metrics.items()}

    def _record_epoch(self, train_elbo_M: Tensor) -> None:
        live = [(slot, elbo) for slot, elbo in zip(self.slots, train_elbo_M.tolist(), strict=True) if slot.running]
        if not live:
            return
        metrics = self.evaluate([slot for slot, _ in live], "val")
        now = time.time()
        for i, (slot, train_elbo) in enumerate(live):
            value = metrics["elbo"][i]
            if not math.isfinite(value):
                slot.end(State.DIVERGED, f"non-finite validation ELBO after epoch {slot.epoch + 1}")
                continue
            slot.curves.setdefault("train/elbo", []).append(train_elbo)
            for name, curve in CURVES.items():
                slot.curves.setdefault(curve, []).append(metrics[name][i])
            slot.epoch_times.append(now)
            slot.epoch += 1
            _judge(slot)

    def _draw(self) -> tuple[Tensor, Tensor]:
        batches, latent = self._batches, self.structure.latent_dim
        steps, slots = len(batches.counts), len(self.slots)
        shape = (steps, self.structure.samples, batches.rows, latent)
        order = torch.empty(steps, slots, batches.rows, dtype=torch.int64)
        noise = torch.empty(steps, slots, *shape[1:], dtype=self.data.dtype)
        for i, slot in enumerate(self.slots):
            order[:, i] = batch_order(slot.task.seed, slot.epoch, batches.images)[batches.positions_SR]
            noise[:, i] = epoch_noise(slot.task.seed, slot.epoch, shape, self.data.dtype)
        return order.to(self.data.device), noise.to(self.data.device)

    def _fresh_model(self, seed: int = 0) -> VAE:
        return self._built(seed).to(self.data.dtype)

    def _built(self, seed: int) -> VAE:
        structure = self.structure
        return build_vae(
            network=structure.network,
            pixels=self.data.pixels,
            hidden=structure.hidden,
            activation=structure.activation,
            posterior=structure.posterior,
            latent_dim=structure.latent_dim,
            likelihood=structure.likelihood,
            levels=self.data.levels,
            image_shape=self.data.image_shape,
            seed=seed,
        )

    def _place(self, task: TrialTask) -> tuple[Slot, list[Tensor]]:
        """A newcomer with its rows: where its checkpoint is, or at the start."""
        slot = Slot(task, time.time())
        rows = resume(slot, self.stack, 1 + self._optimizer.buffers, self.data.identity) or [self._initial_row(slot)]
        return slot, [row.to(self.data.device) for row in rows]

    def _initial_row(self, slot: Slot) -> Tensor:
        seed = slot.task.seed
        model = self._fresh_model(derive_seed(seed, "network"))
        initialise(model, seed)
        scale, sigma = SCALES[slot.scale], slot.initial_sigma()
        if sigma is None and self.structure.posterior == "shared_scale" and scale.reaches(1.0):
            sigma = 1.0  # a head that does not look has no weights of its own to start from
        if sigma is not None:
            start_from(model, scale, sigma, matched=slot.task.hyperparameters["protocol"] != "as_shipped")
        return self.stack.row_of(dict(model.named_parameters()))

    def _parts(self, slot: Slot) -> list[tuple[slice, SlotHyper]]:
        """Which part of a slot's row is updated how; every part begins at a multiple of 16 elements."""
        hyper, slope = slot.optimizer_hyper(), slot.head_slope()
        if slope == 1:
            return [(slice(None), hyper)]
        head = self.stack.part("raw_scale.")
        rescaled = self._optimizer.rescale(hyper, slope)
        return [(slice(0, head.start), hyper), (head, rescaled), (slice(head.stop, None), hyper)]

    def _buffer(self, slots: int) -> Tensor:
        return torch.zeros(slots, self.stack.row_length, dtype=self.data.dtype, device=self.data.device)


class _Batches:
    """Which place of an epoch's order each row of each batch takes.

    Batches are padded to a multiple of 16 rows with copies of their own first image at weight 0: a copy cannot
    diverge unless the image itself does.
    """

    def __init__(self, images: int, batch_size: int, data: DeviceData) -> None:
        self.images = images
        size = min(batch_size, images)
        self.rows = _padded(size)
        starts = range(0, images, size)
        self.counts = [min(size, images - start) for start in starts]
        self.positions_SR = torch.tensor(
            [
                [start + i if i < count else start for i in range(self.rows)]
                for start, count in zip(starts, self.counts, strict=True)
            ]
        )
        self.weight_SR = torch.tensor(
            [[1.0 / count if i < count else 0.0 for i in range(self.rows)] for count in self.counts],
            dtype=data.dtype,
            device=data.device,
        )


def _padded(count: int) -> int:
    return count + -count % 16


def _judge(slot: Slot) -> None:
    """Ends a slot at its last epoch or by its stopping rule, in that order."""
    if slot.epoch >= slot.epochs:
        slot.end(State.COMPLETE)
    elif cause := stop_cause(slot.task, slot.curves["val/elbo"]):
        slot.end(State.STOPPED, cause)


def _blame(slot: Slot, step: int, loss: Tensor, raw_RL: Tensor) -> str:
    """Why a slot diverged, in words that depend on the trial alone."""
    what = "gradient" if math.isfinite(float(loss)) else "loss"
    text = f"non-finite {what} in epoch {slot.epoch + 1}, step {step + 1}"
    scale = SCALES[slot.scale]
    if scale.outside is not None and bool(scale.outside(raw_RL).any()):
        text += f": {slot.scale} needs {scale.domain}"
    return text
