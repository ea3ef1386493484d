"""Whole models: what convert makes of them, and what rounds while they run."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from resnet import BasicBlock, ResNet
from shakespeare import CharacterTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import quaver
import quaver.torch as qt
from quaver.golden.nn import recipes
from quaver.golden.nn.recipe import Precision
from quaver.golden.planning.planned_recipe import planned
from quaver.torch.elementwise import Elementwise, _active
from quaver.torch.seeds import SEEDS

FP8 = recipes.fp8


def grid(x: Tensor) -> bool:
    return qt.round(x.detach(), "fp16").equal(x.detach())


def test_resnet18_keeps_its_names_and_shapes() -> None:
    model = ResNet(1000)
    names = {name: parameter.shape for name, parameter in model.state_dict().items()}
    assert len(names) == 122  # torchvision's
    assert names["layer3.0.downsample.0.weight"] == (256, 128, 1, 1)
    report = qt.convert(model, FP8)
    assert {name: p.shape for name, p in model.state_dict().items()} == names
    model.load_state_dict(ResNet(1000).state_dict())
    gemms = [row for row in report.converted if row.kind in ("Conv2d", "Linear")]
    assert len(gemms) == 21
    assert len(report.converted) == 41
    assert (gemms[0].name, gemms[-1].name) == ("conv1", "fc")
    assert gemms[0].why.startswith("first: e6m9")
    assert gemms[-1].why == "last: e6m9 into e6m9"
    assert {row.why for row in gemms[1:-1]} == {"hidden: e5m2sat into e6m9"}
    assert {row.kind for row in report.left} == {"ReLU", "MaxPool2d", "AdaptiveAvgPool2d"}
    assert "layer4.1.conv2" in str(report)


def test_a_step_of_resnet18_is_on_the_grid_everywhere() -> None:
    torch.manual_seed(1)
    model = ResNet(10, width=8)
    qt.convert(model, FP8)
    values: dict[str, Tensor] = {}
    errors: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def called(module: nn.Module, args: Any, y: Tensor) -> None:
            values[name] = y.detach().clone()
            y.register_hook(lambda error: errors.__setitem__(name, error.clone()))

        return called

    for name, module in model.named_modules():
        module.register_forward_hook(watch(name))
        if isinstance(module, nn.ReLU):
            module.inplace = False
    logits = model(torch.randn(4, 3, 32, 32))
    (1000 * quaver.torch.cross_entropy(logits, torch.arange(4), FP8)).backward()
    assert len(values) == len(errors) > 60
    assert [name for name, y in values.items() if not grid(y)] == []
    # PyTorch adds up the errors of a fork in float32; where they arrive next, they are rounded.
    off = {name for name, error in errors.items() if not grid(error)}
    assert all(name.endswith("relu") or name == "maxpool" or name.count(".") <= 1 for name in off), off
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


def test_first_and_last_follow_the_run_where_there_is_an_example() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.stem = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.stem(x)))

    model = Backwards()
    assert [row.why.split(":")[0] for row in qt.convert(model, FP8)] == ["first", "hidden", "last"]
    again = qt.convert(model, FP8, torch.zeros(1, 3))
    assert [row.why.split(":")[0] for row in again] == ["last", "hidden", "first"]
    assert model.training


def test_layers_and_plans_are_followed() -> None:
    model = ResNet(10, width=8)
    shape = qt.shapes(model, torch.zeros(2, 3, 32, 32), batch=128)
    recipe = planned(recipes.fp8_everywhere, quaver.plan(shape))
    qt.convert(model, recipe)
    for name, layer in model.named_modules():
        if name in recipe.layers:
            assert f'"mantissa_bits": {recipe.layers[name].forward.accumulator.mantissa_bits}' in (
                layer.numerics.forward.arithmetic
            )
    assert len({gemm for layer in recipe.layers.values() for gemm in (layer.forward, layer.gradient)}) > 1
    with pytest.raises(ValueError, match=r"layer conv9.*ResNet has conv1"):
        qt.convert(model, FP8.replace(layers={"conv9": Precision()}))


class Odd(nn.Module):
    """One of each thing that convert leaves."""

    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.up = nn.ConvTranspose2d(1, 1, 2)
        self.rnn = nn.LSTM(4, 4)
        self.own = self.Own(4, 4)
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.table = nn.Embedding(3, 4)
        self.attention = nn.MultiheadAttention(4, 2, kdim=3)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 2)


def test_what_is_left_and_why() -> None:
    report = {row.name: row for row in qt.convert(Odd(), FP8)}
    assert [name for name, row in report.items() if row.converted] == ["inner", "attention.out_proj", "out"]
    for name, words in {
        "up": "a GEMM in float32",
        "rnn": "a GEMM in float32",
        "own": "a class of its own",
        "normed": "a class of its own",
        "table": "a look-up, exact",
        "attention": "another width",
        "norm": "rounds to e6m9",
    }.items():
        assert words in report[name].why, report[name]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU()), "nothing to convert"),
        (nn.Sequential(nn.LazyLinear(3)), "0 of Sequential has no weights yet"),
        (nn.Sequential(nn.Linear(2, 2).double()), r"0.weight is torch.float64.*float\(\)"),
        (nn.Sequential(nn.Linear(2, 2).half()), r"0.weight is torch.float16.*float\(\)"),
    ],
)
def test_bad_models(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qt.convert(model, FP8)
    assert not any(isinstance(module, qt.Linear) for module in model.modules())


@pytest.mark.parametrize("recipe", [recipes.mxfp8, recipes.nvfp4], ids=lambda recipe: recipe.name)
def test_casts_in_blocks_are_refused(recipe: quaver.Recipe) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))  # the middle one is cast so
    with pytest.raises(
        ValueError, match=f"inputs of the recipe {recipe.name} are cast to .*, in blocks with"
    ):
        qt.convert(model, recipe)
    assert not any(isinstance(module, qt.Linear) for module in model.modules())


def test_one_layer_is_a_model() -> None:
    layer = nn.Linear(4, 2)
    assert [row.why.split(":")[0] for row in qt.convert(layer, FP8)] == ["last"]
    assert isinstance(layer, qt.Linear)


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    qt.convert(model, FP8)
    assert model[1].weight is model[0].weight
    model(torch.tensor([[1, 2]])).sum().backward()
    assert model[0].weight.grad is not None


def test_converted_again_a_model_forgets() -> None:
    torch.manual_seed(1)
    model, x = ResNet(10, width=8).eval(), torch.randn(2, 3, 32, 32)
    before = model(x)
    qt.convert(model, FP8)
    eight = model(x)
    assert not eight.equal(before)
    qt.convert(model, recipes.fp32)
    assert torch.allclose(model(x), before, atol=1e-3)
    qt.convert(model, FP8)
    assert model(x).equal(eight)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    return nn.Sequential(
        nn.Embedding(20, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 20)
    )


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "causal", "bool"])
def test_attention_is_pytorchs_in_float32(batch_first: bool, mask: str | None) -> None:
    torch.manual_seed(1)
    plain = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    mine = copy.deepcopy(plain)
    qt.convert(mine, recipes.fp32)
    x = torch.randn(3, 5, 8)
    tokens = x.shape[1 if batch_first else 0]
    batch = x.shape[0 if batch_first else 1]
    attn = {
        None: None,
        "causal": nn.Transformer.generate_square_subsequent_mask(tokens),
        "bool": torch.rand(batch * 2, tokens, tokens) > 0.7,
    }[mask]
    if attn is not None and attn.dtype == torch.bool:
        attn[:, :, 0] = False
    padding = torch.zeros(batch, tokens, dtype=torch.bool)
    padding[0, -1] = True
    padding_mask = padding if mask is None else None
    for need, average in ((True, True), (True, False), (False, True)):
        options = dict(need_weights=need, average_attn_weights=average, attn_mask=attn)
        y, w = mine(x, x, x, key_padding_mask=padding_mask, **options)
        expected, weights = plain(x, x, x, key_padding_mask=padding_mask, **options)
        assert torch.allclose(y, expected, atol=1e-5)
        assert (w is None) == (weights is None)
        assert w is None or torch.allclose(w, weights, atol=1e-5)
    assert torch.allclose(mine(x[0], x[0], x[0])[0], plain(x[0], x[0], x[0])[0], atol=1e-5)


def test_transformers_convert() -> None:
    torch.manual_seed(1)
    tokens = torch.randint(20, (2, 7))
    for model in (transformer(), CharacterTransformer(20, 8, 16, 2, 2)):
        plain = copy.deepcopy(model)
        report = qt.convert(model, FP8)
        assert len(report.converted) == 9
        logits, expected = model(tokens), plain(tokens)
        assert 0 < (logits - expected).abs().mean() < 0.1 * expected.abs().mean()
        assert grid(logits)
        functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        model.eval()
        with torch.no_grad():  # PyTorch's own fast path would go around the layers
            assert model(tokens).equal(logits)


# Rounding between GEMMs.

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
Y = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: x - 2 * y,
        lambda x, y: (1 - x) / (1 + y * y),
        lambda x, y: x**2 * y,
        lambda x, y: torch.add(x, y, alpha=0.3),
        lambda x, y: x.softmax(-1),
        lambda x, y: functional.gelu(x) * functional.silu(y),
        lambda x, y: functional.layer_norm(x, (6,), y[0], y[1]),
        lambda x, y: x.mean(0) + x.std(1, keepdim=True),
        lambda x, y: torch.lerp(x, y, 0.3),
        lambda x, y: torch.tanh(x).sigmoid(),
        lambda x, y: functional.avg_pool1d(x, 3),
    ],
)
def test_every_operation_is_rounded_once_from_float64(function: Any) -> None:
    """One operation at a time by hand would be another test of the same; here: each result is the operation's
    own on float64 operands, rounded, wherever it is one operation, and on the grid where there are more."""
    x, y = (qt.round(v, "fp16").requires_grad_() for v in (X, Y))
    with qt.elementwise(FP8):
        z = function(x, y)
    wide = function(x.detach().double(), y.detach().double())
    assert grid(z)
    assert torch.allclose(z.double(), wide, rtol=1e-2, atol=1e-3)
    error = qt.round(torch.randn_like(z), "fp16")
    for gradient in torch.autograd.grad(z, (x, y), error, allow_unused=True):
        assert gradient is None or qt.round(gradient, "fp16").allclose(gradient, rtol=1e-3)


def test_a_sum_is_rounded_from_float64_and_so_is_its_gradient() -> None:
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    with qt.elementwise(FP8):
        z = x * y
    assert z.equal(qt.round(X.double() * Y.double(), "fp16"))
    error = torch.randn(4, 6)
    dx, _ = torch.autograd.grad(z, (x, y), error)
    assert dx.equal(qt.round(qt.round(error, "fp16").double() * Y.double(), "fp16"))


def test_changes_in_place_change_what_they_name() -> None:
    x = qt.round(X, "fp16")
    with qt.elementwise(FP8):
        z = x.clone()
        row = z[0]
        row.mul_(0.3)
        z += Y
        same = functional.silu(z[1], inplace=True)
    expected = x.clone()
    expected[0] = qt.round(x[0].double() * 0.3, "fp16")
    expected = qt.round(expected.double() + Y.double(), "fp16")
    silu = qt.round(functional.silu(expected[1].double()), "fp16")
    assert same.equal(silu)
    expected[1] = silu
    assert z.equal(expected)
    model = nn.Sequential(nn.LeakyReLU(0.3, inplace=True), nn.Linear(6, 6))  # gives `inplace` by position
    qt.convert(model, FP8)
    model(z)
    assert z.equal(qt.round(functional.leaky_relu(expected.double(), 0.3), "fp16"))


def test_what_is_exact_or_no_number_is_left_alone() -> None:
    with qt.elementwise(FP8):
        assert torch.cat([X, Y]).equal(torch.cat([X, Y]))
        assert torch.arange(5000).sum().item() == 12497500
        assert (torch.tensor([4097]) + 1).item() == 4098
        assert torch.relu(X).equal(X.clamp(min=0))
        assert X.max(1).values.equal(X.amax(1))
        loss = functional.cross_entropy(X, torch.tensor([1, 2, 3, 4]))
    assert loss.dtype == torch.float32
    assert not grid(loss)  # reported, never rounded


@pytest.mark.parametrize(
    "function",
    [
        torch.arcsinh,
        torch.Tensor.arctan,
        torch.special.expit,
        torch.Tensor.lgamma,
        lambda x: torch.special.softmax(x, -1),
        lambda x: torch.softmax(x, -1, dtype=torch.float32),
        lambda x: functional.softmax(x, -1, 3, torch.float32),
        lambda x: x.sum(0, dtype=torch.float32),
        torch.nansum,
        lambda x: torch.linalg.vector_norm(x, dim=1),
        lambda x: torch.linalg.norm(x),
        lambda x: torch.outer(x[0], x[1]),
        lambda x: torch.diff(x),
        lambda x: x % 0.3,
        lambda x: x.index_add(0, torch.tensor([0, 0, 1]), x[:3]),
        lambda x: x.scatter_add(0, torch.zeros(4, 6, dtype=torch.int64), x),
        lambda x: torch.var_mean(x, 1)[0],
        lambda x: torch.std_mean(x, 1)[1],
        lambda x: functional.embedding_bag(torch.tensor([[0, 1, 3]]), x),
        lambda x: functional.fold(x[None, :, :4], (3, 3), (2, 2)),
    ],
)
def test_a_function_by_any_name_is_rounded_once(function: Any) -> None:
    x = qt.round(X, "fp16")
    with qt.elementwise(FP8):
        found = function(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)  # what the functions above say
        expected = function(x.double())
    assert found.dtype == torch.float32
    assert torch.equal(found.nan_to_num(), qt.round(expected, "fp16").nan_to_num())


def test_a_result_has_a_place_of_its_own_where_one_is_given() -> None:
    out, product = torch.empty(0), torch.empty(4, 4)
    x, y = qt.round(X, "fp16"), qt.round(Y, "fp16")
    with qt.elementwise(FP8):
        assert torch.add(x, y, out=out) is out
        torch.matmul(x, y.T, out=product)
    assert out.equal(qt.round(x.double() + y.double(), "fp16"))
    assert product.equal(qt.matmul(x, y.T, FP8))


def test_plain_products_become_quavers() -> None:
    with qt.elementwise(FP8):
        for product in (
            *(X @ Y.T, torch.matmul(X, Y.T), X.mm(Y.T), torch.bmm(X[None], Y.T[None])[0]),
            *(torch.matmul(other=Y.T, input=X), torch.mm(X, mat2=Y.T), X.matmul(other=Y.T)),
            *(torch.bmm(input=X[None], mat2=Y.T[None])[0], torch.linalg.matmul(X, Y.T)),
        ):
            assert product.equal(qt.matmul(X, Y.T, FP8))
        assert (X @ Y[0]).equal(qt.matmul(X, Y.T, FP8)[:, 0])
        assert (X[0] @ Y.T).equal(qt.matmul(X, Y.T, FP8)[0])
        assert torch.matmul(X[0], Y[0]).equal(qt.matmul(X, Y.T, FP8)[0, 0])
    with pytest.warns(UserWarning, match="einsum computes in float32"), qt.elementwise(FP8):
        assert grid(torch.einsum("ik,jk->ij", X, Y))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_what_recurrent_modules_give_is_rounded(kind: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.kept = nn.Linear(6, 6), kind(6, 6)

        def forward(self, x: Tensor) -> Any:
            return self.kept(self.first(x))

    model = Model()
    qt.convert(model, FP8)
    with pytest.warns(UserWarning, match="computes in float32"):
        results = torch.utils._pytree.tree_leaves(model(X))
    assert results
    assert all(map(grid, results))


def test_scaled_dot_product_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(5))
    masks: list[dict[str, Any]] = [
        {},
        dict(is_causal=True),
        dict(attn_mask=torch.rand(5, 5) > 0.4, scale=0.2),
        dict(attn_mask=torch.randn(5, 5)),
    ]
    for options in masks:
        if "attn_mask" in options and options["attn_mask"].dtype == torch.bool:
            options["attn_mask"].fill_diagonal_(True)
        with qt.elementwise(recipes.fp32):
            mine = functional.scaled_dot_product_attention(query=q, key=k, value=v, **options)
        expected = functional.scaled_dot_product_attention(q, k, v, **options)
        assert torch.allclose(mine, expected, atol=1e-5)
        with qt.elementwise(recipes.dlfloat):  # no infinity to mask with
            assert torch.isfinite(functional.scaled_dot_product_attention(q, k, v, **options)).all()


@pytest.mark.parametrize("recipe", [recipes.fp32, FP8, recipes.dlfloat], ids=lambda r: r.name)
def test_a_query_without_keys_attends_to_nothing(recipe: quaver.Recipe) -> None:
    """As in PyTorch, where a batch has an entry that is all padding: zeros, and gradients that are finite."""
    torch.manual_seed(1)
    x, seen = torch.randn(2, 5, 8, requires_grad=True), torch.ones(2, 5, 5, dtype=torch.bool)
    seen[1, 2] = False
    for mask in (seen, torch.zeros(2, 5, 5).masked_fill(~seen, float("-inf"))):
        with qt.elementwise(recipe):
            y = functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        expected = functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        assert torch.allclose(y, expected, atol=0.5)
        assert y[1, 2].eq(0).all()
        assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()

    plain = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    mine, padding = copy.deepcopy(plain), torch.tensor([[False] * 5, [True] * 5])
    qt.convert(mine, recipe)
    y, expected = (model(x, src_key_padding_mask=padding) for model in (mine, plain))
    assert torch.isfinite(expected).all()
    assert torch.allclose(y, expected, atol=0.2)
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in mine.parameters())
    with pytest.raises(ValueError, match="both given"), qt.elementwise(recipe):
        functional.scaled_dot_product_attention(x, x, x, attn_mask=seen, is_causal=True)


def test_an_error_leaves_nothing_behind() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    qt.convert(model, FP8)
    with pytest.raises(ValueError, match="input has shape"):
        model(torch.ones(2, 5))
    assert not _active.stack
    assert (X + Y).equal(X + Y)
    assert not grid(X + Y)


@pytest.mark.parametrize("where", ["forward", "hook", "caught"])
def test_an_interruption_leaves_nothing_behind(where: str) -> None:
    """PyTorch calls no hook after a Ctrl-C, and `After` without `Before` where another hook fails first."""

    class Interrupted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    class Outer(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if where != "caught":
                return super().forward(x)
            with pytest.raises(KeyboardInterrupt):
                super().forward(x)
            return x * 0.1

    model = Outer(nn.Linear(6, 6), nn.Sequential(Interrupted()))
    qt.convert(model, FP8)
    if where == "hook":

        def fails(module: nn.Module, args: Any) -> None:
            raise KeyError("a hook's")

        model[1].register_forward_pre_hook(fails, prepend=True)
    for _ in range(2):
        if where == "caught":
            assert model(X).equal(qt.round(X.double() * 0.1, "fp16"))
        else:
            with pytest.raises((KeyboardInterrupt, KeyError)):
                model(X)
        assert (X * Y).equal(torch.mul(X, Y))
        assert not grid(X * Y)
        with qt.elementwise(FP8):
            assert grid(X * Y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outer, "forward", nn.Sequential.forward)
        model[1] = nn.ReLU()
        assert grid(model(X))
    assert not _active.stack
    assert not torch.overrides._get_current_function_mode_stack()


def test_models_inside_models_keep_their_recipes() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * 0 + x + 1 / 3

    inner, outer = Sum(), nn.Sequential(Sum())
    qt.convert(inner, FP8.replace(elementwise=quaver.BFLOAT16))
    qt.convert(outer, FP8)
    outer.append(inner)
    y = outer(X)
    assert qt.round(y, quaver.BFLOAT16).equal(y)
    assert y.equal(inner(outer[0](X)))


def test_threads_do_not_meet() -> None:
    torch.manual_seed(1)
    model = CharacterTransformer(20, 8, 16, 2, 1)
    qt.convert(model, FP8)
    tokens = torch.randint(20, (2, 7))
    expected, found = model(tokens), []
    threads = [threading.Thread(target=lambda: found.append(model(tokens))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(y.equal(expected) for y in found)


def test_activation_checkpointing_changes_nothing() -> None:
    torch.manual_seed(1)
    model = CharacterTransformer(20, 8, 16, 2, 2)
    qt.convert(model, FP8)
    tokens = torch.randint(20, (2, 7))
    model(tokens).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    x = model.characters(tokens) + model.places(torch.arange(7))
    with qt.elementwise(FP8):
        x = model.characters(tokens) + model.places(torch.arange(7))
    for block in model.blocks:
        x = checkpoint(block, x, use_reentrant=False)
    model.head(model.norm(x)).square().sum().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        assert p.grad.equal(gradient)


def test_what_is_computed_again_draws_what_it_drew() -> None:
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(1)
        parts = [nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300)) for _ in range(2)]
        for part in parts:
            qt.convert(part, recipes.fp8_everywhere_stochastic)
        x = y = torch.randn(5, 300, requires_grad=True)
        with qt.seeded(1):
            for part in parts:
                options = dict(use_reentrant=False, context_fn=qt.checkpoint_contexts)
                y = checkpoint(part, y, **options) if checkpointed else part(y)
            y.square().sum().backward()
            calls = SEEDS.state()
        found.append((y, x.grad, *(p.grad for part in parts for p in part.parameters()), calls))
    (*one, calls), (*other, others) = found
    assert all(a.equal(b) for a, b in zip(one, other, strict=True))
    assert calls == others


def small_resnet() -> nn.Module:
    return nn.Sequential(BasicBlock(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("make", [small_resnet, lambda: CharacterTransformer(20, 8, 16, 2, 1)])
def test_compiled_a_model_gives_the_same_bits(make: Any, backend: str) -> None:
    torch.manual_seed(1)
    model = make()
    qt.convert(model, FP8)
    x = torch.randint(20, (2, 8)) if isinstance(model, CharacterTransformer) else torch.randn(2, 3, 9, 9)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    for _ in range(2):
        y, z = model(x), compiled(x)
        assert z.equal(y)
        y.square().sum().backward()
        z.square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert q.grad.equal(p.grad)
    assert not _active.stack


class TwoAlike(nn.Module):
    """Calls that a compiler takes for one, and one whose result nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused, self.images = nn.Linear(300, 8), nn.Linear(300, 8), nn.Conv1d(1, 2, 99)

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        seen = self.images(x[:, None]) + 2 * self.images(x[:, None])
        return torch.cat([self.layer(x) + 2 * self.layer(x), seen.flatten(1)], 1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_a_model_draws_the_same(backend: str) -> None:
    recipe = recipes.fp8_everywhere_stochastic
    found = []
    for compiled in (False, True):
        torch.manual_seed(1)
        model = TwoAlike()
        qt.convert(model, recipe)
        run = torch.compile(model, fullgraph=True, backend=backend) if compiled else model
        x = torch.randn(5, 300, requires_grad=True)
        with qt.seeded(1):
            for _ in range(2):
                y = run(x)
                y.square().sum().backward()
        found.append([y.detach(), x.grad, model.layer.weight.grad, model.images.weight.grad])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_copies_and_pickles_compute_the_same() -> None:
    torch.manual_seed(1)
    model = ResNet(10, width=8)
    qt.convert(model, FP8)
    x = torch.randn(2, 3, 32, 32)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    expected = model(x)
    for each in copies:
        assert each(x).equal(expected)
        modes = {hook.mode for m in each.modules() for hook in m._forward_pre_hooks.values()}
        assert len(modes) == 1
        assert isinstance(modes.pop(), Elementwise)
