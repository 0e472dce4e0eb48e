"""What cells and networks are: frozen dataclasses of static options that copy, pickle and print."""

import importlib
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "jax.nn.initializers")  # where functions of options usually come from


class Static:
    """A base class for frozen dataclasses of options. It holds no arrays and compares by value."""

    def __copy__(self) -> "Static":
        """Itself, since it cannot change."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Static":
        """Itself, since it cannot change, and copies of its functions would not equal them."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The options, with functions by name: pickle cannot find jitted ones such as `jax.nn.sigmoid` itself."""
        return {name: _by_name(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The options again."""
        self.__dict__.update({name: _found(value) for name, value in state.items()})

    def __repr__(self) -> str:
        """The options that differ from their defaults, functions by name."""
        if not is_dataclass(self):
            return object.__repr__(self)
        shown = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={_describe(value)}' for name, value in shown)})"

    def _set(self, **options: Any) -> None:
        """Replace options by their normal form, while the dataclass is being made."""
        for name, value in options.items():
            object.__setattr__(self, name, value)


class _Name(NamedTuple):
    """Where a function can be imported from."""

    module: str
    name: str


class _Partial(NamedTuple):
    """A `functools.partial`, its function by name."""

    fn: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]


def _found(value: Any) -> Any:
    """What `_by_name` was given."""
    if isinstance(value, _Name):
        return getattr(importlib.import_module(value.module), value.name)
    return partial(_found(value.fn), *value.args, **value.keywords) if isinstance(value, _Partial) else value


def _by_name(value: Any) -> Any:
    """The importable name of a function, or the value itself if it has none or is no function."""
    if type(value) is partial:
        return _Partial(_by_name(value.func), value.args, value.keywords)
    name = getattr(value, "__name__", None)
    if isinstance(value, type) or not callable(value) or not isinstance(name, str):
        return value
    for module in (*PUBLIC, getattr(value, "__module__", None)):
        if module and getattr(importlib.import_module(module), name, None) is value:
            return _Name(module, name)
    return value


def _describe(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)
