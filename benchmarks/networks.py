"""The networks that the benchmarks train, by name: the sizes of the layers and the batch size."""

from deepnotes.testing.bench.cases import Case

NETWORKS = {
    "tiny": Case((4, 16, 16, 1), 32),
    "small": Case((30, 64, 32, 1), 32),
    "digits": Case((64, 128, 64, 10), 64),
    "mnist": Case((784, 128, 10), 128),
    "deep-mnist": Case((784, 512, 512, 10), 128),
    "wide": Case((784, 2048, 2048, 10), 512),
}
