"""Lowering of recorded instructions to in-place calls, with a buffer for each result.

The rules are:

1. An instruction whose result is not needed is dropped.
2. The parts of a concatenation are computed directly in slices of the concatenated array.
3. An output with a target array is computed directly in the target, if the target's old value is not read afterwards.
4. The result of an elementwise instruction takes over the buffer of an operand that is not used later.
5. Any other result gets a free buffer of about its size, or a new buffer.
6. Consecutive elementwise instructions on arrays of the same large size are computed tile by tile, as a run. A result
   that is used only within the run has a buffer of one tile.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from deepnotes.backends.recording.trace import Instruction, Symbol

TILE = 32_768
"""The number of elements in a tile: the six arrays of an Adam step, 768 kB in float32, stay in the L2 cache."""


def lower(
    xp: Any, instructions: list[Instruction], inputs: list[Symbol], outputs: list[Symbol], targets: list[Any]
) -> tuple[list[Callable[[], Any]], list[Any]]:
    """Return the calls that compute `outputs`, and the arrays that will hold the outputs.

    Parameters
    ----------
    xp : module
        The namespace to compute with.
    instructions : list of Instruction
        All recorded instructions, in order.
    inputs, outputs : list of Symbol
        The arguments and the results of the recorded function.
    targets : list of arrays or None
        For each output, the array to hold it, or None for any array.
    """
    needed = _needed_instructions(instructions, outputs)
    lowering = _Lowering(xp, needed, outputs)
    lowering.place_outputs(inputs, outputs, targets)
    lowering.place_concatenations()
    calls = lowering.calls()
    copies, results = [], []
    for symbol, target in zip(outputs, targets, strict=True):
        array = lowering.array(symbol)
        if target is not None and array is not target:
            if symbol.root.source is None:  # an input, which the copy of another output may overwrite
                calls.append(partial(xp.copyto, copy := xp.empty(array.shape, dtype=array.dtype), array))
                array = copy
            copies.append(partial(xp.copyto, target, array))
            array = target
        results.append(array)
    return calls + copies, results


def _needed_instructions(instructions: list[Instruction], outputs: list[Symbol]) -> list[Instruction]:
    """Return the instructions on which the outputs depend (rule 1)."""
    used = {id(s.root) for s in outputs}
    needed = []
    for instruction in reversed(instructions):
        if id(instruction.result) in used:
            used.update(id(s.root) for s in instruction.symbols)
            needed.append(instruction)
    return needed[::-1]


class _Lowering:
    """The state of :func:`lower`: the buffers chosen so far, and when each is read for the last time."""

    def __init__(self, xp: Any, instructions: list[Instruction], outputs: list[Symbol]) -> None:
        self.xp, self.instructions = xp, instructions
        self.position = {id(x.result): i for i, x in enumerate(instructions)}
        self.last_use: dict[int, int] = {}
        for i, instruction in enumerate(instructions):
            for symbol in instruction.symbols:
                self.last_use[id(symbol.root)] = i
        self.permanent = {id(s.root) for s in outputs}  # their buffers are never reused
        for symbol in outputs:
            if symbol.root.source is None:  # an input that is an output as well is read at the end
                self.last_use[id(symbol.root)] = len(instructions)
        self.group = self._groups()
        self.free: list[Any] = []  # raw buffers that can be reused
        self.filled: dict[Any, Any] = {}  # arrays of one repeated number, see _full
        self.memory: dict[int, Any] = {}  # id of a root -> its raw buffer, which may be reused after the last use

    def _groups(self) -> list[int]:
        """Return the index of the first instruction of each instruction's run (rule 6), or -1 outside any run."""
        numbers: list[int] = []
        for i, instruction in enumerate(self.instructions):
            size = prod(instruction.result.shape)
            if not instruction.elementwise or size < 2 * TILE:
                numbers.append(-1)
            elif i and numbers[-1] >= 0 and prod(self.instructions[i - 1].result.shape) == size:
                numbers.append(numbers[-1])
            else:
                numbers.append(i)
        return numbers

    def array(self, symbol: Symbol) -> Any:
        """Return the array of a symbol: a constant, a result's buffer, or a view of its root's array."""
        if symbol.array is None:
            if symbol.is_constant:
                symbol.array = self.xp.asarray(symbol.model)
            else:
                symbol.array = symbol.view(symbol.root.array)
        return symbol.array

    def place_outputs(self, inputs: list[Symbol], outputs: list[Symbol], targets: list[Any]) -> None:
        """Let outputs be computed in their targets where possible (rule 3)."""
        for output, target in zip(outputs, targets, strict=True):
            if target is None or output.source is None or output.array is not None:
                continue
            position = self.position[id(output)]
            overwritten = [s for s in inputs if s.array is target]
            fits = target.shape == output.shape and target.dtype == output.dtype and target.flags.c_contiguous
            read_before = all(self.last_use.get(id(s), -1) <= position for s in overwritten)
            is_elementwise = output.source.elementwise and output.source.name != "where"
            may_overwrite = is_elementwise or not any(s.root in overwritten for s in output.source.symbols)
            if fits and read_before and may_overwrite:
                output.array = target

    def place_concatenations(self) -> None:
        """Let the parts of concatenations be computed in slices of the concatenated array (rule 2)."""
        for instruction in self.instructions:
            if instruction.name != "concat" or instruction.options["axis"] != 0:
                continue
            whole = instruction.result
            if whole.array is None:
                whole.array = self.xp.empty(whole.shape, dtype=whole.dtype)
                self.permanent.add(id(whole))
            start = 0
            for part in instruction.symbols:
                stop = start + part.shape[0]
                root = part.root
                if root.source and root.array is None and part.model.size == root.model.size and part.ndim == 1:
                    root.array = whole.array[start:stop].reshape(root.shape)
                start = stop

    def calls(self) -> list[Callable[[], Any]]:
        """Return the calls that compute all instructions, in order."""
        calls: list[Callable[[], Any]] = []
        i = 0
        while i < len(self.instructions):
            end = i + 1
            if self.group[i] >= 0:
                while end < len(self.instructions) and self.group[end] == self.group[i]:
                    end += 1
                calls += self._tile_run(i, end)
            else:
                self._place(i)
                calls += self._call(self.instructions[i], self.array)
            for j in range(i, end):
                self._release(j)
            i = end
        return calls

    def _place(self, i: int) -> None:
        """Choose a buffer for the result of instruction number `i` (rules 4 and 5)."""
        instruction = self.instructions[i]
        result = instruction.result
        if result.array is not None:
            return
        raw = None
        if instruction.elementwise and instruction.name != "where":  # "where" reads operands after it has written
            for symbol in instruction.symbols:
                root = symbol.root
                same = symbol.model.nbytes == result.model.nbytes == root.model.nbytes
                if same and symbol.dtype.itemsize == result.dtype.itemsize and self._is_last_use(root, i):
                    raw = self.memory.pop(id(root))
                    break
        if raw is None:
            raw = self._take(result.model.nbytes)
        self.memory[id(result)] = raw
        result.array = raw[: result.model.nbytes].view(result.dtype).reshape(result.shape)

    def _is_last_use(self, root: Symbol, i: int) -> bool:
        """Return whether the buffer of `root` can be reused because instruction number `i` is the last to read it."""
        return id(root) in self.memory and id(root) not in self.permanent and self.last_use[id(root)] == i

    def _release(self, i: int) -> None:
        """Free the buffers that instruction number `i` was the last to read."""
        for symbol in self.instructions[i].symbols:
            if self._is_last_use(symbol.root, i):
                self.free.append(self.memory.pop(id(symbol.root)))

    def _take(self, size: int) -> Any:
        """Return the smallest free buffer that fits `size` bytes well, or a new buffer."""
        fitting = [raw for raw in self.free if size <= raw.shape[0] <= 2 * size + 64]
        if fitting:
            best = min(fitting, key=lambda raw: int(raw.shape[0]))
            self.free = [raw for raw in self.free if raw is not best]
            return best
        return self.xp.empty((max(size, 1),), dtype=self.xp.uint8)

    def _tile_run(self, start: int, end: int) -> list[Callable[[], Any]]:
        """Return the calls of the run of instructions from `start` to `end`, tile after tile (rule 6)."""
        run = self.instructions[start:end]
        size = prod(run[0].result.shape)
        tiles: dict[int, Any] = {}  # id of a symbol -> its buffer of one tile
        spare: list[Any] = []  # buffers of one tile that are free again
        for i, instruction in enumerate(run, start):
            result = instruction.result
            is_temporary = result.array is None and id(result) not in self.permanent and self.last_use[id(result)] < end
            dying = [s for s in instruction.symbols if id(s.root) in tiles and self.last_use[id(s.root)] == i]
            if is_temporary:
                operand = next((s for s in dying if s.dtype == result.dtype and instruction.name != "where"), None)
                if operand is not None:  # the result takes over its buffer
                    tiles[id(result)] = tiles[id(operand.root)]
                    dying = [s for s in dying if s.root is not operand.root]
                else:
                    fitting = [a for a in spare if a.dtype == result.dtype]
                    tiles[id(result)] = fitting[0] if fitting else self.xp.empty((TILE,), dtype=result.dtype)
                    spare = [a for a in spare if not fitting or a is not fitting[0]]
            else:
                self._place(i)
            spare += list({id(s.root): tiles[id(s.root)] for s in dying}.values())
        flat = {id(s): self._flat(s, tiles) for x in run for s in (*x.symbols, x.result)}
        calls: list[Callable[[], Any]] = []
        for low in range(0, size, TILE):
            high = min(low + TILE, size)

            def tile(symbol: Symbol, low: int = low, high: int = high) -> Any:
                array = flat[id(symbol)]
                if array.ndim == 0:
                    return array
                return array[: high - low] if id(symbol.root) in tiles else array[low:high]

            for instruction in run:
                calls += self._call(instruction, tile)
        return calls

    def _flat(self, symbol: Symbol, tiles: dict[int, Any]) -> Any:
        if id(symbol.root) in tiles:
            return tiles[id(symbol.root)]
        array = self.array(symbol)
        return array if symbol.shape == () else array.reshape(-1)

    def _call(self, instruction: Instruction, array: Callable[[Symbol], Any]) -> list[Callable[[], Any]]:
        xp, name, options = self.xp, instruction.name, instruction.options
        out = array(instruction.result)
        operands = [array(s) if isinstance(s, Symbol) else self._number(s, instruction) for s in instruction.operands]
        if name in {"maximum", "minimum"}:
            are_constant = [not isinstance(s, Symbol) or s.is_constant for s in instruction.operands]
            operands = [
                self._full(a, out.shape) if is_constant and a.ndim == 0 else a
                for a, is_constant in zip(operands, are_constant, strict=True)
            ]
            return [partial(getattr(xp, name), *operands, out=out)]
        if name == "matmul":
            return [partial(xp.dot, *operands, out)]
        if name == "where":
            condition, x, y = operands
            return [partial(xp.copyto, out, y), partial(xp.copyto, out, x, where=condition)]
        if name == "astype":
            return [partial(xp.copyto, out, operands[0], casting="unsafe")]
        if name == "reshape":
            return [partial(xp.copyto, out.reshape(operands[0].shape), operands[0])]
        if name == "concat":
            return self._copies(out, operands, options["axis"])
        if name == "square_sum":
            return [partial(xp.dot, operands[0].reshape(-1), operands[0].reshape(-1), out)]
        if name == "take":
            return [partial(xp.take, *operands, options["axis"], out)]
        if name in {"sum", "max"}:
            return [self._reduction(name, operands[0], out, **options)]
        return [partial(getattr(xp, name), *operands, out)]

    def _reduction(self, name: str, x: Any, out: Any, axis: int | None, keepdims: bool) -> Callable[[], Any]:
        """Return the call that writes the sums or maxima of `x` along an axis to `out`."""
        if name == "sum" and axis == 1 and keepdims and x.ndim == 2:
            ones = self._full(self.xp.asarray(1, dtype=out.dtype), (x.shape[1], 1))
            return partial(self.xp.dot, x, ones, out)  # BLAS sums rows several times faster
        reduce = (self.xp.add if name == "sum" else self.xp.maximum).reduce
        return partial(reduce, x, axis, None, out, keepdims)

    def _number(self, value: float, instruction: Instruction) -> Any:
        """Return a Python number as a 0-d array, so that it is not converted again at each call."""
        compares = instruction.result.dtype == bool
        return self.xp.asarray(value, dtype=(instruction.symbols[0] if compares else instruction.result).dtype)

    def _full(self, number: Any, shape: tuple[int, ...]) -> Any:
        """Return a number as an array of this shape: with a scalar, NumPy's maximum takes five times as long."""
        key = (number.item(), number.dtype.str, shape)
        if key not in self.filled:
            self.filled[key] = self.xp.full(shape, number, dtype=number.dtype)
        return self.filled[key]

    def _copies(self, out: Any, parts: list[Any], axis: int) -> list[Callable[[], Any]]:
        """Return the calls that copy `parts` to consecutive slices of `out`."""
        calls: list[Callable[[], Any]] = []
        start = 0
        for part in parts:
            stop = start + part.shape[axis]
            target = out[start:stop] if axis == 0 else out[:, start:stop]
            if not np.may_share_memory(part, target):  # otherwise, the part is computed in place (rule 2)
                calls.append(partial(self.xp.copyto, target, part))
            start = stop
        return calls
