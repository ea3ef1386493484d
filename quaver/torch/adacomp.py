"""AdaComp where distributed training happens: a communication hook of DistributedDataParallel.

::

    state = quaver.torch.AdaCompState(model)  # the DistributedDataParallel
    model.register_comm_hook(state, quaver.torch.adacomp_hook)

In place of gradients the processes exchange the packets of `quaver.golden.compression`, by an all-gather, and
each averages all of them in the order of the ranks: golden's rule, golden's bits. `docs/adacomp.md` has the
rule, the packets, and the patent that the method is under in the United States.
"""

# No postponed annotations: PyTorch looks at those of a hook.

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quaver.golden.compression import AdaComp, NonFinite, PacketError
from quaver.torch import adacomp_on_cpu, adacomp_on_cuda
from quaver.torch.adacomp_on_cpu import Layer

_CONVOLUTIONS = nn.modules.conv._ConvNd
#: Version of what `state_dict` gives.
_VERSION = 1


class AdaCompState:
    """What the hook keeps between steps: of each parameter, by its name, the residue that is not sent yet.

    Residues belong to parameters and not to buckets, which PyTorch builds anew after the first step. One
    state belongs to one model, and each process has its own.

    Parameters
    ----------
    model
        The DistributedDataParallel, or the model in it. With `find_unused_parameters`, a parameter whose
        gradient is all zeros sends nothing: where no process used it, PyTorch drops what was averaged. A
        state of the model alone, which does not say, takes it for granted.
    conv, other
        L_T of the parameters of convolutions, and of all others: 1 … 16,383.
    non_finite
        What becomes of infinities and NaN: by default they pass, so that loss scaling sees them on every
        process. With `NonFinite.REFUSE` they are an error on every process.
    process_group
        Between whom gradients are exchanged; the default group if it is left out.

    Attributes
    ----------
    step
        Steps so far, counted by the last bucket of each.
    residues
        Parameter name → its residue, flat float32 on the parameter's device. A step that fails leaves it as
        it was.
    pending
        What `residues` become when the last bucket of this step has been averaged.
    finite
        Whether all gradients of all processes were, and all averages in the gradients' dtype, in the buckets
        of this step so far: if not, residues stay what they were before it.
    elements, sent, nbytes, effective_nbytes
        Sums since they were last set to 0, of this process alone: elements of gradients, values sent, bytes
        sent with everything, bytes as papers count them.

    Raises
    ------
    TypeError, ValueError
        A bin length that `AdaComp` refuses; a parameter of complex numbers.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        conv: int = 50,
        other: int = 500,
        non_finite: NonFinite | str = NonFinite.PASS,
        process_group: Any = None,
    ) -> None:
        rules = {
            kind: AdaComp(length, NonFinite(non_finite))
            for kind, length in (("conv", conv), ("other", other))
        }
        self.process_group = process_group
        self.rules = rules
        self.keeps_unused = bool(getattr(model, "find_unused_parameters", True))
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        convolutions = {
            id(parameter)
            for module in inner.modules()
            if isinstance(module, _CONVOLUTIONS)
            for parameter in module.parameters(recurse=False)
        }
        for name, parameter in inner.named_parameters():
            if parameter.is_complex() and parameter.requires_grad:  # a bucket has its halves as real numbers
                raise ValueError(
                    f"{name} is {str(parameter.dtype).removeprefix('torch.')}, but AdaComp compresses real "
                    f"gradients; keep its real and imaginary parts as a real parameter (torch.view_as_real)"
                )
        self._layers = {
            id(p): Layer(name, number, rules["conv" if id(p) in convolutions else "other"], p.numel())
            for number, (name, p) in enumerate(inner.named_parameters())
        }
        self.step = 0
        self.residues: dict[str, Tensor] = {}
        self.pending: dict[str, Tensor] = {}
        self.finite = True
        self.elements = self.sent = self.nbytes = self.effective_nbytes = 0

    @property
    def rate(self) -> float:
        """How many times fewer bytes were sent than gradients have in float32; 1 before anything was."""
        return 4 * self.elements / self.nbytes if self.nbytes else 1.0

    def layer(self, parameter: Tensor) -> Layer:
        """What is known of a parameter. ValueError: it is not the model's."""
        try:
            return self._layers[id(parameter)]
        except KeyError:
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} is not of the model that the state was made "
                f"of; make it of the model that is trained"
            ) from None

    def state_dict(self) -> dict[str, Any]:
        """What this process needs to go on with the same bits: each process keeps its own."""
        residues = {name: residue.clone() for name, residue in self.residues.items()}
        return {"version": _VERSION, "about": self._about(), "step": self.step, "residues": residues}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of this rank.

        ValueError: it is of another version, rule or model; nothing has changed.
        """
        if state.get("version") != _VERSION:
            raise ValueError(
                f"the state is of version {state.get('version')!r:.20}, but this quaver reads {_VERSION}; go "
                f"on with the release that wrote it"
            )
        if state.get("about") != self._about():
            raise ValueError(
                f"the state is of {state.get('about')}, but here it is {self._about()}; resume with what is "
                f"there"
            )
        layers = {layer.name: layer for layer in self._layers.values()}
        for name, residue in state["residues"].items():
            if name not in layers or residue.shape != (layers[name].length,):
                raise ValueError(
                    f"the state has a residue {name} of {tuple(residue.shape)}, which the model has not; "
                    f"resume with the model that is there"
                )
            if residue.dtype != torch.float32:
                raise ValueError(
                    f"the state has a residue {name} of {str(residue.dtype).removeprefix('torch.')}, but "
                    f"they are float32; keep the state as `state_dict` gives it"
                )
        self.step = int(state["step"])
        self.residues = {name: residue.clone() for name, residue in state["residues"].items()}

    def rescale(self, factor: float) -> None:
        """Multiply the residues: where a loss scale changes by `factor`, so do the gradients to come.

        Exact for powers of two. ValueError: the factor is not positive and finite.
        """
        if not 0 < factor < float("inf"):
            raise ValueError(f"the factor is {factor}, but it must be positive and finite")
        self.residues = {name: residue * factor for name, residue in self.residues.items()}

    def _about(self) -> dict[str, Any]:
        lengths = {kind: rule.bin_length for kind, rule in self.rules.items()}
        return lengths | {"non_finite": self.rules["conv"].non_finite.value}

    def residue(self, layer: Layer, device: torch.device) -> Tensor:
        """The layer's residue, on its gradient's device; zeros before the first step."""
        if layer.name not in self.residues:
            return torch.zeros(layer.length, dtype=torch.float32, device=device)
        return self.residues[layer.name].to(device)


def adacomp_hook(state: AdaCompState, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """For ``DistributedDataParallel.register_comm_hook``: compress, exchange and average one bucket.

    Gradients come undivided, and leave divided by the number of processes, once. They may have any floating
    dtype and lie on any device: float32 is what is compressed, and the average goes back to their dtype.
    Where one was not finite, that layer's average is NaN on every process; where an average is beyond that
    dtype, it is infinite. After such a step all residues are those from before it: a step that everybody
    skips has sent nothing.

    All processes wait for each other three times a bucket: for how long their packets are, for the packets,
    and before any gradient changes, for whether everybody could read all of them.

    RuntimeError: on every process, if one could not compress (its gradient is refused), could not read a
    packet (damaged, of another release, out of step), or is gone; it says which. No residue has changed then,
    and no optimiser may step.
    """
    group = state.process_group or dist.group.WORLD
    rank, buffer = dist.get_rank(group), bucket.buffer()
    packets = adacomp_on_cuda if buffer.device.type == "cuda" else adacomp_on_cpu
    if bucket.index() == 0:  # nothing of a step that broke off is left
        state.pending.clear()
        state.finite = True
    layers = [state.layer(parameter) for parameter in bucket.parameters()]
    views = [_in_order(*pair) for pair in zip(bucket.gradients(), bucket.parameters(), strict=True)]
    gradients = [gradient.detach().reshape(-1).float() for gradient in views]
    nothing, wrong = torch.empty(0, dtype=torch.uint8, device=buffer.device), ""
    try:
        old = [state.residue(layer, buffer.device) for layer in layers]
        idle = [state.keeps_unused and not gradient.any() for gradient in gradients]
        # Of zeros, nothing is sent.
        residues = [x.new_zeros(x.shape) if unused else x for x, unused in zip(old, idle, strict=True)]
        sent = packets.compress(layers, residues, gradients, rank, state.step)
        message, sizes = sent.data, sent.sizes
    except (TypeError, ValueError, RuntimeError) as error:
        wrong, message, sizes = f"rank {rank}, {error}", nothing, []
    try:
        received = _gather(message, sizes, wrong, len(layers), group)
        failures, averages, finite = received.failures, [], True
        if not failures:
            try:
                averages, finite = packets.average(layers, received.rows, received.sizes, state.step)
            except (PacketError, RuntimeError) as error:
                wrong = f"rank {rank} cannot read what it was sent: {error}"
            failures = _gather(nothing, [], wrong, 0, group).failures
    except RuntimeError as error:
        state.pending.clear()
        raise RuntimeError(
            f"AdaComp, step {state.step}: the exchange of gradients broke off, as a process is gone or late; "
            f"begin again from a checkpoint ({error})"
        ) from error
    if failures:
        state.pending.clear()
        raise RuntimeError(f"AdaComp, step {state.step}, is given up by all processes: {'; '.join(failures)}")
    for layer, before, after, unused in zip(layers, old, sent.residues, idle, strict=True):
        state.pending[layer.name] = before if unused else after
    state.finite &= finite
    state.elements += sum(layer.length for layer in layers)
    state.sent += sent.sent
    state.nbytes += sum(sent.sizes)
    state.effective_nbytes += sent.effective_nbytes
    for gradient, mean_gradient in zip(views, averages, strict=True):
        gradient.copy_(mean_gradient.view(gradient.shape))
    if finite and buffer.numel():  # an average may be beyond the gradients' format: of float16, above 65,504
        state.finite &= bool(torch.stack(torch.aminmax(buffer)).isfinite().all())
    if bucket.is_last():
        if state.finite:  # else all skip the step, and nothing has been sent
            state.residues |= state.pending
        state.pending.clear()
        state.finite = True
        state.step = (state.step + 1) % (1 << 32)
    devices = [buffer.device] if buffer.is_cuda else None  # whose streams a wait waits for
    done: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
    done.set_result(buffer)
    return done


def _in_order(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient of a bucket, seen as its parameter's elements are counted.

    DistributedDataParallel lays it out as the parameter lies in memory (channels last, transposed), and hands
    it out as if that were contiguous: bins would be cut elsewhere than golden cuts them, and residues would
    belong to other elements once a model is resumed in another memory format.
    """
    if not torch.ops.aten.is_non_overlapping_and_dense(parameter):  # then it does lie contiguously
        return gradient
    return gradient.as_strided(parameter.shape, parameter.stride())


@dataclass(frozen=True)
class _Received:
    """What all processes say: a row of bytes of each, how many bytes each part of it has, and what those that
    failed say in place of them."""

    rows: Tensor
    sizes: list[list[int]]
    failures: list[str]


def _gather(message: Tensor, sizes: list[int], wrong: str, parts: int, group: Any) -> _Received:
    """Exchange messages of so many parts, uint8 where they lie; or say what went wrong."""
    count, device = dist.get_world_size(group), message.device
    if wrong:
        message = torch.frombuffer(bytearray(wrong.encode()), dtype=torch.uint8).to(device)
    head = torch.tensor(
        [bool(wrong), len(message), *(sizes or [0] * parts)], dtype=torch.int64, device=device
    )
    heads = torch.empty((count, len(head)), dtype=torch.int64, device=device)
    dist.all_gather(list(heads), head, group=group)
    told = heads.tolist()
    longest = max(length for _, length, *_ in told)
    rows = torch.empty((count, longest), dtype=torch.uint8, device=device)
    if longest:
        padded = torch.zeros(longest, dtype=torch.uint8, device=device)
        padded[: len(message)] = message
        dist.all_gather(list(rows), padded, group=group)
    failures = [
        bytes(row[:length].tolist()).decode("utf-8", "replace")
        for row, (failed, length, *_) in zip(rows, told, strict=True)
        if failed
    ]
    return _Received(rows, [parts for _, _, *parts in told], failures)
