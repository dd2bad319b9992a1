"""CUDA graphs: the updates of a step are recorded once, and then launched as a whole instead of kernel by kernel."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_flatten, tree_unflatten

MOST_KINDS = 64  # of steps that are remembered


class Recording(NamedTuple):
    """One kind of step.

    Attributes:
        graph: its kernels.
        inputs: tensors that they read, filled before each replay.
        step: number of the step that was recorded.
        curves: tensors that they write, by the names of the curves.
        updates: what `Faults` notes of each update, with tensors that they write.
    """

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    step: int
    curves: dict[str, Tensor]
    updates: list[dict[str, Any]]


class Graphs:
    """Plays the steps of a `GAN` from recordings, with the results of playing them one kernel after another.

    A recording holds each number of the step as it was: penalties that are due, weights, strengths. All of them are
    its key, so a step whose numbers are new is played as usual, and recorded when its kind comes back. Learning rates
    may change at every step: Adam and its like read them from the device.

    Raises:
        ValueError: for a model or a trainer whose steps cannot be recorded.
    """

    def __init__(self, model: LightningModule):
        if hindered := hindrance(model):
            why, remedy = hindered
            raise ValueError(f"model.cuda_graphs cannot record the steps of this run, {why}: {remedy}")
        optimizers = model.trainer.optimizers
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.rates = [torch.zeros((), device=model.device) if "capturable" in group else None for group in groups]
        self.groups = groups
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: set[tuple] = set()
        self.recordings: dict[tuple, Recording] = {}

    def play(self, model: LightningModule, batches: list[Any], latents: list[Tensor], step: int) -> None:
        """What `model.play` does."""
        leaves, structure = tree_flatten((batches, latents))
        key = (structure, *kind(model, leaves, self.groups, step))
        if len(self.seen) == MOST_KINDS:  # numbers that change at every step leave one behind at each
            self.seen.clear()
        with self.rates_on_the_device():
            if key not in self.seen:
                self.seen.add(key)
                self.play_once(model, batches, latents, step)
                return
            if key not in self.recordings:
                try:
                    self.recordings[key] = self.record(model, leaves, structure, step)
                except RuntimeError as error:
                    fresh_generator()
                    self.give_up(model, str(error).splitlines()[0], error)
                    model.play(batches, latents, step)
                    return
            self.replay(model, self.recordings[key], leaves, step)

    def play_once(self, model: LightningModule, batches: list[Any], latents: list[Tensor], step: int) -> None:
        """As without graphs, on the stream of the recordings, which leaves everything warm for them."""
        before = torch.default_generator.get_state()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            model.play(batches, latents, step)
        torch.cuda.current_stream().wait_stream(self.stream)
        if not torch.equal(before, torch.default_generator.get_state()):
            why = "a part of it draws on the CPU, as FastGAN's crops do, and a recording would repeat that number"
            self.give_up(model, why)

    def give_up(self, model: LightningModule, why: str, error: Exception | None = None) -> None:
        if model.cuda_graphs != "auto":
            raise ValueError(f"model.cuda_graphs cannot record the steps of this model, {why}: leave it out") from error
        rank_zero_info(f"steps are not recorded as CUDA graphs: {why}")
        model.graphs = None

    def record(self, model: LightningModule, leaves: list[Any], structure: Any, step: int) -> Recording:
        inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        batches, latents = tree_unflatten(inputs, structure)
        curves, pending = model.curves, model.faults.pending
        model.curves, model.faults.pending = {}, []
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # what is freed while a graph is recorded spoils it
        gc.disable()
        try:
            # Other threads, one that pins memory for instance, may call CUDA meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                model.play(batches, latents, step)
            return Recording(graph, inputs, step, model.curves, model.faults.pending)
        finally:
            gc.enable()
            model.curves, model.faults.pending = curves, pending

    def replay(self, model: LightningModule, recording: Recording, leaves: list[Any], step: int) -> None:
        for there, here in zip(recording.inputs, leaves, strict=True):
            if isinstance(here, Tensor):
                there.copy_(here, non_blocking=True)
        recording.graph.replay()
        model.curves |= recording.curves
        later = (step - recording.step) * model.batches_per_step
        for update in recording.updates:
            numbers = {key: update[key].clone() for key in ("loss", "found")}  # the next replay writes over these
            first, last = update["batches"]
            model.faults.note(model, update | numbers | {"step": step, "batches": (first + later, last + later)})

    def forget(self) -> None:
        """Drops the recordings: optimizers got new tensors."""
        self.recordings.clear()

    @contextmanager
    def rates_on_the_device(self) -> Iterator[None]:
        """Learning rates as tensors, which a graph reads anew; schedules and checkpoints know them as numbers."""
        numbers = [group["lr"] for group in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            if rate is not None:
                group |= {"lr": rate.fill_(group["lr"]), "capturable": True}
        try:
            yield
        finally:
            for group, rate, number in zip(self.groups, self.rates, numbers, strict=True):
                if rate is not None:
                    group |= {"lr": number, "capturable": False}


def fresh_generator() -> None:
    """Gives the device a generator that draws: its own takes a recording that failed for one that goes on."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(generator.clone_state())


def hindrance(model: LightningModule) -> tuple[str, str] | None:
    """Why the steps of a run cannot be recorded, and what to do; None where they can."""
    if model.device.type != "cuda":
        return f"which is on {model.device.type}", "leave it out, or take a CUDA device"
    if model.trainer.world_size > 1:
        return "since several processes average their gradients", "leave it out, or take --trainer.devices 1"
    if not model.straight:
        why = "since a callback, a profiler or 16-mixed wants to hear of each backward pass or update"
        return why, "leave one of the two out (--trainer.precision bf16-mixed works)"
    unfused = [o for o in model.trainer.optimizers if not getattr(o, "_step_supports_amp_scaling", False)]
    if unfused and model.faults.policy != "ignore":
        why = f"since {type(unfused[0]).__name__} does not leave out updates that are not finite by itself"
        return why, "give it `fused: true`, or --model.on_nonfinite ignore"
    return None


def graphs_of(model: LightningModule) -> Graphs | None:
    """What `model.cuda_graphs` asks for; raises as `Graphs`.

    "auto" leaves out what this project has not tried: a part of one's own may draw or count in Python.
    """
    if model.cuda_graphs != "auto":
        return Graphs(model) if model.cuda_graphs else None
    if model.device.type != "cuda":
        return None
    own = [type(part).__name__ for part in parts_of(model) if not type(part).__module__.startswith(("src.", "torch."))]
    records = "--model.cuda_graphs true records it, too"
    hindered = (f"since {own[0]} is not of this project; {records}", "") if own else hindrance(model)
    if hindered:
        rank_zero_info(f"steps are not recorded as CUDA graphs, {hindered[0]}")
        return None
    graphs = Graphs(model)
    rank_zero_info("each kind of step is recorded as a CUDA graph; --model.cuda_graphs false plays it plainly")
    return graphs


def parts_of(model: LightningModule) -> list[Any]:
    """What takes part in the updates of a step."""
    players = [*model.generator.modules(), *model.discriminator.modules()]
    return [*players, *model.objectives, *model.measurement.modules(), *model.trainer.optimizers]


def compile_(model: LightningModule) -> None:
    """Lets torch.compile write the kernels of both players; penalties, which differentiate twice, call `forward`.

    Raises:
        ValueError: on a CPU, or for spectral normalization.
    """
    if model.device.type == "cpu":
        raise ValueError(
            "model.compile_networks is for GPUs: on a CPU the compiled step of these networks takes 1.35 times as long;"
            " leave it out"
        )
    for network in (model.generator, model.discriminator):
        if any(is_parametrized(module) for module in network.modules()):
            raise ValueError(
                f"model.compile_networks cannot compile the spectral normalization of the"
                f" {type(network).__module__.split('.')[-1]} {type(network).__name__}, which changes between two calls"
                " that one backward pass follows: leave it out"
            )
        network.compile()


def kind(model: LightningModule, leaves: list[Any], groups: list[dict[str, Any]], step: int) -> Iterator[Any]:
    """Everything that a step's kernels depend on, but for what tensors hold."""
    yield model.logs_now
    yield from ((leaf.shape, leaf.dtype, leaf.stride()) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    updates = range(step * model.d_steps + 1, (step + 1) * model.d_steps + 1)
    yield from (update % part.every == 0 for part in model.regularizers for update in updates)
    yield from ((step + 1) % part.every == 0 for part in model.g_regularizers)
    yield from numbers_of(vars(part) for part in model.objectives)
    yield from (number.value for number in model.scheduled if number.part is not model.ema)
    yield from numbers_of({**group, "lr": None} if "capturable" in group else group for group in groups)


def numbers_of(values: Iterable[dict[str, Any]]) -> Iterator[int | float]:
    """The numbers among some attributes, and those in tuples of them: betas."""
    for found in values:
        for value in found.values():
            yield from (v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, (int, float)))
