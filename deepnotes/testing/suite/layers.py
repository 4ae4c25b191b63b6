"""Level 3: training and predictions of networks with layers other than Dense and Dropout."""

from deepnotes.nn.layers import (
    GLU,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    Gate,
    Layer,
    LayerNorm,
    Noise,
    PReLU,
    Residual,
    RMSNorm,
    SwiGLU,
    flatten,
)
from deepnotes.nn.optimizers import Adam
from deepnotes.testing.checks import CheckFunction, Trial, check
from deepnotes.testing.suite.inference import check_predictions
from deepnotes.testing.training_cases import TrainingCase, check_gradients, check_training


def _around(layer: Layer) -> list[list[Layer]]:
    """Return networks with a layer at the start, between dense layers, and at the end."""
    return [
        [layer, Dense(7, "tanh"), Dense(3)],
        [Dense(7, "tanh"), layer, Dense(3)],
        [Dense(7, "tanh"), Dense(3), layer],
    ]


NETWORKS: dict[str, list[list[Layer]]] = {
    "layer_norm": _around(LayerNorm(1.0)),
    "rms_norm": _around(RMSNorm(1.0)),
    "batch_norm": _around(BatchNorm(1.0)),
    "prelu": _around(PReLU()),
    "gate": [
        [GLU(7), Dense(3)],
        [Dense(7, "tanh"), SwiGLU(5), SwiGLU(3)],
        [LayerNorm(1.0), Dense(10), Gate("softmax"), Dense(3)],
    ],
    "embedding": [
        [Embedding({4: (7, 3)}), Dense(3)],
        [Embedding({0: (2, 1), 2: (40, 5), 3: (9, 4)}), Dropout(0.2), Dense(7, "tanh"), Dense(3)],
        [Embedding(dict.fromkeys(range(5), (11, 2))), Residual([LayerNorm(1.0), Dense(10)]), Dense(3, "tanh")],
        [Embedding({1: (3, 2), 2: (30, 17)})],
    ],
    "noise": [[Noise(0.2), Dense(7, "tanh"), Noise(0.5), Dense(3), Noise(0.1)]],
    "residual": [
        [Dense(7, "tanh"), Residual([Dense(9, "tanh"), Dropout(0.2), Dense(7)]), Dense(3)],
        [Residual([Dense(6, "tanh"), Dense(5)]), Dense(3, "tanh")],
        [Dense(3, "tanh"), Residual([Residual([Dense(4, "tanh"), Dense(3)]), PReLU()])],
        [Dense(5, "tanh"), Residual([Residual([Residual([PReLU()]), Dense(5, "tanh")]), Dense(5)]), Dense(3)],
        [Dense(5), Residual([LayerNorm(1.0), SwiGLU(7), Dense(5)]), Dense(3)],
    ],
}
"""The networks of the checks. The numbers added to variances are large, so that the error bounds are small."""


def make_layer_check(name: str) -> CheckFunction:
    """Return the check of some networks with one kind of layers."""

    def run(trial: Trial) -> None:
        networks = list(enumerate(NETWORKS[name], 1))
        for dtype in trial.dtypes:
            for number, network in networks[-1:] if trial.quick else networks:
                layers, where = list(flatten(network)), f"{dtype} network {number}"
                check_gradients(trial, TrainingCase(layers, dtype, weighted=True), f"{where}, gradients")
                check_training(trial, TrainingCase(layers, dtype, l2=0.05, clip=0.4), f"{where}, training")
                adam = TrainingCase(layers, dtype, optimizer=Adam(epsilon=1e-3), batch=100, call_sizes=(70,))
                check_training(trial, adam, f"{where}, one batch")
                for samples in (1, 40):
                    case = TrainingCase(layers, dtype, samples=samples)
                    check_predictions(trial, case, f"{where}, predictions for {samples} samples")

    return run


for _name in NETWORKS:
    check(f"programs.layer.{_name}", "gradients, training and predictions of networks")(make_layer_check(_name))
