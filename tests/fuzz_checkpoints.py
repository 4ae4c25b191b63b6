"""Fuzzing target: checkpoints from which training is resumed."""

import json
import tempfile
from pathlib import Path
from typing import Any

import hostile
import numpy as np
from checkpointed import fit, network
from fuzzing import altered, damaged, target
from hypothesis import strategies as st

from deepnotes.network.training.checkpoints import list_checkpoints

EPOCHS = 2


def make_checkpoint() -> bytes:
    """Return a checkpoint of a finished training run."""
    with tempfile.TemporaryDirectory() as folder:
        fit(network(), Path(folder), epochs=EPOCHS)
        return list_checkpoints(Path(folder))[0].read_bytes()


VALID = make_checkpoint()
HEADER, TENSORS = hostile.header_of(VALID), hostile.tensors(VALID)
ENTRIES = json.loads(TENSORS["training.json"].tobytes())


@st.composite
def sealed(draw: st.DrawFn) -> bytes:
    """Return a checkpoint whose contents are invalid, but whose digests are correct."""
    entries = np.frombuffer(json.dumps(draw(altered(ENTRIES))).encode(), np.uint8)
    arrays = TENSORS | {"training.json": entries}
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=1)):
        invalid = np.array(arrays[name])
        invalid.flat[0] = np.nan if invalid.dtype.kind == "f" else 127
        variants: list[Any] = [arrays[name][:-1], arrays[name].astype(np.float16), arrays[name].reshape(1, -1), invalid]
        arrays[name] = np.ascontiguousarray(draw(st.sampled_from(variants)))
    return hostile.sealed(HEADER, arrays)


@target("checkpoint", st.one_of(st.just(VALID), damaged(VALID), sealed()), ".safetensors")
def resume(path: Path) -> None:
    """Resume training; the parameters must be finite."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "step-000000020.safetensors").write_bytes(path.read_bytes())
        net = network()
        history = fit(net, run, epochs=EPOCHS, resume=True)
        assert np.isfinite(net.flat()).all()
        assert history.epochs >= 0
