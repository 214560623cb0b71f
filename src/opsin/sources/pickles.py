"""Pickles of numpy arrays, as datasets are published in, read without Python's pickle machine.

A pickle is a program: it can import and call anything, and even one that only makes lists can ask for more memory and
time than there is. This reader steps through the opcodes itself, knows those that describe data and no others, and
spends memory and time in proportion to the size of the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

import numpy as np

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
MAX_OPCODES = 2_000_000
"""A batch of CIFAR-10 has about 50,000."""
KEYS = (str, bytes, int)
"""Keys of dictionaries. Hashing a nested tuple can take exponential time, so tuples are no keys here."""


def read_pickle(content: bytes, encoding: str = "ASCII") -> Any:
    """What a pickle holds of arrays, strings, numbers, lists (tuples become lists too) and dictionaries.

    Args:
        content: The whole pickle, of any protocol.
        encoding: How strings that Python 2 wrote are decoded; `bytes` keeps them as bytes.

    Raises:
        UnpicklingError: The pickle holds anything else, or a container that contains itself.
        Exception: A damaged pickle can fail in any other way.
    """
    return _Converter().convert(_Machine(encoding).run(content))


class _Dtype:
    """In place of a numpy type, whose own state a hostile file could set to anything."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code, self.order = _text(code), "|"

    def build(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])

    def checked(self) -> np.dtype[Any]:
        is_text = self.code[:1] == "U" and self.code[1:].isdecimal()
        if not (self.code in NUMBERS or is_text or self.code in ("O", "O8")) or self.order not in ("<", ">", "|", "="):
            raise UnpicklingError(f"it holds an array of type {self.code[:40]!r}")
        return np.dtype(self.order + self.code) if self.code[0] != "O" else np.dtype(object)


class _Array:
    """In place of a numpy array, likewise."""

    state: tuple[Any, ...] | None = None

    def __init__(self, *_: Any) -> None:
        """What numpy calls here says nothing: type and shape come with the state."""

    def build(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _Named:
    """A class or function that a pickle names; only these can be called."""

    def __init__(self, module: Any, name: Any) -> None:
        short = str(module).removeprefix("numpy.core.").removeprefix("numpy._core.")
        self.function = ADMITTED.get(f"{short}.{name}")
        if self.function is None:
            raise UnpicklingError(
                f"it holds {module}.{name}; only arrays, strings, lists and dictionaries are admitted"
            )


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.checked())[0].item()


def _text(value: Any) -> str:
    """A string, which is bytes where Python 2 wrote it and the encoding asks for them."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _latin1(text: str, codec: str) -> bytes:
    """How the oldest protocols write bytes."""
    if codec != "latin1":
        raise UnpicklingError(f"it asks for the codec {codec[:40]!r}")
    return text.encode("latin1")


ADMITTED: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _latin1,
}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PLAIN = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    )
)
"""Opcodes whose argument is the value."""
TEXTS_OF_PYTHON_2 = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack machine of "PEP 3154" and the protocols before it, reduced to opcodes that describe data."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks that lie under each mark."""
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count >= MAX_OPCODES:
                raise UnpicklingError(f"it has more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise UnpicklingError("it ends early")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in PLAIN:
            stack.append(argument)
        elif name in TEXTS_OF_PYTHON_2:
            raw = argument.encode("latin1")  # pickletools decodes the bytes of Python 2 so
            stack.append(raw if self.encoding == "bytes" else raw.decode(self.encoding))
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            items = tuple(stack[-TUPLES[name] :])
            del stack[-TUPLES[name] :]
            stack.append(items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME"):
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        """Opcodes that take values from the stack."""
        if name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name in ("LIST", "TUPLE"):
            values = self._since_mark()
            self.stack.append(values if name == "LIST" else tuple(values))
        elif name == "DICT":
            items = self._since_mark()
            self.stack.append({})
            self._set_items(items)
        elif name == "APPEND":
            value = self.stack.pop()
            self._top(list).append(value)
        elif name == "APPENDS":
            values = self._since_mark()
            self._top(list).extend(values)
        elif name == "SETITEM":
            self._set_items([self.stack.pop(), self.stack.pop()][::-1])
        elif name == "SETITEMS":
            self._set_items(self._since_mark())
        elif name == "GLOBAL":
            self.stack.append(_Named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            name_of, module = self.stack.pop(), self.stack.pop()
            self.stack.append(_Named(module, name_of))
        elif name == "REDUCE":
            arguments = self.stack.pop()
            self.stack.append(self._pop(_Named).function(*arguments))
        elif name == "BUILD":
            state = self.stack.pop()
            self._top((_Array, _Dtype)).build(state)
        else:
            raise UnpicklingError(f"it holds the opcode {name}, which describes no plain data")

    def _since_mark(self) -> list[Any]:
        """The values above the last mark, which are taken off the stack with it."""
        values, self.stack = self.stack, self.below.pop()
        return values

    def _top(self, kind: type | tuple[type, ...]) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise UnpicklingError(f"it changes a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def _pop(self, kind: type) -> Any:
        self._top(kind)
        return self.stack.pop()

    def _set_items(self, items: list[Any]) -> None:
        """Keys and values by turns, into the dictionary on the stack."""
        if not all(isinstance(key, KEYS) for key in items[::2]):
            raise UnpicklingError("it holds a dictionary whose keys are neither strings nor whole numbers")
        self._top(dict).update(zip(items[::2], items[1::2], strict=True))


class _Converter:
    """Puts real arrays in place of what stood for them, and lists in place of tuples.

    Each object is converted once, however often it is contained: a few bytes of a pickle can describe a list that
    contains another one twice, and that again another one, and so on.
    """

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.under_way: set[int] = set()

    def convert(self, content: Any) -> Any:
        if not isinstance(content, _Array | dict | list | tuple):
            return content
        key = id(content)
        if key in self.under_way:
            raise UnpicklingError("it holds a container that contains itself")
        if key not in self.done:
            self.under_way.add(key)
            self.done[key] = self._converted(content)
            self.under_way.remove(key)
        return self.done[key]

    def _converted(self, content: Any) -> Any:
        if isinstance(content, _Array):
            return self._array(content)
        if isinstance(content, dict):
            return {key: self.convert(value) for key, value in content.items()}
        return [self.convert(value) for value in content]

    def _array(self, array: _Array) -> Any:
        if array.state is None:
            raise UnpicklingError("it holds an array without content")
        _, shape, dtype, fortran, data = array.state
        kind = dtype.checked()
        if kind.hasobject:
            items = self.convert(list(data))
            return items[0] if shape == () else items
        return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
