"""A machine that interprets the instructions of a pickle that describe data, and executes nothing.

The names that a file may use stand in a table of the caller; any other name, instruction or
argument is refused. Keys are strings and small numbers only: hashing them is cheap and cannot be
made to collide. Formats: pickle protocols 2 to 5 (PEP 307, PEP 3154; the standard library's
`pickletools` documents each instruction).
"""

import pickle
import struct
from collections.abc import Callable, Iterator, Mapping

MAX_NAME = 256  # characters of a tensor's name
MAX_NUMBER = 2**31  # as a key


class PickleError(ValueError):
    """What is wrong with a pickle, as a part of a sentence."""


class OtherKind(PickleError):
    """A file of another kind: the sentence says what it is."""


class Damaged(PickleError):
    """The sentence names the part."""


class Foreign(PickleError):
    """The file does what no file of its kind does.

    name  the dotted name that it asks for, if it does
    """

    def __init__(self, act: str, name: str | None = None):
        super().__init__(act)
        self.name = name


def shown(text: str) -> str:
    """Text of a file, fit for one line of an error message."""
    return ascii(text[:MAX_NAME])[1:-1]


_U1, _U2, _U4, U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_MAKERS = {  # instruction -> makes the value that it pushes
    pickle.NONE: lambda: None,
    pickle.NEWTRUE: lambda: True,
    pickle.NEWFALSE: lambda: False,
    pickle.EMPTY_DICT: dict,
    pickle.EMPTY_LIST: list,
    pickle.EMPTY_TUPLE: tuple,
    pickle.EMPTY_SET: set,
}
_NUMBERS = {pickle.BININT: _I4, pickle.BININT1: _U1, pickle.BININT2: _U2, pickle.BINFLOAT: _F8}
# instruction -> layout of the length behind it, and what is made of the bytes behind that
_STRETCHES = {
    pickle.SHORT_BINUNICODE: (_U1, lambda data: str(data, "utf-8", "surrogatepass")),
    pickle.BINUNICODE: (_U4, lambda data: str(data, "utf-8", "surrogatepass")),
    pickle.SHORT_BINBYTES: (_U1, bytes),
    pickle.BINBYTES: (_U4, lambda data: data),  # a storage, not copied here
    pickle.LONG1: (_U1, lambda data: int.from_bytes(data, "little", signed=True)),
}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_PUTS = {pickle.BINPUT: _U1, pickle.LONG_BINPUT: _U4}
_GETS = {pickle.BINGET: _U1, pickle.LONG_BINGET: _U4}


class PickleMachine:
    """Interprets the instructions of a pickle that describe data, on a stack of plain values and
    objects of ours.

    data          bytes in which pickles follow each other from `position` on
    names         dotted name -> what it stands for; the callables in it are all that a pickle can
                  call
    instructions  iterator that ends when the file has used up its share
    set_state     set_state(object, state) is what BUILD does; None refuses it
    persistent    persistent(description) is what a persistent id stands for; None refuses it
    """

    def __init__(
        self,
        data: memoryview,
        names: Mapping,
        instructions: Iterator,
        set_state: Callable | None = None,
        persistent: Callable | None = None,
    ):
        self.data, self.names, self.instructions, self.position = data, names, instructions, 0
        self.set_state, self.persistent = set_state, persistent

    def run(self):
        """Interpret one pickle up to its STOP and return the value that it describes."""
        self.stack, self.marked, self.memo = [], [], {}
        if self.take(1) != pickle.PROTO or not 2 <= self.number(_U1) <= 5:
            raise OtherKind("no pickle of protocol 2 to 5")
        for _ in self.instructions:
            code = bytes(self.take(1))
            if code == pickle.STOP:
                return self.stack.pop()
            if not self._push(code) and not self._combine(code):
                raise Foreign(f"contains the pickle instruction {code!r}")
        raise Foreign("has more instructions than any")

    def take(self, count: int) -> memoryview:
        """The next bytes of the data."""
        self.position += count
        if self.position > len(self.data):
            raise Damaged("it ends too early")
        return self.data[self.position - count : self.position]

    def number(self, layout: struct.Struct) -> int | float:
        return layout.unpack(self.take(layout.size))[0]

    def _push(self, code: bytes) -> bool:
        """Interpret an instruction that pushes a value or remembers one; False if it is of another
        kind."""
        if code in _MAKERS:
            self.stack.append(_MAKERS[code]())
        elif code in _NUMBERS:
            self.stack.append(self.number(_NUMBERS[code]))
        elif code in _STRETCHES:
            length, make = _STRETCHES[code]
            self.stack.append(make(self.take(self.number(length))))
        elif code == pickle.MEMOIZE or code in _PUTS:
            index = self.number(_PUTS[code]) if code in _PUTS else len(self.memo)
            # No network refers to a storage's bytes again; forgetting them ensures that each is
            # decoded only once.
            self.memo[index] = None if type(self.stack[-1]) is memoryview else self.stack[-1]
        elif code in _GETS:
            self.stack.append(self.memo[self.number(_GETS[code])])
        elif code == pickle.MARK:
            self.marked.append(self.stack)
            self.stack = []
        elif code == pickle.FRAME:
            if self.number(U8) > len(self.data) - self.position:
                raise Damaged("it ends too early")
        elif code == pickle.GLOBAL:
            self.stack.append(self._named(self._line(), self._line()))
        else:
            return False
        return True

    def _combine(self, code: bytes) -> bool:
        """Interpret an instruction that makes something of the top of the stack; False if it is of
        another kind."""
        marked = code in (pickle.TUPLE, pickle.SETITEMS, pickle.APPENDS)
        items, self.stack = (self.stack, self.marked.pop()) if marked else ([], self.stack)
        pop, push = self.stack.pop, self.stack.append
        if code == pickle.TUPLE:
            push(tuple(items))
        elif code in _TUPLES:
            push(tuple([pop() for _ in range(_TUPLES[code])][::-1]))
        elif code in (pickle.SETITEM, pickle.SETITEMS):
            items = items if marked else [pop(), pop()][::-1]
            if type(self.stack[-1]) is not dict or not all(map(_is_key, items[::2])):
                raise Damaged("a dict")
            self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif code in (pickle.APPEND, pickle.APPENDS):
            items = items if marked else [pop()]
            if type(self.stack[-1]) is not list:
                raise Damaged("a list")
            self.stack[-1].extend(items)
        elif code == pickle.STACK_GLOBAL:
            name, module = pop(), pop()
            push(self._named(module, name))
        elif code in (pickle.REDUCE, pickle.NEWOBJ):
            arguments, function = pop(), pop()
            if not callable(function) or type(arguments) is not tuple:
                raise Foreign("calls what is no function")
            push(function(*arguments))
        elif code == pickle.BUILD and self.set_state is not None:
            state = pop()
            self.set_state(self.stack[-1], state)
        elif code == pickle.BINPERSID and self.persistent is not None:
            push(self.persistent(pop()))
        else:
            return False
        return True

    def _line(self) -> str:
        length = bytes(self.data[self.position : self.position + MAX_NAME]).index(b"\n")
        return bytes(self.take(length + 1)[:-1]).decode()

    def _named(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise Damaged("a name")
        if f"{module}.{name}" not in self.names:
            dotted = shown(f"{module}.{name}")
            raise Foreign(f"asks for {dotted}", dotted)
        return self.names[f"{module}.{name}"]


def _is_key(key) -> bool:
    return type(key) is str or (type(key) is int and abs(key) <= MAX_NUMBER)
