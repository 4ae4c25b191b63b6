"""Barriers at which threads wait for each other, implemented with a few words of memory and atomic instructions.

The barrier of a team is a pointer to `SIZE` words, initially 0. A waiting thread spins, since the other threads should
arrive soon; after a while, it yields its core between checks.
"""

import os
from platform import machine

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from deepnotes_numba.compiling import jit
from deepnotes_numba.vectors import WORD

SPACING = 16
"""The distance, in words, between words that are written often and words that are read often: two cache lines."""
ARRIVED, PASSED, BROKEN, SIZE = 0, SPACING, SPACING + 1, 2 * SPACING
"""The positions of three words, and the number of words.

The word ARRIVED counts the threads that are waiting; PASSED counts how often all threads have passed the barrier; and
BROKEN is 1 if a thread has failed.
"""
SPINS = 256
"""The number of times that a thread checks a barrier before it yields its core."""

_yield_core = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())
PAUSE = "llvm.x86.sse2.pause" if machine() in {"x86_64", "AMD64"} else None


@intrinsic
def _arrive(typingctx, x, at):
    """Atomically add 1 to x[at], where x is a pointer, and return the old value."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _word(context, builder, signature, arguments), WORD(1), "acq_rel")

    return types.int64(x, types.intp), generate


@intrinsic
def _load(typingctx, x, at):
    """Load x[at] with acquire order, so that all earlier writes of other threads are visible."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_word(context, builder, signature, arguments), "acquire", 8)

    return types.int64(x, types.intp), generate


@intrinsic
def _store(typingctx, x, at, value):
    """Store x[at] with release order, after all earlier writes of this thread."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(arguments[2], _word(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.int64), generate


@intrinsic
def _pause(typingctx):
    """Hint to the processor that this is a spin loop."""

    def generate(context, builder, signature, arguments):
        if PAUSE:
            builder.call(builder.module.declare_intrinsic(PAUSE, fnty=ir.FunctionType(ir.VoidType(), [])), [])
        return context.get_dummy_value()

    return types.void(), generate


def _word(context, builder, signature, arguments):
    return builder.gep(arguments[0], [arguments[1]])


@jit
def wait(team):
    """Return True once all threads of the team have called this, or False if one of them has failed."""
    if team.size == 1:
        return True
    barrier = team.barrier
    passed = _load(barrier, PASSED)
    if _arrive(barrier, ARRIVED) == team.size - 1:
        _store(barrier, ARRIVED, 0)
        _store(barrier, PASSED, passed + 1)
        return True
    spins = 0
    while _load(barrier, PASSED) == passed:
        if _load(barrier, BROKEN) != 0:
            return False
        spins += 1
        if spins > SPINS:
            _yield_core()
        else:
            _pause()
    return True
