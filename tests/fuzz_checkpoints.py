"""Target: checkpoints, as a training that is resumed reads them."""

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


def content() -> bytes:
    """Return a checkpoint of a training that is over."""
    with tempfile.TemporaryDirectory() as folder:
        fit(network(), Path(folder), epochs=EPOCHS)
        return list_checkpoints(Path(folder))[0].read_bytes()


GOOD = content()
HEADER, TENSORS = hostile.header_of(GOOD), hostile.tensors(GOOD)
ENTRIES = json.loads(TENSORS["training.json"].tobytes())


@st.composite
def sealed(draw: st.DrawFn) -> bytes:
    """Return a checkpoint that lies about the training, and whose digests are right all the same."""
    entries = np.frombuffer(json.dumps(draw(altered(ENTRIES))).encode(), np.uint8)
    arrays = TENSORS | {"training.json": entries}
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=1)):
        spoilt = np.array(arrays[name])
        spoilt.flat[0] = np.nan if spoilt.dtype.kind == "f" else 127
        ways: list[Any] = [arrays[name][:-1], arrays[name].astype(np.float16), arrays[name].reshape(1, -1), spoilt]
        arrays[name] = np.ascontiguousarray(draw(st.sampled_from(ways)))
    return hostile.sealed(HEADER, arrays)


@target("checkpoint", st.one_of(st.just(GOOD), damaged(GOOD), sealed()), ".safetensors")
def resume(path: Path) -> None:
    """Resume: from the parameters that were written, and nothing is lost of what was there."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        (run / "step-000000020.safetensors").write_bytes(path.read_bytes())
        net = network()
        history = fit(net, run, epochs=EPOCHS, resume=True)
        assert np.isfinite(net.flat()).all()
        assert history.epochs >= 0
