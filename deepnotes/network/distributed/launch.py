"""The environment variables by which torchrun and Slurm tell each process its rank, and where to find rank 0."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from deepnotes.utils.errors import ArgumentError

FIRST_PORT, PORTS = 20_000, 20_000
"""The port of a Slurm job is in this range; it follows from the numbers of the job and the step."""


class Launch(NamedTuple):
    """How a launcher has started this process.

    Attributes
    ----------
    rank, size : int
    address : str
        The name or address of the machine of rank 0.
    port : int
        The port at which rank 0 listens.
    """

    rank: int
    size: int
    address: str
    port: int


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Return how this process was started, from the variables of torchrun or of Slurm.

    The variables are RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them, or else SLURM_PROCID,
    SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST and SLURM_JOB_ID, as ``srun`` sets them. torchrun itself listens at
    MASTER_PORT, so rank 0 listens at the port after it.

    Parameters
    ----------
    environment : mapping of str to str, optional
        By default ``os.environ``.

    Raises
    ------
    ArgumentError
        If neither launcher has set its variables, or one has no valid value.

    Examples
    --------
    >>> find_launch({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"})
    Launch(rank=1, size=2, address='node7', port=29501)
    >>> find_launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "81"})
    Launch(rank=0, size=4, address='gpu03', port=20081)
    """
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE", 1)
        address, port = env.get("MASTER_ADDR", "localhost"), _number(env, "MASTER_PORT", 1, 65_534, "29500") + 1
    elif "SLURM_PROCID" in env:
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        rank, size = _number(env, "SLURM_PROCID"), _number(env, tasks, 1)
        nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "localhost"))
        address = env.get("MASTER_ADDR") or first_node(nodes)
        if "MASTER_PORT" in env:
            port = _number(env, "MASTER_PORT", 1, 65_534) + 1
        else:
            job, step = (env.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
            port = FIRST_PORT + sum(int(text) for text in (job, step) if text.isdecimal()) % PORTS
    else:
        raise ArgumentError(
            "no launcher has started this process: got neither RANK and WORLD_SIZE, which torchrun sets, nor "
            "SLURM_PROCID, which srun sets; otherwise pass rank=, size=, address= and port="
        )
    if rank >= size:
        raise ArgumentError(f"the environment variables say that this is rank {rank} of {size}, wanted a smaller rank")
    return Launch(rank, size, address, port)


def first_node(nodes: str) -> str:
    """Return the first machine in a list of machines as Slurm writes it.

    Examples
    --------
    >>> first_node("rack2node[07-09,12],login")
    'rack2node07'
    """
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]


def _number(env: Mapping[str, str], name: str, least: int = 0, most: int = 1 << 20, default: str = "") -> int:
    """Return the value of an environment variable as a whole number."""
    text = env.get(name, default)
    if not text.isdecimal() or not least <= int(text) <= most:
        got = f"{name}={text!r}" if name in env else f"no {name}"
        raise ArgumentError(f"the environment has {got}, wanted a whole number from {least} to {most}")
    return int(text)
