"""Share one training run among the workers of Ray: here two processes on this machine, elsewhere many machines."""
# ruff: noqa: T201

import secrets
import socket

import numpy as np
import ray

import deepnotes as dn
from deepnotes.datasets import load_digits

SIZE = 2
"""The number of ranks: a power of two."""


class Worker:
    """A process that trains as one of the ranks."""

    def find_place(self) -> tuple[str, int]:
        """Return the address of the machine of this process, and a port that is free there."""
        with socket.socket() as unused:
            unused.bind(("", 0))
            return ray.util.get_node_ip_address(), unused.getsockname()[1]

    def train(self, rank: int, size: int, address: str, port: int, secret: str) -> np.ndarray:
        """Train, and return the parameters; each worker runs this at the same time."""
        digits = load_digits()
        net = dn.Network([dn.Dense(32, "relu"), dn.Dropout(0.2), dn.Dense(10, "softmax")], inputs=64, seed=0)
        with dn.distributed.tcp(rank, size, address, port, secret=secret) as ranks:
            net.fit(digits.X.T / 16, digits.y, batch_size=256, epochs=5, ranks=ranks)
        return net.flat()


def main() -> None:
    """Train with Ray, then in this process, and compare the results."""
    secret = secrets.token_hex()
    ray.init(num_cpus=SIZE, include_dashboard=False, log_to_driver=False)  # elsewhere: ray.init("auto")
    workers = [ray.remote(Worker).options(num_cpus=1).remote() for _ in range(SIZE)]  # num_gpus=1 for a GPU each
    address, port = ray.get(workers[0].find_place.remote())
    parameters = ray.get(
        [worker.train.remote(rank, SIZE, address, port, secret) for rank, worker in enumerate(workers)]
    )
    ray.shutdown()
    print(f"trained {parameters[0].size} parameters on {SIZE} workers")
    alone = Worker().train(0, 1, address, port, secret)
    print(f"the same bits on one process: {all((alone == theta).all() for theta in parameters)}")


if __name__ == "__main__":
    main()
