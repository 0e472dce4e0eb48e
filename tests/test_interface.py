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
import jaxlstm.inspect
import jaxlstm.interop

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
        (jl.LRUCarry, "s dx"),
        (jl.LRUParams, "w_ih nu_log theta_log gamma_log c_re c_im"),
        (jl.ConvLSTMParams, "w_ih w_hh b p"),
        (jl.RNNCarry, "h"),
        (jl.Gates, "i f g o"),
    ],
)
def test_fields(named_tuple, fields):
    assert named_tuple._fields == tuple(fields.split())


SEQUENCE = "lengths=None, mask=None, reset=None"
SCAN = "key=None, start=0, unroll=None, remat=None, project_first=None, evaluator=None"
NAMED = "*, prefix='', layers=None"
INIT = "self, key, input_size, *, dtype=float32"
INIT_CARRY = "self, params, batch_shape=(), *, dtype=None"
STEP = "self, params, carry, x, *, mask=None, reset=None, key=None, start=0"
SIGNATURES = {
    "unroll": f"cell, params, xs, carry=None, *, {SEQUENCE}, reverse=False, {SCAN}",
    "truncated": f"network, params, xs, carry=None, *, k1, k2, {SEQUENCE}, {SCAN}",
    "lstm_gates": "z, *, gate_fn=sigmoid, activation_fn=tanh",
    "lstm_transition": "gates, c, *, activation_fn=tanh",
    "Layer": "cell, *, reverse=False",
    "Bidirectional": "cell, backward_cell=None, *, merge='concat'",
    "Stack": "*layers_or_cells, dropout=0.0, layers=()",
    "last_output": "carry",
    "pad": "sequences",
    "LearnedCarry": "cell",
    "interop.save": "path, network, params",
    "interop.load": "path",
    "interop.export": "path, network, params, *, lengths=False, carry=False",
    "interop.from_onnx": "model_or_path",
    "interop.to_onnx": "network, params, *, lengths=False, carry=False",
    "interop.save_params": "path, params",
    "interop.load_params": "path, template",
    "interop.from_equinox": f"weights, {NAMED}",
    "interop.from_flax": f"weights, {NAMED}, gate_fn=sigmoid, activation_fn=None",
    "interop.from_haiku": f"weights, {NAMED}",
    "interop.from_keras": f"weights, {NAMED}, activation=None, recurrent_activation=None, reset_after=None, "
    "merge_mode=None",
    "interop.from_torch": f"weights, {NAMED}, nonlinearity=None",
    "interop.to_equinox": f"network, params, {NAMED}",
    "interop.to_flax": "network, params, *, layout, prefix='', layers=None",
    "interop.to_haiku": f"network, params, {NAMED}, double_bias=True",
    "interop.to_keras": f"network, params, {NAMED}",
    "interop.to_torch": f"network, params, {NAMED}",
    "Cell.project": "self, params, x",
    "Cell.recur": "self, params, carry",
    "Cell.combine": "self, zx, zh",
    "Cell.transition": "self, params, z, carry",
    "Cell.readout": "self, params, carry",
}
SIGNATURES |= {
    "inspect.trace": f"network, params, xs, carry=None, *, {SEQUENCE}, reverse=False, key=None, start=0",
    "inspect.step_jacobians": f"cell, params, xs, carry=None, *, {SEQUENCE}",
    "inspect.gradient_flow": f"cell, params, xs, carry=None, *, loss, {SEQUENCE}",
    "inspect.input_contributions": f"network, params, xs, carry=None, *, output, {SEQUENCE}",
    "inspect.input_jacobian_norms": f"network, params, xs, carry=None, *, {SEQUENCE}",
    "inspect.lyapunov_exponents": "cell, params, xs, carry=None, *, lengths=None, mask=None",
    "inspect.fixed_points": "cell, params, x, carries, *, steps=1000, tolerance=1e-06, merge_distance=0.01",
    "inspect.largest_singular_values": "jacobians",
    "inspect.saturation": "gate, *, lengths=None, mask=None",
    "inspect.half_life": "f, *, lengths=None, mask=None",
    "inspect.retention": f"f, lags, *, {SEQUENCE}",
    "inspect.draw_fixed_points": "ax, points, carries",
    "inspect.draw_gate": "ax, gate, *, limits=(0.0, 1.0)",
}
for _cell in ("Cell", "LSTMCell", "GRUCell", "LSTMVariantCell", "MGUCell", "SLSTMCell", "MLSTMCell", "ConvLSTMCell"):
    SIGNATURES[f"{_cell}.gates"] = "self, params, z, carry"
for _cell in (
    "Cell",
    "LSTMCell",
    "GRUCell",
    "RNNCell",
    "MinGRUCell",
    "IndRNNCell",
    "SLSTMCell",
    "MLSTMCell",
    "LRUCell",
):
    SIGNATURES |= {f"{_cell}.init": INIT, f"{_cell}.init_carry": INIT_CARRY, f"{_cell}.step": STEP}
for _layer in ("Layer", "Bidirectional", "Stack"):
    SIGNATURES |= {f"{_layer}.init": INIT, f"{_layer}.init_carry": INIT_CARRY}
    SIGNATURES |= {f"{_layer}.step": STEP}
    SIGNATURES |= {f"{_layer}.apply": f"self, params, xs, carry=None, *, {SEQUENCE}, {SCAN}"}
STARTS = {
    "LSTMCell": "hidden_size, *, forget_bias=1.0, gate_fn=sigmoid, activation_fn=tanh",
    "GRUCell": "hidden_size, *, reset_after=True",
    "RNNCell": "hidden_size, *, activation_fn=tanh",
    "MinGRUCell": "hidden_size, *, activation_fn=identity",
    "MinLSTMCell": "hidden_size, *, activation_fn=identity",
    "IndRNNCell": "hidden_size, *, activation_fn=relu",
    "SLSTMCell": "hidden_size, *, num_heads=1, exponential_forget=False, forget_bias=1.0",
    "MLSTMCell": "hidden_size, *, num_heads=1, exponential_forget=False, forget_bias=1.0",
    "LRUCell": "hidden_size, *, state_size=None, r_min=0.0, r_max=1.0, max_phase=6.283185307179586",
    "ConvLSTMCell": "hidden_size, *, spatial_shape, kernel_shape=3, peephole=True, forget_bias=1.0",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert signature(name) == SIGNATURES[name]


@pytest.mark.parametrize("name", STARTS)
def test_cells_begin_with_their_own_options(name):
    assert signature(name).startswith(STARTS[name])


def signature(name, function=jl):
    """Names, order, kinds and defaults, as they are written, without annotations."""
    for part in name.split("."):
        function = getattr(function, part)
    words = []
    for parameter in parameters_of(function):
        starred = any(word.startswith("*") for word in words)
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        words.append(f"{star}{parameter.name}{default(parameter)}")
    return ", ".join(words)


CALL = "self, inputs, *, seq_lengths=None, mask=None, reset=None, initial_carry=None, deterministic=None"
STEP = "self, carry, inputs, *, mask=None, reset=None, deterministic=None"
NETWORK = "num_layers=1, bidirectional=False, *, dropout=0.0, recurrent_dropout=0.0, initial_carry='zeros'"
OPTIONS = "dtype=None, param_dtype=float32, remat=None, deterministic=False, partitioning=None, rngs"
FLAX_SIGNATURES = {
    "linen.LSTM.__call__": CALL,
    "nnx.LSTM.__call__": f"{CALL}, rngs=None",
    "nnx.LSTM": f"in_features, features, {NETWORK}, projection=None, forget_bias=1.0, {OPTIONS}",
    "nnx.Recurrent": f"network, in_features, *, {OPTIONS}",
    "linen.Recurrent.step": f"{STEP}, start=0",
    "nnx.Recurrent.step": f"{STEP}, rngs=None, start=0",
    "linen.Recurrent.init_carry": "self, batch_shape=()",
    "nnx.Recurrent.init_carry": "self, batch_shape=()",
    "linen.to_network": "module, variables",
    "linen.from_network": "network, params, **options",
    "nnx.to_network": "module",
    "nnx.from_network": "network, params, *, rngs=None, **options",
    "nnx.GRUCell": "in_features, hidden_features, *, b_hn=False, rngs, **options",
}


@pytest.mark.parametrize("name", FLAX_SIGNATURES)
def test_signatures_of_the_flax_modules(name):
    module, _, rest = name.partition(".")
    assert signature(rest, importlib.import_module(f"jaxlstm.{module}")) == FLAX_SIGNATURES[name]


@pytest.mark.parametrize("module", ["linen", "nnx"])
def test_the_flax_modules_take_every_argument_of_flaxs(module):
    """In the same order, with the same defaults; what is added comes after, or by keyword."""
    ours, theirs = importlib.import_module(f"jaxlstm.{module}"), importlib.import_module(f"flax.{module}")
    shared = [name for name in ours.__all__ if hasattr(theirs, name)]
    assert {"RNN", "Bidirectional", "LSTMCell", "GRUCell"} <= set(shared)
    for name in shared:
        for function in ("__init__", "__call__"):
            own, its = (inspect.signature(getattr(getattr(one, name), function)).parameters for one in (ours, theirs))
            if "options" not in own:  # which hands all others on to Flax
                kept = {key: value.default for key, value in own.items() if key in its}
                if "unroll" in kept:
                    assert kept["unroll"] is None  # what is best on the platform; 1 in Flax
                    kept["unroll"] = 1
                assert kept == {key: value.default for key, value in its.items()}
                assert [*kept][:2] == [*its][:2]


def parameters_of(function):
    """Of a class, those of its constructor: an nnx module's metaclass hides them from `inspect.signature`."""
    if inspect.isclass(function):
        return list(inspect.signature(function.__init__).parameters.values())[1:]
    return list(inspect.signature(function).parameters.values())


def default(parameter):
    if parameter.default is parameter.empty:
        return ""
    named = {jax.nn.sigmoid: "sigmoid", jnp.tanh: "tanh", jnp.float32: "float32"}
    named |= {jax.nn.identity: "identity", jax.nn.relu: "relu"}
    return f"={named.get(parameter.default, repr(parameter.default))}"


def test_the_import_is_light():
    heavy = ["flax", "optax", "orbax", "matplotlib", "aeon", "mnist1d", "h5py", "onnx", "safetensors", "tqdm"]
    program = f"import sys, jaxlstm.inspect; print(*[name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("framework", ["equinox", "flax", "haiku", "keras", "torch"])
def test_no_framework_is_imported_to_read_its_weights(framework):
    inside = [module for module in MODULES if module.startswith("interop")]
    assert f"interop._{framework}" in inside
    assert not [module for module in inside if framework in {name.partition(".")[0] for name in imports(module)}]


# Each module of the core may import those before it, and the outermost ones may import any.
ORDER = [
    "_checks",
    "_array_checks",
    "_dtypes",
    "_arrays",
    "_random",
    "_sharding",
    "_static",
    "_templates",
    "_step",
    "_cell",
    "_wrapper",
    "_init",
    "cells._rnn",
    "cells._lstm",
    "cells._gru",
    "cells._lstm_variants",
    "cells._mgu",
    "cells._linear",
    "cells._min_gru",
    "cells._min_lstm",
    "cells._ind_rnn",
    "cells._slstm",
    "cells._mlstm_chunk",
    "cells._mlstm",
    "cells._lru",
    "cells._conv_lstm",
    "cells._learned",
    "cells._regularize",
    "cells",
    "_platform",
    "_wavefront",
    "_directions",
    "_associative",
    "_flat",
    "_rounding",
    "_flat_steps",
    "_newton",
    "_scan",
    "_split_params",
    "_all_steps",
    "_linear_scan",
    "_tangent",
    "_chunks",
    "_chunkwise",
    "_evaluators",
    "_run",
    "_unroll",
    "_network",
    "_layers",
    "_stack",
    "_explain",
    "_padding",
    "_truncated",
    "_wrappers",
    "_wrappers._cells",
    "_wrappers._sequence",
    "_wrappers._scanned",
    "_wrappers._params",
    "_wrappers._network",
    "_wrappers._uniform",
]
OUTERMOST = {"training", "interop", "inspect", "tasks", "linen", "nnx", "__main__", "_arguments"}
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


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] in ("tasks", "__main__")])
def test_tasks_and_the_command_line_are_users_like_others(module):
    """They import public names, each other's, and what makes all messages alike."""
    own = ("jaxlstm.tasks.", "jaxlstm._arguments", "jaxlstm._checks")
    names = {name for name in imports(module) if name.startswith("jaxlstm") and not name.startswith(own)}
    assert not [name for name in names if re.search(r"\._(?!_)", name)]


@pytest.mark.parametrize("module", MODULES)
def test_who_may_import_what(module):
    package = module.partition(".")[0]
    outside = {name.partition(".")[0] for name in imports(module)}
    assert package in ("training", "tasks") or module == "inspect._fixed_points" or "optax" not in outside
    assert package == "training" or not outside & {"orbax", "filelock"}
    assert package in ("linen", "nnx") or "flax" not in outside
    assert package == "interop" or not outside & {"h5py", "onnx", "safetensors"}
    assert package in OUTERMOST or outside <= {"jaxlstm", "jax", "jaxtyping", "numpy"} | sys.stdlib_module_names


def imports(module):
    """The modules that a module's source imports, wherever in it."""
    path = MODULES[module]
    for node in ast.walk(_without_type_checking(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: absolute imports only"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            submodules = [name for name in names if name.removeprefix("jaxlstm.") in MODULES]
            yield from submodules or [node.module]


def _without_type_checking(tree):
    """The tree without the blocks that only a type checker reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return tree


def test_the_order_names_modules_that_are_there():
    assert set(ORDER) <= set(MODULES)


FLAX = [name for name in MODULES if name.startswith(("linen", "nnx"))]


def documented():
    """Every public function, class and method of the core, interop, inspect and the Flax modules, by its full name."""
    names = [*ORDER, *FLAX, *(name for name in MODULES if name.startswith(("inspect.", "interop")))]
    for module in (importlib.import_module(f"jaxlstm.{name}") for name in names):
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            yield f"{module.__name__}.{name}", value
            for member, method in vars(value).items() if inspect.isclass(value) else ():
                own = inspect.isfunction(method) and method.__module__ == module.__name__
                if own and not member.startswith("_"):
                    yield f"{module.__name__}.{name}.{member}", method


DOCUMENTED = dict(documented())


NOT_DESCRIBED = ("self", "_")
OF_EVERY_LINEN_MODULE = ("parent", "name")


@pytest.mark.parametrize("name", [name for name, value in DOCUMENTED.items() if "Args:" in (value.__doc__ or "")])
def test_documented_arguments_are_the_signature(name):
    function = DOCUMENTED[name]
    section = re.search(r"^( *)Args:\n((?:\1 +.*\n|\n)+)", inspect.getdoc(function) + "\n", re.M)[2]
    indent = re.match(" *", section)[0]
    described = re.findall(rf"^{indent}(\w+):", section, re.M)
    left_out = NOT_DESCRIBED + OF_EVERY_LINEN_MODULE * name.startswith("jaxlstm.linen")
    parameters = [one.name for one in parameters_of(function) if one.name not in left_out]
    assert described == parameters


@pytest.mark.parametrize("name", DOCUMENTED)
def test_everything_public_has_a_docstring(name):
    assert (DOCUMENTED[name].__doc__ or "").strip()
