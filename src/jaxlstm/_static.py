"""What cells and networks are: frozen dataclasses of static options that copy, pickle and print."""

import importlib
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "jax.nn.initializers")  # where functions of options usually come from


class Static:
    """A base class for frozen dataclasses of options. It holds no arrays and compares by value."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Static":
        """Itself, since it cannot change, and copies of its functions would not equal them."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """The options, with functions by name: pickle cannot find jitted ones such as `jax.nn.sigmoid` itself."""
        return {name: _by_name(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The options again."""
        values = {name: value.find() if isinstance(value, _Name) else value for name, value in state.items()}
        self.__dict__.update(values)

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

    def find(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


def _by_name(value: Any) -> Any:
    """The importable name of a function, or the value itself if it has none or is no function."""
    name = getattr(value, "__name__", None)
    if isinstance(value, type) or not callable(value) or not isinstance(name, str):
        return value
    for module in (*PUBLIC, getattr(value, "__module__", None)):
        if module and getattr(importlib.import_module(module), name, None) is value:
            return _Name(module, name)
    return value


def _describe(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)
