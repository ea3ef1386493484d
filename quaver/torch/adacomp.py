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

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from quaver.golden.compression import AdaComp, NonFinite, Packet, PacketError, mean, unpack_all
from quaver.golden.compression.adacomp import mean_of_maxima
from quaver.golden.compression.packet import expect

_CONVOLUTIONS = nn.modules.conv._ConvNd
#: Version of what `state_dict` gives.
_VERSION = 1


@dataclass(frozen=True)
class _Layer:
    """What is known of a parameter: its name, its number, its rule, and how many elements it has."""

    name: str
    number: int
    rule: AdaComp
    length: int


class AdaCompState:
    """What the hook keeps between steps: of each parameter, by its name, the residue that is not sent yet.

    Residues belong to parameters and not to buckets, which PyTorch builds anew after the first step. One
    state belongs to one model, and each process has its own.

    Parameters
    ----------
    model
        The model, or the DistributedDataParallel around it. With `find_unused_parameters`, a parameter whose
        gradient is all zeros sends nothing: where no process used it, PyTorch drops what was averaged.
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
        Whether all gradients of all processes were, in the buckets of this step so far: if not, residues stay
        what they were before it.
    elements, sent, nbytes, effective_nbytes
        Sums since they were last set to 0, of this process alone: elements of gradients, values sent, bytes
        sent with everything, bytes as papers count them.

    Raises
    ------
    TypeError, ValueError
        A bin length that `AdaComp` refuses.
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
        self.keeps_unused = bool(getattr(model, "find_unused_parameters", False))
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        convolutions = {
            id(parameter)
            for module in inner.modules()
            if isinstance(module, _CONVOLUTIONS)
            for parameter in module.parameters(recurse=False)
        }
        self._layers = {
            id(p): _Layer(name, number, rules["conv" if id(p) in convolutions else "other"], p.numel())
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

    def layer(self, parameter: Tensor) -> _Layer:
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
        if state["about"] != self._about():
            raise ValueError(
                f"the state is of {state['about']}, but here it is {self._about()}; resume with what is there"
            )
        layers = {layer.name: layer for layer in self._layers.values()}
        for name, residue in state["residues"].items():
            if name not in layers or residue.shape != (layers[name].length,):
                raise ValueError(
                    f"the state has a residue {name} of {tuple(residue.shape)}, which the model has not; "
                    f"resume with the model that is there"
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

    def residue(self, layer: _Layer, device: torch.device) -> Tensor:
        """The layer's residue, on its gradient's device; zeros before the first step."""
        if layer.name not in self.residues:
            return torch.zeros(layer.length, dtype=torch.float32, device=device)
        return self.residues[layer.name].to(device)


def adacomp_hook(state: AdaCompState, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """For ``DistributedDataParallel.register_comm_hook``: compress, exchange and average one bucket.

    Gradients come undivided, and leave divided by the number of processes, once. They may have any floating
    dtype and lie on any device: float32 is what is compressed, and the average goes back to their dtype.
    Where one was not finite, that layer's average is NaN on every process, and after the step all residues
    are those from before it: a step that everybody skips has sent nothing.

    All processes wait for each other three times a bucket: for how long their packets are, for the packets,
    and before any gradient changes, for whether everybody could read all of them.

    RuntimeError: on every process, if one could not compress (its gradient is refused), could not read a
    packet (damaged, of another release, out of step), or is gone; it says which. No residue has changed then,
    and no optimiser may step.
    """
    group = state.process_group or dist.group.WORLD
    rank = dist.get_rank(group)
    buffer = bucket.buffer()
    layers = [state.layer(parameter) for parameter in bucket.parameters()]
    gradients = [gradient.reshape(-1).float() for gradient in bucket.gradients()]
    residues, packets, wrong = {}, [], ""
    try:
        for layer, gradient in zip(layers, gradients, strict=True):
            old = state.residue(layer, gradient.device)
            if state.keeps_unused and not gradient.any():
                none = torch.zeros_like(old)
                packet, _ = compress(layer.rule, none, none, layer.number, rank, state.step)
                new = old
            else:
                packet, new = compress(layer.rule, old, gradient, layer.number, rank, state.step)
            packets.append(packet)
            residues[layer.name] = new
        data = b"".join(packet.pack() for packet in packets)
    except (TypeError, ValueError) as error:
        wrong, data = f"rank {rank}, {layer.name}: {error}", b""
    try:
        received = _gather(wrong.encode() or data, bool(wrong), group, buffer.device)
        failures = [bytes(got).decode("utf-8", "replace") for failed, got in received if failed]
        averages: list[Tensor] = []
        if not failures:
            try:
                sent = _packets([got for _, got in received], layers, state.step)
                averages = [average(each, buffer.device) for each in sent]
            except PacketError as error:
                wrong = f"rank {rank} cannot read what it was sent: {error}"
            told = _gather(wrong.encode(), bool(wrong), group, buffer.device)
            failures = [bytes(got).decode("utf-8", "replace") for failed, got in told if failed]
    except RuntimeError as error:
        state.pending.clear()
        raise RuntimeError(
            f"AdaComp, step {state.step}: the exchange of gradients broke off, as a process is gone or late; "
            f"begin again from a checkpoint ({error})"
        ) from error
    if failures:
        state.pending.clear()
        raise RuntimeError(f"AdaComp, step {state.step}, is given up by all processes: {'; '.join(failures)}")
    state.pending |= residues
    state.finite &= all(packet.is_finite for each in sent for packet in each)
    for layer, packet in zip(layers, packets, strict=True):
        state.elements += layer.length
        state.sent += packet.sent
        state.nbytes += packet.nbytes
        state.effective_nbytes += packet.effective_nbytes
    for gradient, mean_gradient in zip(bucket.gradients(), averages, strict=True):
        gradient.copy_(mean_gradient.view(gradient.shape))
    if bucket.is_last():
        if state.finite:  # else all skip the step, and nothing has been sent
            state.residues |= state.pending
        state.pending.clear()
        state.finite = True
        state.step = (state.step + 1) % (1 << 32)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(buffer)
    return done


def _gather(data: bytes, failed: bool, group: Any, device: torch.device) -> list[tuple[bool, memoryview]]:
    """From every process of the group whether it failed, and its bytes: each may have another number."""
    count = dist.get_world_size(group)
    heads = [torch.empty(2, dtype=torch.int64, device=device) for _ in range(count)]
    dist.all_gather(heads, torch.tensor([len(data), failed], dtype=torch.int64, device=device), group=group)
    told = [(int(length), bool(bad)) for length, bad in torch.stack(heads).tolist()]
    longest = max(length for length, _ in told)
    rows = [torch.empty(longest, dtype=torch.uint8, device=device) for _ in range(count)]
    if longest:
        padded = np.zeros(longest, np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        dist.all_gather(rows, torch.from_numpy(padded).to(device), group=group)
    bytes_of = (row.cpu().numpy() for row in rows)
    return [(bad, memoryview(row[:length])) for row, (length, bad) in zip(bytes_of, told, strict=True)]


def _packets(received: list[memoryview], layers: list[_Layer], step: int) -> list[list[Packet]]:
    """Of every layer of a bucket, the learners' packets. PacketError: what came is not what must be sent."""
    of_learner: list[list[Packet]] = []
    for learner, data in enumerate(received):
        try:
            packets = list(unpack_all(data))
        except PacketError as error:
            raise PacketError(f"of rank {learner}: {error}") from None
        if len(packets) != len(layers):
            raise PacketError(
                f"of rank {learner}: {len(packets)} packets, but there are {len(layers)} layers"
            )
        for packet, layer in zip(packets, layers, strict=True):
            fixed = {"layer": layer.number, "length": layer.length, "bin_length": layer.rule.bin_length}
            expect(packet, learner=learner, step=step, **fixed)
        of_learner.append(packets)
    return [list(packets) for packets in zip(*of_learner, strict=True)]


def average(packets: list[Packet], device: torch.device) -> Tensor:
    """`quaver.golden.compression.mean` of what N learners sent of a layer, flat float32 on a device."""
    if device.type == "cpu":
        return torch.from_numpy(mean(packets))
    return _average(packets, device)


def _average(packets: list[Packet], device: torch.device) -> Tensor:
    """The same by PyTorch's operations: no place comes twice in a packet, so the sums' order is fixed."""
    total = torch.zeros(packets[0].length, dtype=torch.float32, device=device)
    for packet in packets:
        if packet.is_finite:
            index, negative = (torch.from_numpy(x).to(device) for x in packet.places())
            share = float(np.float32(packet.scale) / np.float32(len(packets)))
            total[index] += torch.where(negative, -share, share)
        else:
            total.fill_(float("nan"))
    return total


def compress(
    rule: AdaComp, residue: Tensor, gradient: Tensor, layer: int = 0, learner: int = 0, step: int = 0
) -> tuple[Packet, Tensor]:
    """`AdaComp.compress` of flat float32 tensors, where they lie: the packet, and the new residue.

    On the CPU by golden's kernel; on another device by PyTorch's operations, of which the packet alone leaves
    it, with the same bits.
    """
    if residue.device.type == "cpu":
        arrays = residue.numpy(), gradient.detach().contiguous().numpy()
        packet, kept = rule.compress(*arrays, layer=layer, learner=learner, step=step)
        return packet, torch.from_numpy(kept)
    return _compress(rule, residue, gradient.detach(), layer, learner, step)


def _compress(
    rule: AdaComp, residue: Tensor, gradient: Tensor, layer: int, learner: int, step: int
) -> tuple[Packet, Tensor]:
    """The rule by PyTorch's operations on the tensors' device."""
    length, size = rule.bin_length, len(residue)
    pending = residue + gradient
    ahead = pending + gradient
    none = np.empty(0, np.uint8 if length < 64 else np.uint16)
    where = {"layer": layer, "learner": learner, "step": step}
    if not bool((pending.isfinite() & ahead.isfinite()).all()):
        if rule.non_finite is NonFinite.REFUSE:
            rule.compress(residue.cpu().numpy(), gradient.cpu().numpy(), **where)  # says what
        return Packet(size, length, np.nan, none, **where), residue.clone()
    bins = -(-size // length)
    magnitudes = torch.zeros(bins * length, dtype=torch.float32, device=pending.device)
    magnitudes[:size] = pending.abs()
    maxima = magnitudes.view(bins, length).amax(1) if bins else magnitudes
    words = maxima.view(torch.int32)
    fields = (words >> 23).long()
    significands = (words & 0x7FFFFF).long() + 0x800000 * (fields > 0)
    sums = torch.zeros(255, dtype=torch.int64, device=pending.device).index_add_(0, fields, significands)
    reaches = (ahead.abs() >= maxima.repeat_interleave(length)[:size]) & (pending != 0)
    index = reaches.nonzero().view(-1)
    negative = pending[index] < 0
    scale = mean_of_maxima(sums.cpu().numpy(), bins)
    elements = _elements(index, negative, length, bins).cpu().numpy().astype(none.dtype)
    kept = pending.clone()
    kept[index] -= torch.where(negative, -scale, scale)
    return Packet(size, length, scale, elements, **where), kept


def _elements(index: Tensor, negative: Tensor, length: int, bins: int) -> Tensor:
    """A packet's elements, as int64, for what is sent."""
    bits = 6 if length < 64 else 14
    bin_of = index // length
    edge = torch.tensor([-1], device=index.device)
    end = torch.tensor([bins], device=index.device)
    # Before each element, and after the last, so many empty bins.
    empty = torch.diff(torch.cat([edge, bin_of, end])).sub(1).clamp(min=0)
    runs = (empty + 3) // 4
    before = runs.cumsum(0)
    place = torch.arange(len(index), device=index.device) + before[:-1]
    escape = (1 << bits) - 1
    elements = torch.full((len(index) + int(before[-1]),), escape | 3 << bits, device=index.device)
    last = bin_of != torch.cat([bin_of[1:], end])
    elements[place] = index % length | negative.long() << bits | last.long() << (bits + 1)
    short = empty % 4  # what a run of four does not hold comes last
    after = torch.cat([place, torch.tensor([len(elements)], device=index.device)])
    cut = short > 0
    elements[after[cut] - 1] = escape | (short[cut] - 1) << bits
    return elements
