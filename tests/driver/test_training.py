# SPDX-License-Identifier: Apache-2.0
"""Gradients of networks: compiled and interpreted, against torch.autograd; training; errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import heddle
from heddle import op, te
from heddle.graph import CallDPS, Function, GraphBuilder, GraphExpr, Tuple, Var, verify_module
from heddle.ir import GlobalVar, IRModule, TensorType
from heddle.ir.expr import Var as Symbol
from heddle.op.interp import interpret
from heddle.op.registry import operator
from heddle.support import Span, UserError

# float32 sums of up to a few hundred products, in another order than torch's.
TOLERANCE = 2e-5

Body = Callable[..., GraphExpr]


def build(body: Body, name: str = "main", **shapes: tuple[Any, ...]) -> IRModule:
    """A module whose `main` computes `body` of float32 parameters of these names and shapes
    (parameters named `labels` are int64)."""
    builder = GraphBuilder(name)
    params = {
        key: builder.param(key, TensorType.of(shape, "int64" if key == "labels" else "float32"))
        for key, shape in shapes.items()
    }
    return IRModule({"main": builder.finish(body(**params))})


def draw(module: IRModule, **symbols: int) -> dict[str, np.ndarray]:
    """Random inputs of `main`."""
    rng = np.random.default_rng(5)
    feeds = {}
    for param in main_of(module).params:
        shape = [getattr(d, "value", None) or symbols[d.name] for d in param.type.shape]
        if param.type.dtype.is_int:
            feeds[param.name] = rng.integers(0, 4, shape)
        else:
            feeds[param.name] = rng.uniform(-1, 1, shape).astype(np.float32)
    return feeds


def main_of(module: IRModule) -> Function:
    found = module["main"]
    assert isinstance(found, Function)
    return found


def check_against_torch(
    module: IRModule, reference: Callable[..., Any], feeds: Mapping[str, np.ndarray]
) -> None:
    """Value and gradients by all parameters of floats: interpreted and compiled, against torch."""
    torch = pytest.importorskip("torch", reason="gradients are compared with torch.autograd")
    tensors = {name: torch.tensor(value) for name, value in feeds.items()}
    wrt = [name for name, value in feeds.items() if value.dtype == np.float32]
    for name in wrt:
        tensors[name].requires_grad_()
    value = reference(torch, **tensors)
    value.backward()
    wanted = [value.detach().numpy(), *(tensors[name].grad.numpy() for name in wrt)]
    differentiated = heddle.value_and_grad(module, wrt)
    verify_module(differentiated)
    results = {
        "interpreted": interpret(differentiated, feeds),
        "compiled": [r.numpy() for r in heddle.compile(differentiated)(**feeds)],
    }
    for how, found in results.items():
        for name, got, expected in zip(["loss", *wrt], found, wanted, strict=True):
            near = TOLERANCE * max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(got, expected, rtol=0, atol=near, err_msg=f"{how} {name}")


def cross_entropy(logits: GraphExpr, labels: GraphExpr) -> GraphExpr:
    """The mean over rows of the negative logarithm of the label's probability."""
    log_probabilities = op.log_softmax(logits)
    picked = op.gather_elements(log_probabilities, op.unsqueeze(labels, axes=(1,)), axis=1)
    return -op.mean(picked)


# -- networks --------------------------------------------------------------------------------


def test_mlp() -> None:
    def body(x: Var, w1: Var, b1: Var, w2: Var, b2: Var, labels: Var) -> GraphExpr:
        return cross_entropy(op.relu(x @ w1 + b1) @ w2 + b2, labels)

    def reference(torch: Any, x, w1, b1, w2, b2, labels) -> Any:
        logits = torch.relu(x @ w1 + b1) @ w2 + b2
        return torch.nn.functional.cross_entropy(logits, labels)

    shapes = {"x": (16, 20), "w1": (20, 32), "b1": (32,), "w2": (32, 4), "b2": (4,)}
    module = build(body, **shapes, labels=(16,))
    check_against_torch(module, reference, draw(module))


def test_convolutional_network() -> None:
    def body(x, k1, c1, scale, shift, k2, up, w, labels) -> GraphExpr:
        h = op.conv(x, k1, c1, pads=(1, 1, 1, 1))
        h = op.relu(op.group_norm(h, scale, shift, num_groups=2))
        h = op.max_pool(h, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
        h = op.silu(op.conv(h, k2, strides=(2, 2), pads=(1, 1, 1, 1), groups=2))
        h = op.conv_transpose(h, up, strides=(2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1))
        h = op.avg_pool(h, kernel=(2, 2), strides=(2, 2), pads=(1, 0, 0, 1))
        return cross_entropy(op.mean(h, axes=(2, 3)) @ w, labels)

    def reference(torch: Any, x, k1, c1, scale, shift, k2, up, w, labels) -> Any:
        f = torch.nn.functional
        h = f.conv2d(x, k1, c1, padding=1)
        h = f.max_pool2d(f.relu(f.group_norm(h, 2, scale, shift)), 3, 2, 1)
        h = f.silu(f.conv2d(h, k2, stride=2, padding=1, groups=2))
        h = f.conv_transpose2d(h, up, stride=2, padding=1, output_padding=1)
        h = f.pad(h, (0, 1, 1, 0))
        ones = f.pad(torch.ones_like(h[:, :, 1:, :-1]), (0, 1, 1, 0))
        h = f.avg_pool2d(h, 2, 2) / f.avg_pool2d(ones, 2, 2)
        return f.cross_entropy(h.mean((2, 3)) @ w, labels)

    module = build(
        body,
        x=(2, 3, 12, 10),
        k1=(8, 3, 3, 3),
        c1=(8,),
        scale=(8,),
        shift=(8,),
        k2=(12, 4, 3, 3),
        up=(12, 6, 3, 3),
        w=(6, 4),
        labels=(2,),
    )
    check_against_torch(module, reference, draw(module))


def _heads(x: GraphExpr, count: int) -> GraphExpr:
    split = op.reshape(x, shape=(2, 6, count, -1))
    return op.transpose(split, permutation=(0, 2, 1, 3))


def test_transformer_block() -> None:
    def body(table, tokens_, wq, wk, wv, wo, g1, b1, g2, w1, w2, w, labels) -> GraphExpr:
        x = op.gather(table, op.reshape(labels, shape=(2, 6))) + tokens_
        h = op.layer_norm(x, g1, b1)
        q, k, v = (_heads(h @ weight, 2) for weight in (wq, wk, wv))
        scores = op.matmul(q, k, transpose_b=True) * 0.5
        causal = np.triu(np.full((6, 6), -1e9, np.float32), 1)
        mixed = op.softmax(scores + causal) @ v
        x = x + op.reshape(op.transpose(mixed, permutation=(0, 2, 1, 3)), shape=(2, 6, 8)) @ wo
        x = x + op.gelu(op.rms_norm(x, g2) @ w1) @ w2
        return cross_entropy(op.reshape(x @ w, shape=(12, -1)), labels)

    def reference(torch: Any, table, tokens_, wq, wk, wv, wo, g1, b1, g2, w1, w2, w, labels) -> Any:
        f = torch.nn.functional
        x = table[labels.reshape(2, 6)] + tokens_
        h = f.layer_norm(x, (8,), g1, b1)
        q, k, v = ((h @ m).reshape(2, 6, 2, 4).transpose(1, 2) for m in (wq, wk, wv))
        mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.5)
        x = x + mixed.transpose(1, 2).reshape(2, 6, 8) @ wo
        x = x + f.gelu(f.rms_norm(x, (8,), g2, eps=1e-5) @ w1) @ w2
        return f.cross_entropy((x @ w).reshape(12, -1), labels)

    module = build(
        body,
        table=(5, 8),
        tokens_=(6, 8),
        wq=(8, 8),
        wk=(8, 8),
        wv=(8, 8),
        wo=(8, 8),
        g1=(8,),
        b1=(8,),
        g2=(8,),
        w1=(8, 24),
        w2=(24, 8),
        w=(8, 5),
        labels=(12,),
    )
    check_against_torch(module, reference, draw(module))


def test_symbolic_batch() -> None:
    n = Symbol("n")

    def body(x: Var, w: Var, b: Var) -> GraphExpr:
        h = op.layer_norm(op.tanh(x @ w + b))
        return op.mean(op.softmax(op.slice(h, starts=(1,), ends=(5,), axes=(1,))) ** 2.0)

    def reference(torch: Any, x, w, b) -> Any:
        h = torch.nn.functional.layer_norm(torch.tanh(x @ w + b), (6,))
        return (torch.softmax(h[:, 1:5], -1) ** 2).mean()

    module = build(body, x=(n, 4), w=(4, 6), b=(6,))
    check_against_torch(module, reference, draw(module, n=7))


def test_symbolic_embedding() -> None:
    """Rows of a table of any size, read at any number of places, some of them twice."""
    rows, n = Symbol("rows"), Symbol("n")

    def body(table: Var, w: Var, labels: Var) -> GraphExpr:
        return op.mean(op.tanh(op.gather(table, labels) @ w) ** 2.0)

    def reference(torch: Any, table, w, labels) -> Any:
        return (torch.tanh(table[labels] @ w) ** 2).mean()

    module = build(body, table=(rows, 3), w=(3, 2), labels=(n,))
    for size, count in ((5, 9), (40, 3)):
        check_against_torch(module, reference, draw(module, rows=size, n=count))


def test_attention_and_its_grouped_heads() -> None:
    def body(q: Var, k: Var, v: Var) -> GraphExpr:
        mixed = op.attention(q, k, v, scale=0.4, causal=True)
        return op.sum(mixed * mixed)

    def reference(torch: Any, q, k, v) -> Any:
        attend = torch.nn.functional.scaled_dot_product_attention
        return (attend(q, k, v, is_causal=True, scale=0.4, enable_gqa=True) ** 2).sum()

    module = build(body, q=(2, 4, 7, 8), k=(2, 2, 7, 8), v=(2, 2, 7, 6))
    check_against_torch(module, reference, draw(module))


def test_one_known_row_of_a_table() -> None:
    """The index is a constant of one element, which stays in the kernel of the scatter."""
    module = build(lambda table: op.sum(op.gather(table, np.array([1])) ** 2.0), table=(4, 3))
    feeds = draw(module)
    found = heddle.compile(heddle.grad(module, "table"))(**feeds).numpy()
    wanted = np.zeros((4, 3), np.float32)
    wanted[1] = 2 * feeds["table"][1]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_training_lowers_the_loss() -> None:
    """Two classes that no line separates; one compiled step of stochastic gradient descent."""

    def body(x: Var, labels: Var, w1: Var, b1: Var, w2: Var, b2: Var) -> GraphExpr:
        return cross_entropy(op.tanh(x @ w1 + b1) @ w2 + b2, labels)

    module = build(body, x=(64, 2), labels=(64,), w1=(2, 16), b1=(16,), w2=(16, 2), b2=(2,))
    names = ["w1", "b1", "w2", "b2"]
    step = heddle.compile(heddle.value_and_grad(module, names))
    rng = np.random.default_rng(0)
    weights = {
        p.name: rng.normal(0, 0.5, p.type.static_shape).astype(np.float32)
        for p in main_of(module).params
        if p.name in names
    }
    losses = []
    for _ in range(300):
        x = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
        labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
        loss, *gradients = step(x=x, labels=labels, **weights)
        losses.append(float(loss.numpy()))
        for name, gradient in zip(names, gradients, strict=True):
            weights[name] -= 0.5 * gradient.numpy()
    assert losses[0] > 0.6
    assert np.mean(losses[-20:]) < 0.25


# -- what the result is ----------------------------------------------------------------------


def _product(x: Var, w: Var) -> GraphExpr:
    return op.sum(x @ w)


def test_one_name_gives_one_gradient() -> None:
    module = build(_product, x=(3, 4), w=(4, 2))
    assert isinstance(main_of(heddle.grad(module, "w")).result, Var)
    both = main_of(heddle.grad(module)).result
    assert isinstance(both, Tuple)
    assert [field.type.static_shape for field in both.fields] == [(3, 4), (4, 2)]


def test_unused_parameters_get_zeros() -> None:
    n = Symbol("n")
    module = build(lambda x, w, labels: op.sum(x), x=(n,), w=(n, 3), labels=(2,))
    feeds = draw(module, n=4)
    d_x, d_w = heddle.compile(heddle.grad(module))(**feeds)
    np.testing.assert_array_equal(d_x.numpy(), np.ones(4))
    np.testing.assert_array_equal(d_w.numpy(), np.zeros((4, 3)))


def test_contributions_add_up() -> None:
    module = build(lambda x: op.sum(x * x + x), x=(5,))
    feeds = draw(module)
    found = heddle.compile(heddle.grad(module, "x"))(**feeds).numpy()
    np.testing.assert_allclose(found, 2 * feeds["x"] + 1, rtol=1e-6)


def test_which_result_and_cotangent() -> None:
    def body(x: Var) -> GraphExpr:
        return Tuple((op.exp(x), op.sum(x)))

    module = build(body, x=(3,))
    feeds = draw(module)
    values = interpret(heddle.value_and_grad(module, of=1), feeds)
    assert [v.shape for v in values] == [(3,), (), (3,)]
    dout = np.asarray([1.0, -2.0, 0.5], np.float32)
    found = interpret(heddle.vjp(module, "x", of=0), {**feeds, "dout": dout})
    np.testing.assert_allclose(found, dout * np.exp(feeds["x"]), rtol=1e-6)


def test_second_order() -> None:
    module = build(lambda x: op.sum(op.sin(x) * x), x=(4,))
    first = heddle.grad(module, "x")
    builder = GraphBuilder.continuing(main_of(first))
    total = builder.emit(op.sum(main_of(first).result))
    second = heddle.grad(IRModule({"main": builder.finish(total)}), "x")
    feeds = draw(module)
    found = heddle.compile(second)(**feeds).numpy()
    x = feeds["x"]
    np.testing.assert_allclose(found, 2 * np.cos(x) - x * np.sin(x), rtol=2e-6, atol=2e-6)


def test_called_functions_are_looked_into() -> None:
    n = Symbol("n")
    inner = GraphBuilder("scaled")
    a = inner.param("a", TensorType.of((n, 3), "float32"))
    flat = op.reshape(a * a, shape=(n * 3,))
    scaled = inner.finish(inner.emit(flat))
    outer = GraphBuilder("main")
    x = outer.param("x", TensorType.of((4, 3), "float32"))
    from heddle.graph import Call

    call = Call(GlobalVar("scaled"), (x,), {}, TensorType.of((12,), "float32"))
    total = outer.emit(op.sum(outer.emit(call)))
    module = IRModule({"main": outer.finish(total), "scaled": scaled})
    verify_module(module)
    gradient = heddle.grad(module, "x")
    verify_module(gradient)
    value = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(interpret(gradient, [value]), 2 * value)


def test_half_precision() -> None:
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((4, 64), "float16"))
    loss = op.sum(op.layer_norm(x) * np.linspace(-1, 1, 64).astype(np.float16))
    module = IRModule({"main": builder.finish(builder.emit(loss))})
    gradient = heddle.grad(module, "x")
    value = np.random.default_rng(0).uniform(-2, 2, (4, 64)).astype(np.float16)
    found = heddle.compile(gradient)(value).numpy()
    torch = pytest.importorskip("torch")
    data = torch.tensor(value.astype(np.float64), requires_grad=True)
    ramp = torch.linspace(-1, 1, 64, dtype=torch.float64)
    (torch.nn.functional.layer_norm(data, (64,)) * ramp).sum().backward()
    assert found.dtype == np.float16
    # Statistics are computed in float32: what is left is the rounding of weights and result.
    np.testing.assert_allclose(found, data.grad.numpy(), rtol=0, atol=2e-3)


# -- loop functions and operators of one's own -----------------------------------------------


def _with_loop_function() -> IRModule:
    a = te.placeholder((6,), "float32", name="a")
    cube = te.compute((6,), lambda i: a[i] * a[i] * a[i], name="cube")
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((6,), "float32"))
    y = builder.emit(CallDPS(GlobalVar("cube"), (x,), TensorType.of((6,), "float32")))
    total = builder.emit(op.sum(y))
    kernel = te.create_prim_func([a, cube], name="cube")
    return IRModule({"main": builder.finish(total), "cube": kernel})


def test_loop_function_with_a_rule() -> None:
    def cube_grad(a: GraphExpr, *, dout: GraphExpr, out: GraphExpr) -> GraphExpr:
        return dout * a * a * 3.0

    module = heddle.value_and_grad(_with_loop_function(), "x", rules={"cube": cube_grad})
    x = np.linspace(-1, 1, 6).astype(np.float32)
    loss, d_x = heddle.compile(module)(x)
    np.testing.assert_allclose(loss.numpy(), np.sum(x**3), atol=1e-6)
    np.testing.assert_allclose(d_x.numpy(), 3 * x**2, rtol=1e-6)


def test_loop_function_without_a_rule() -> None:
    with pytest.raises(UserError) as caught:
        heddle.grad(_with_loop_function(), "x")
    assert "no gradient for\n  loop function `cube`: `cube`\n" in str(caught.value)
    assert "a loop function by `rules`" in str(caught.value)


@pytest.fixture
def no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operators without a gradient, and one whose rule is wrong."""
    from heddle.op import registry

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    for name in ("first_of_ours", "second_of_ours", "wrong_of_ours"):

        def infer(x: TensorType) -> TensorType:
            """A test's operator."""
            return x

        operator(name, kind="elementwise", dtypes="float")(infer)
    op.get("wrong_of_ours").rule("grad")(lambda x, *, dout, out: op.sum(dout))


@pytest.mark.usefixtures("no_gradients")
def test_missing_gradients_are_named_together() -> None:
    first, second = op.get("first_of_ours"), op.get("second_of_ours")
    builder = GraphBuilder("main")
    x = builder.param("x", TensorType.of((3,), "float32"))
    w = builder.param("w", TensorType.of((3,), "float32"))
    span = Span("net.py", 7, 8, end_column=13, text="    h = first(x)")
    a = builder.emit(first(x, span=span), name="a")
    b = builder.emit(second(first(a)), name="b")
    other = builder.emit(second(w), name="other")
    module = IRModule({"main": builder.finish(builder.emit(op.sum(b + other)))})
    with pytest.raises(UserError) as caught:
        heddle.grad(module, "x")
    text = str(caught.value)
    assert "operator `first_of_ours`: `a` (net.py:7:9), `first_of_ours`" in text
    assert "operator `second_of_ours`: `b`\n" in text, "`other` does not depend on x"
    assert "7 |     h = first(x)" in text
    assert "|         ^^^^^" in text


@pytest.mark.usefixtures("no_gradients")
def test_a_rule_that_is_wrong() -> None:
    module = build(lambda x: op.sum(op.get("wrong_of_ours")(x)), x=(3,))
    wanted = r"op.wrong_of_ours: the rule `grad` gave float32 \(\) for argument 0, expected float32"
    with pytest.raises(UserError, match=wanted):
        heddle.grad(module, "x")


def _two_results(x: Var) -> GraphExpr:
    return Tuple((op.sum(x), op.argmax(x)))


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: heddle.grad(build(_product, x=(3, 4), w=(4, 2)), "v"),
            "`main` has no parameter `v`; it has `x`, `w`",
        ),
        (
            lambda: heddle.grad(build(lambda x, labels: op.sum(x), x=(3,), labels=(2,)), "labels"),
            r"parameter `labels` of `main` is int64 \(2,\): only tensors of floats have gradients",
        ),
        (
            lambda: heddle.grad(build(lambda labels: labels, labels=(2,))),
            "`main` has no parameter of floats to differentiate by",
        ),
        (
            lambda: heddle.grad(build(lambda x: op.exp(x), x=(3,)), "x"),
            r"the result of `main` is float32 \(3,\): the gradient of a scalar is asked for",
        ),
        (
            lambda: heddle.grad(build(_two_results, x=(3,)), "x"),
            r"`main` has several results: say `of` which; they are 0 \(`sum`\), 1 \(`argmax`\)",
        ),
        (
            lambda: heddle.grad(build(_two_results, x=(3,)), "x", of="mean"),
            "`main` has no result 'mean'; they are 0",
        ),
        (
            lambda: heddle.grad(build(_two_results, x=(3,)), "x", of=1),
            r"the result of `main` is int64 \(\), expected a tensor of floats",
        ),
        (
            lambda: heddle.grad(build(_product, x=(3, 4), w=(4, 2)), "x", function="loss"),
            "the module has no function `loss`",
        ),
    ],
)
def test_errors(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
