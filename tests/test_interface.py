"""The interface: exported names, signatures, what an import loads, the order of the layers, documented arguments."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxlstm as jl

SOURCE = Path(jl.__file__).parent


def test_exported_names():
    names = {"Cell", "LSTMCell", "GRUCell", "RNNCell", "LSTMParams", "GRUParams", "RNNParams", "LSTMCarry", "RNNCarry"}
    names |= {"Gates", "lstm_gates", "lstm_transition", "unroll", "truncated", "Layer", "Bidirectional", "Stack"}
    assert names <= set(jl.__all__)
    public = {name for name, value in vars(jl).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(jl.__all__)
    assert len(jl.__all__) == len(set(jl.__all__))


@pytest.mark.parametrize(
    ("named_tuple", "fields"),
    [
        (jl.LSTMParams, "w_ih w_hh b"),
        (jl.GRUParams, "w_ih w_hh b b_hn"),
        (jl.RNNParams, "w_ih w_hh b"),
        (jl.LSTMCarry, "h c"),
        (jl.RNNCarry, "h"),
        (jl.Gates, "i f g o"),
    ],
)
def test_fields(named_tuple, fields):
    assert named_tuple._fields == tuple(fields.split())


SEQUENCE = "lengths=None, mask=None, reset=None"
SCAN = "key=None, start=0, unroll=1, remat=None, project_first=None"
INIT = "self, key, input_size, *, dtype=float32"
INIT_CARRY = "self, params, batch_shape=(), *, dtype=None"
SIGNATURES = {
    "unroll": f"cell, params, xs, carry=None, *, {SEQUENCE}, reverse=False, {SCAN}",
    "truncated": f"network, params, xs, carry=None, *, k1, k2, {SEQUENCE}, {SCAN}",
    "lstm_gates": "z, *, gate_fn=sigmoid, activation_fn=tanh",
    "lstm_transition": "gates, c, *, activation_fn=tanh",
    "Layer": "cell, *, reverse=False",
    "Bidirectional": "cell, backward_cell=None, *, merge='concat'",
    "Stack": "*layers_or_cells, dropout=0.0",
    "Cell.project": "self, params, x",
    "Cell.recur": "self, params, carry",
    "Cell.transition": "self, params, zx, zh, carry",
    "Cell.readout": "self, params, carry",
}
for _cell in ("Cell", "LSTMCell", "GRUCell", "RNNCell"):
    SIGNATURES |= {f"{_cell}.init": INIT, f"{_cell}.init_carry": INIT_CARRY, f"{_cell}.step": "self, params, carry, x"}
for _layer in ("Layer", "Bidirectional", "Stack"):
    SIGNATURES |= {f"{_layer}.init": INIT, f"{_layer}.init_carry": INIT_CARRY}
    SIGNATURES |= {f"{_layer}.apply": f"self, params, xs, carry=None, *, {SEQUENCE}, {SCAN}"}
STARTS = {
    "LSTMCell": "hidden_size, *, forget_bias=1.0, gate_fn=sigmoid, activation_fn=tanh",
    "GRUCell": "hidden_size, *, reset_after=True",
    "RNNCell": "hidden_size, *, activation_fn=tanh",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert signature(name) == SIGNATURES[name]


@pytest.mark.parametrize("name", STARTS)
def test_cells_begin_with_their_own_options(name):
    assert signature(name).startswith(STARTS[name])


def signature(name):
    """Names, order, kinds and defaults, as they are written, without annotations."""
    function = jl
    for part in name.split("."):
        function = getattr(function, part)
    parameters = inspect.signature(function).parameters.values()
    words = []
    for parameter in parameters:
        starred = any(word.startswith("*") for word in words)
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        words.append(f"{star}{parameter.name}{default(parameter)}")
    return ", ".join(words)


def default(parameter):
    if parameter.default is parameter.empty:
        return ""
    named = {jax.nn.sigmoid: "sigmoid", jnp.tanh: "tanh", jnp.float32: "float32"}
    return f"={named.get(parameter.default, repr(parameter.default))}"


def test_the_import_is_light():
    heavy = ["flax", "optax", "orbax", "matplotlib", "aeon", "safetensors", "tqdm"]
    program = f"import sys, jaxlstm; print(*[name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert loaded.stdout.split() == []


# Each module of the core may import those before it, and the outermost ones may import any.
ORDER = [
    "_checks",
    "_types",
    "_init",
    "cells._rnn",
    "cells._lstm",
    "cells._gru",
    "cells._lstm_variants",
    "cells._regularize",
    "cells",
    "_reads",
    "_scan",
    "_tangent",
    "_unroll",
    "_network",
    "_layers",
    "_truncated",
]
OUTERMOST = {"training", "interop", "inspect", "tasks", "linen", "nnx", "__main__"}
MODULES = {
    str(path.relative_to(SOURCE).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path != SOURCE / "__init__.py"
}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up(module):
    core = [name.removeprefix("jaxlstm").removeprefix(".") for name in imports(module) if name.startswith("jaxlstm")]
    if module in ORDER:
        assert set(core) <= set(ORDER[: ORDER.index(module)])
    else:
        assert module.partition(".")[0] in OUTERMOST, f"{module} has no place in the order of the layers"


@pytest.mark.parametrize("module", MODULES)
def test_who_may_import_what(module):
    package = module.partition(".")[0]
    outside = {name.partition(".")[0] for name in imports(module)}
    assert package == "training" or not outside & {"optax", "orbax"}
    assert package in ("linen", "nnx") or "flax" not in outside
    assert package in OUTERMOST or outside <= {"jaxlstm", "jax", "jaxtyping", "numpy"} | sys.stdlib_module_names


def imports(module):
    """The modules that a module's source imports, wherever in it."""
    path = MODULES[module]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: absolute imports only"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            submodules = [name for name in names if name.removeprefix("jaxlstm.") in MODULES]
            yield from submodules or [node.module]


def test_the_order_names_modules_that_are_there():
    assert set(ORDER) <= set(MODULES)


def documented():
    """Every public function, class and method of the modules that need no optional dependency, by its full name."""
    for module in (importlib.import_module(f"jaxlstm.{name}") for name in ORDER if name in MODULES):
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            yield f"{module.__name__}.{name}", value
            for member, method in vars(value).items() if inspect.isclass(value) else ():
                own = inspect.isfunction(method) and method.__module__ == module.__name__
                if own and not member.startswith("_"):
                    yield f"{module.__name__}.{name}.{member}", method


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", [name for name, value in DOCUMENTED.items() if "Args:" in (value.__doc__ or "")])
def test_documented_arguments_are_the_signature(name):
    function = DOCUMENTED[name]
    section = re.search(r"^( *)Args:\n((?:\1 +.*\n|\n)+)", inspect.getdoc(function) + "\n", re.M)[2]
    indent = re.match(" *", section)[0]
    described = re.findall(rf"^{indent}(\w+):", section, re.M)
    parameters = [parameter for parameter in inspect.signature(function).parameters if parameter not in ("self", "_")]
    assert described == parameters


@pytest.mark.parametrize("name", DOCUMENTED)
def test_everything_public_has_a_docstring(name):
    assert (DOCUMENTED[name].__doc__ or "").strip()
