"""Share one training run among the workers of a Dask cluster: here two processes on this machine, elsewhere many."""
# ruff: noqa: T201

import secrets
import socket

import numpy as np
from dask.distributed import Client, LocalCluster, get_worker, wait

import deepnotes as dn
from deepnotes.datasets import load_digits


def find_place() -> tuple[str, int]:
    """Return the address of the worker that runs this, and a port that is free there."""
    with socket.socket() as unused:
        unused.bind(("", 0))
        return get_worker().address.rpartition("/")[2].rpartition(":")[0], unused.getsockname()[1]


def train(rank: int, size: int, address: str, port: int, secret: str) -> np.ndarray:
    """Train as one of the ranks, and return the parameters; each worker runs this at the same time."""
    digits = load_digits()
    net = dn.Network([dn.Dense(32, "relu"), dn.Dropout(0.2), dn.Dense(10, "softmax")], inputs=64, seed=0)
    with dn.distributed.tcp(rank, size, address, port, secret=secret) as ranks:
        net.fit(digits.X.T / 16, digits.y, batch_size=256, epochs=5, ranks=ranks)
    return net.flat()


def main() -> None:
    """Train on the cluster, then in this process, and compare the results."""
    secret = secrets.token_hex()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        workers = list(client.scheduler_info()["workers"])
        size = 1 << (len(workers).bit_length() - 1)  # a power of two
        address, port = client.submit(find_place, workers=workers[:1], pure=False).result()
        runs = [
            client.submit(train, rank, size, address, port, secret, workers=[worker], pure=False, retries=0)
            for rank, worker in enumerate(workers[:size])
        ]
        wait(runs)
        parameters = [run.result() for run in runs]
    print(f"trained {parameters[0].size} parameters on {size} workers")
    alone = train(0, 1, address, port, secret)
    print(f"the same bits on one process: {all((alone == theta).all() for theta in parameters)}")


if __name__ == "__main__":  # the workers import this file
    main()
