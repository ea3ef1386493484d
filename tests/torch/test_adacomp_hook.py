"""AdaComp as a communication hook: four processes over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import adacomp_learners as learners
import numpy as np
import pytest
import test_equal_to_golden
import torch

import quaver
import quaver.torch
from quaver.golden.compression import AdaComp, mean
from quaver.golden.nn import models
from quaver.golden.nn.trainer import Trainer
from quaver.torch import AdaCompState

RANKS = range(4)
#: Four processes that take all cores each would wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each scenario found on each rank."""
    folder = tmp_path_factory.mktemp("learners")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    done = subprocess.run(
        [*command, learners.__file__, str(folder)],
        capture_output=True, text=True, timeout=600, env=os.environ | ONE_THREAD,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        scenario.__name__: [
            torch.load(folder / f"{scenario.__name__}-{rank}.pt", weights_only=False)
            for rank in RANKS
            if scenario is not learners.dies or rank != 3
        ]
        for scenario in learners.SCENARIOS
    }


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.view(torch.int32).equal(other.view(torch.int32))


class Simulated:
    """Golden's exchange between four learners, by the parameter."""

    def __init__(self) -> None:
        self.residues: list[dict[str, np.ndarray]] = [{} for _ in RANKS]

    def exchange(self, gradients: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        averages = {}
        for name, first in gradients[0].items():
            packets = []
            for rank in RANKS:
                flat = gradients[rank][name].reshape(-1).numpy()
                old = self.residues[rank].get(name, np.zeros_like(flat))
                packet, self.residues[rank][name] = AdaComp(40).compress(old, flat)
                packets.append(packet)
            averages[name] = torch.from_numpy(mean(packets)).reshape(first.shape)
        return averages


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes: PyTorch's sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_gradients_and_residues_are_goldens_while_buckets_are_rebuilt(found: dict[str, list[Any]]) -> None:
    net, simulated = learners.model(), Simulated()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(5):
        local = []
        for rank in RANKS:
            optimiser.zero_grad()
            learners.loss_of(net, rank, step).backward()
            local.append({name: p.grad.clone() for name, p in net.named_parameters()})
        for name, average in simulated.exchange(local).items():
            net.get_parameter(name).grad = average
            for one in found["train"]:
                assert same(one["gradients"][step][name], average), (step, name)
        optimiser.step()
    for rank, one in enumerate(found["train"]):
        first, *others, last = one["buckets"]
        assert first != others[0]  # rebuilt
        assert len(others[0]) > 1
        assert others == others[:1] * len(others)
        assert not last
        assert one["state"]["step"] == 5
        for name, residue in simulated.residues[rank].items():
            assert same(one["state"]["residues"][name], torch.from_numpy(residue))
            assert same(one["weights"][name], net.get_parameter(name).detach())


def test_the_kernels_of_a_gpu_give_the_same_bits(found: dict[str, list[Any]]) -> None:
    """The hook's other side, with g++'s build of the CUDA kernels: gradients, residues, sizes."""
    for one, other in zip(found["train"], found["train_by_kernels"], strict=True):
        for step in range(5):
            for name, gradient in one["gradients"][step].items():
                assert same(other["gradients"][step][name], gradient)
        residues = one["state"]["residues"]
        assert all(same(other["state"]["residues"][name], residue) for name, residue in residues.items())
        assert other["sums"] == one["sums"]


def test_residues_by_the_bucket_would_be_seen(found: dict[str, list[Any]]) -> None:
    """Their places in the buckets of the first step and of the others differ: the test above can fail."""
    first, second = found["train"][0]["buckets"][:2]
    assert [name for bucket in first for name in bucket] != [
        name for bucket in second for name in bucket
    ] or ([len(bucket) for bucket in first] != [len(bucket) for bucket in second])


def test_a_resumed_run_has_the_same_bits(found: dict[str, list[Any]]) -> None:
    for one in found["resume"]:
        assert all(same(x, one["straight"][name]) for name, x in one["resumed"].items())
        resumed, straight = one["states"]
        assert resumed["step"] == straight["step"] == 5
        assert all(same(x, straight["residues"][name]) for name, x in resumed["residues"].items())


def test_no_sync_sends_what_has_accumulated(found: dict[str, list[Any]]) -> None:
    simulated = Simulated()
    local = [one["local"] for one in found["accumulate"]]
    simulated.exchange(local)
    averages = simulated.exchange(local)
    for one in found["accumulate"]:
        assert one["step"] == 2
        assert all(same(one["gradient"][name], average) for name, average in averages.items())


def test_bins_are_cut_in_the_parameters_order_and_not_in_memorys(found: dict[str, list[Any]]) -> None:
    simulated = Simulated()
    local = [one["local"] for one in found["layouts"]]
    simulated.exchange(local)
    averages = simulated.exchange(local)
    for rank, one in enumerate(found["layouts"]):
        assert all(same(one["gradient"][name], average) for name, average in averages.items())
        for name, residue in simulated.residues[rank].items():
            assert same(one["residues"][name], torch.from_numpy(residue))


def test_ranks_with_fewer_batches_join(found: dict[str, list[Any]]) -> None:
    for one in found["uneven"]:
        assert one["step"] == 5
        assert all(same(x, found["uneven"][0]["weights"][name]) for name, x in one["weights"].items())


@pytest.mark.parametrize("scenario", ["unused", "unused_of_inner", "unused_by_kernels"])
def test_unused_parameters_keep_their_residues(found: dict[str, list[Any]], scenario: str) -> None:
    for rank, one in enumerate(found[scenario]):
        assert all(same(x, found[scenario][0]["weights"][name]) for name, x in one["weights"].items())
        first, second, third, _ = one["residues"]
        idle, busy = ("right", "left") if rank % 2 == 0 else ("left", "right")
        assert not third[f"{idle}.weight"].any()  # never used here
        assert third[f"{busy}.weight"].any()
        assert not first["rare.weight"].any()
        assert second["rare.weight"].any()
        assert same(second["rare.weight"], third["rare.weight"])  # used by nobody in the third step


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("refused", ("rank 2, 4.bias: ", "is not finite; skip the step")),
        ("flipped", ("cannot read what it was sent: of rank 1", "checksum is wrong")),
        ("cut", ("cannot read what it was sent: of rank 1",)),
        ("flipped_by_kernels", ("cannot read what it was sent: of rank 1", "checksum is wrong")),
        ("refused_by_kernels", ("rank 2, 4.bias: ", "is not finite; skip the step")),
        ("version", ("of rank 1", "of version 2, but this quaver reads 1")),
        ("out_of_step", ("a packet of learner", "is expected: the learners are not at the same step")),
    ],
)
def test_every_rank_is_told(found: dict[str, list[Any]], scenario: str, words: tuple[str, ...]) -> None:
    for one in found[scenario]:
        assert "AdaComp, step" in one["told"]
        assert "is given up by all processes" in one["told"]
        assert all(word in one["told"] for word in words), one["told"]
        assert one["same"]  # no residue has changed


def test_a_dead_learner_is_told_to_the_others(found: dict[str, list[Any]]) -> None:
    for one in found["dies"]:
        assert "the exchange of gradients broke off, as a process is gone or late" in one["told"]
        assert one["same"]


@pytest.mark.parametrize("scenario", ["passed", "passed_by_kernels"])
def test_infinities_pass_and_all_residues_stay(found: dict[str, list[Any]], scenario: str) -> None:
    for one in found[scenario]:
        assert [name for name, nan in one["nan"].items() if nan] == ["2.bias"]
        assert one["same"]
        assert one["any"]
        assert one["step"] == 2


def test_an_average_beyond_float16_keeps_all_residues(found: dict[str, list[Any]]) -> None:
    for one in found["beyond"]:
        assert one["infinite"] == ["2.bias"]
        assert one["step"] == 1
        assert list(one["residues"]) == ["2.bias"]
        assert one["residues"]["2.bias"].tolist() == [1e5] * 30


def test_a_step_that_was_given_up_leaves_nothing_to_the_next(found: dict[str, list[Any]]) -> None:
    """Not that one of its gradients was infinite either: residues would stay, of which something is sent."""
    for one in found["again"]:
        assert "step 1, is given up by all processes" in one["told"]
        assert one["step"] == 2
        for name, before in one["before"].items():
            _, kept = AdaComp(40).compress(before.numpy(), one["local"][name].reshape(-1).numpy())
            assert same(one["after"][name], torch.from_numpy(kept))


def test_gradients_in_float16(found: dict[str, list[Any]]) -> None:
    for one in found["half"]:
        assert set(one["dtype"]) == {torch.float16}
        assert {residue.dtype for residue in one["residues"].values()} == {torch.float32}
        assert all(x.equal(y) for x, y in zip(one["weights"], found["half"][0]["weights"], strict=True))


@pytest.mark.parametrize("name", learners.LIKE_GOLDEN)
def test_four_processes_are_goldens_four_learners(found: dict[str, list[Any]], name: str) -> None:
    digits, (model, recipe) = quaver.data.load("digits"), learners.LIKE_GOLDEN[name]
    network = models.build(model, digits.shape, digits.classes)
    trainer = Trainer(network, digits, recipe, learners.GOLDEN)
    for _ in range(learners.GOLDEN_STEPS):
        trainer.train_step()
    fmt = None if recipe.update is None else recipe.update.formats[0]
    assert trainer.learners is not None
    for rank, one in enumerate(found["golden"]):
        for p, weights in zip(trainer.parameters, one[name]["weights"].values(), strict=True):
            test_equal_to_golden.assert_same(p.name, weights, trainer.weights[p.name], fmt)
        kept = trainer.learners.residues.values()
        for n, golden in zip(one[name]["weights"], kept, strict=True):
            assert same(one[name]["residues"][n], torch.from_numpy(golden[rank]))


def test_bins_are_those_of_the_module() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3, 2), torch.nn.GRU(2, 2)
    )
    state = AdaCompState(model, conv=30, other=300)
    lengths = [state.layer(p).rule.bin_length for p in model.parameters()]
    assert lengths == [30, 30] + [300] * (len(lengths) - 2)
    with pytest.raises(ValueError, match=r"a parameter of shape \(2,\) is not of the model"):
        state.layer(torch.zeros(2))


def test_complex_parameters_are_refused() -> None:
    """Buckets have their real and imaginary parts in twice as many elements as the hook would be told of."""
    model = torch.nn.Linear(2, 3, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"weight is complex64.* real"):
        AdaCompState(model)
    AdaCompState(model.requires_grad_(False))


def test_a_loss_scale_that_changes() -> None:
    state = AdaCompState(learners.model())
    state.residues = {"0.bias": torch.tensor([3.0, -0.5])}
    state.rescale(0.5)
    assert state.residues["0.bias"].tolist() == [1.5, -0.25]
    with pytest.raises(ValueError, match="the factor is 0, but it must be positive and finite"):
        state.rescale(0)


def test_states_that_do_not_fit() -> None:
    state = AdaCompState(learners.model())
    stored = state.state_dict()
    with pytest.raises(ValueError, match="of version 2, but this quaver reads 1"):
        state.load_state_dict(stored | {"version": 2})
    with pytest.raises(ValueError, match=r"'conv': 50.*but here it is .*'conv': 40"):
        AdaCompState(learners.model(), conv=40).load_state_dict(stored)
    with pytest.raises(ValueError, match=r"a residue 0.weight of \(3,\), which the model has not"):
        state.load_state_dict(stored | {"residues": {"0.weight": torch.zeros(3)}})
    with pytest.raises(ValueError, match=r"a residue 0.bias of float16, but they are float32"):
        state.load_state_dict(stored | {"residues": {"0.bias": torch.zeros(30).half()}})
    with pytest.raises(ValueError, match="the state is of None, but here"):
        state.load_state_dict({"version": 1})
    with pytest.raises(ValueError, match="the bin length is 0"):
        AdaCompState(learners.model(), conv=0)
    assert state.rate == 1
