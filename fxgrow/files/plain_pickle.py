"""An unpickler for plain data that nobody vouches for, in time and memory that grow with the bytes it is given.

Python's own can be told which names to refuse, but not which opcodes: a file of forty bytes may ask it for a table of
memos of 64 GB, or for a bytearray of any size. This one knows the opcodes of protocol 2 that plain data and tensors
take, and refuses every other.
"""

import pickle
import struct
from collections.abc import Callable
from typing import Any

_uint32, _double = struct.Struct("<I").unpack_from, struct.Struct(">d").unpack_from
_Stack = list[Any]


class PlainUnpickler:
    """Reads one pickle.

    Args:
        data: The pickle.
        find: Returns what a module and a name stand for, or refuses.
        fetch: Returns what a persistent identifier stands for.
    """

    def __init__(self, data: bytes, find: Callable[[str, str], Any], fetch: Callable[[Any], Any]) -> None:
        self.data, self.find, self.fetch = data, find, fetch
        self.position = 0

    def load(self) -> Any:
        """Return what was pickled.

        The frequent opcodes stand in one loop: a call for each would take twice the time.

        Raises:
            pickle.UnpicklingError: If there is an opcode that plain data do not take.
            IndexError, ValueError, TypeError, KeyError, struct.error: If the pickle is damaged.
        """
        data, position, memo = self.data, 0, dict[int, Any]()
        stack, marked = _Stack(), list[_Stack]()
        while True:
            opcode = data[position]
            position += 1
            if opcode == 0x71:  # BINPUT
                memo[data[position]] = stack[-1]
                position += 1
            elif opcode == 0x72:  # LONG_BINPUT
                memo[_uint32(data, position)[0]] = stack[-1]
                position += 4
            elif opcode == 0x58:  # BINUNICODE
                (length,) = _uint32(data, position)
                position += 4 + length
                stack.append(str(data[position - length : position], "utf-8", "surrogatepass"))
            elif opcode == 0x68:  # BINGET
                stack.append(memo[data[position]])
                position += 1
            elif opcode == 0x6A:  # LONG_BINGET
                stack.append(memo[_uint32(data, position)[0]])
                position += 4
            elif opcode == 0x47:  # BINFLOAT
                stack.append(_double(data, position)[0])
                position += 8
            elif opcode == 0x4B:  # BININT1
                stack.append(data[position])
                position += 1
            elif opcode == 0x28:  # MARK
                marked.append(stack)
                stack = []
            elif opcode in _AT_MARK:
                items, stack = stack, marked.pop()
                _AT_MARK[opcode](stack, items)
            elif opcode in _PLAIN:
                _PLAIN[opcode](stack)
            elif opcode == 0x2E:  # STOP
                return stack.pop()
            else:
                self.position = position
                self._rare(opcode, stack)
                position = self.position

    def _rare(self, opcode: int, stack: _Stack) -> None:
        if opcode in _INTEGERS:
            length = _INTEGERS[opcode] or self._take(1)[0]
            stack.append(int.from_bytes(self._take(length), "little", signed=opcode != 0x4D))
        elif opcode == 0x63:  # GLOBAL
            stack.append(self.find(self._line(), self._line()))
        elif opcode == 0x51:  # BINPERSID
            stack.append(self.fetch(stack.pop()))
        elif opcode == 0x80:  # PROTO
            self._take(1)
        else:
            raise pickle.UnpicklingError(f"opcode {opcode:#x} is not one of plain data")

    def _take(self, length: int) -> bytes:
        self.position += length
        return self.data[self.position - length : self.position]

    def _line(self) -> str:
        start = self.position
        self.position = self.data.index(b"\n", start) + 1
        return self.data[start : self.position - 1].decode()


def _put(stack: _Stack) -> None:
    value, key = stack.pop(), stack.pop()
    stack[-1][key] = value


def _call(stack: _Stack) -> None:
    arguments = stack.pop()
    stack.append(stack.pop()(*arguments))


def _in_tuple(count: int) -> Callable[[_Stack], None]:
    def wrap(stack: _Stack) -> None:
        stack[-count:] = [tuple(stack[-count:])]

    return wrap


#: what opcodes do with the stack alone
_PLAIN: dict[int, Callable[[_Stack], None]] = {
    0x4E: lambda stack: stack.append(None),  # NONE
    0x88: lambda stack: stack.append(True),  # NEWTRUE
    0x89: lambda stack: stack.append(False),  # NEWFALSE
    0x5D: lambda stack: stack.append([]),  # EMPTY_LIST
    0x7D: lambda stack: stack.append({}),  # EMPTY_DICT
    0x29: lambda stack: stack.append(()),  # EMPTY_TUPLE
    0x85: _in_tuple(1), 0x86: _in_tuple(2), 0x87: _in_tuple(3),  # TUPLE1 to TUPLE3
    0x61: lambda stack: stack[-2].append(stack.pop()),  # APPEND
    0x73: _put,  # SETITEM
    0x52: _call,  # REDUCE
}  # fmt: skip
#: and with what lies above the last mark
_AT_MARK: dict[int, Callable[[_Stack, _Stack], None]] = {
    0x65: lambda stack, items: stack[-1].extend(items),  # APPENDS
    0x75: lambda stack, items: stack[-1].update(zip(items[::2], items[1::2], strict=True)),  # SETITEMS
    0x74: lambda stack, items: stack.append(tuple(items)),  # TUPLE
}
#: bytes of an integer; 0 where they are told by one byte before it: BININT, BININT2, LONG1
_INTEGERS = {0x4A: 4, 0x4D: 2, 0x8A: 0}
