"""Level 3: training steps by the backend's own Program, or by an EagerProgram if the backend has none."""

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.full_batch import FullBatchProgram
from deepnotes.backends.program import Batches, Data
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.activations import Activation
from deepnotes.nn.averaging import EMA, Averaged
from deepnotes.nn.constraints import MaxNorm, NonNegative, constrained
from deepnotes.nn.full_batch import LBFGS
from deepnotes.nn.layer_rates import LayerRates
from deepnotes.nn.layers import Dense, Dropout, Layer
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import LIBRARY, SGD, Adam, AdamW, Lion, Muon, RMSProp
from deepnotes.nn.plan import Layout, Objective
from deepnotes.testing.checks import CheckFunction, Trial, check
from deepnotes.testing.inputs import LAYOUTS
from deepnotes.testing.training_cases import TrainingCase, check_gradients, check_training, compile_program, place_on

OPTIMIZERS: dict[str, Optimizer] = {name: optimizer() for name, optimizer in LIBRARY.items()} | {
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, 0.9),
    "nesterov": SGD(0.1, 0.9, nesterov=True),
    "momentum_of_steps": SGD(0.1, 0.9, rate_in_velocity=True),
    "nesterov_of_steps": SGD(0.1, 0.9, nesterov=True, rate_in_velocity=True),
    "rmsprop": RMSProp(epsilon=1e-3),
    "adam": Adam(epsilon=1e-3),
    "adam_epsilon_hat": Adam(epsilon=1e-3, epsilon_hat=True),
    "adamw": AdamW(epsilon=1e-3, weight_decay=0.1),
    **{name: LIBRARY[name](epsilon=1e-3) for name in ("amsgrad", "nadam", "radam", "adamax", "adagrad", "adadelta")},  # type: ignore[call-arg]
    "lion": Lion(0.01, weight_decay=0.1),
    "rmsprop_inside": RMSProp(epsilon=1e-3, epsilon_inside=True),
    "adamw_biases": AdamW(epsilon=1e-3, weight_decay=0.1, decay_biases=True),
    "layer_rates": LayerRates(AdamW(epsilon=1e-3, weight_decay=0.1), ((1, 0.0), (2, 0.5))),
}
"""All optimizers of the library, their variants, and rates per layer, with options that keep the error bounds small."""
OUTPUT_ACTIVATIONS = {
    "binary_cross_entropy": ["sigmoid", "softmax"],
    "categorical_cross_entropy": ["softmax"],
    "poisson": ["softplus", "exp"],
    "half_poisson_deviance": ["exp", "softplus"],
    "focal": ["sigmoid", "softmax"],
    "kl_divergence": ["softmax"],
}
"""For losses that do not accept every activation of the last layer: the activations to check."""
TARGETS = {"unit": "bits", "simplex": "distributions", "count": "bits", "real": "real"}
"""For each kind of targets that a loss accepts: the targets of its training cases."""


def small() -> list[Layer]:
    """Return layers of several kinds; some are square, so that a wrong transpose would not change the shapes."""
    return [Dense(7, "tanh"), Dense(7, "gelu"), Dense(4, "leaky_relu"), Dense(3)]


def make_activation_check(name: str) -> CheckFunction:
    """Return the check of gradients for one activation."""

    def run(trial: Trial) -> None:
        for dtype in trial.dtypes:
            for activation in [
                Activation(name),
                *([Activation(name, **_option_values(name))] if _option_values(name) else []),
            ]:
                layers: list[Layer] = [Dense(n, activation) for n in (7, 7, 3)]
                check_gradients(trial, TrainingCase(layers, dtype), f"{dtype} {activation}")

    return run


def _option_values(name: str) -> dict[str, float]:
    return dict.fromkeys(ACTIVATIONS[name].options, 0.3)


def make_loss_check(name: str) -> CheckFunction:
    """Return the check of gradients for one loss."""

    def run(trial: Trial) -> None:
        targets = TARGETS[LOSSES[name].targets]
        for dtype in trial.dtypes:
            for activation in OUTPUT_ACTIVATIONS.get(name, ["identity", "softmax", "sigmoid"]):
                for weighted in (False, True):
                    layers: list[Layer] = [Dense(6, "tanh"), Dense(3, activation)]
                    training = TrainingCase(layers, dtype, name, targets=targets, weighted=weighted)
                    check_gradients(trial, training, f"{dtype} {activation}{', weighted' if weighted else ''}")
            if LOSSES[name].targets == "simplex":
                layers = [Dense(6, "tanh"), Dense(3, "softmax")]
                check_gradients(trial, TrainingCase(layers, dtype, name, targets="labels"), f"{dtype} class indices")
            if LOSSES[name].targets == "unit":
                layers = [Dense(6, "tanh"), Dense(1, "sigmoid")]
                check_gradients(trial, TrainingCase(layers, dtype, name, targets="bits"), f"{dtype} one output")

    return run


def make_optimizer_check(name: str) -> CheckFunction:
    """Return the check of parameters, slots and losses after six updates with one optimizer."""

    def run(trial: Trial) -> None:
        layers: list[Layer] = (
            [Dense(7, "tanh"), Dense(3)] if trial.quick else small()
        )  # updates do not depend on the layers
        for dtype in trial.dtypes:
            check_training(trial, TrainingCase(layers, dtype, optimizer=OPTIMIZERS[name]), dtype)
            decayed = TrainingCase(layers, dtype, optimizer=OPTIMIZERS[name], l2=0.05, clip=0.4, weighted=True)
            check_training(trial, decayed, f"{dtype}, with L2, clipping and weights")

    return run


for _name in ACTIVATIONS:
    check(f"programs.activation.{_name}", "gradients of a whole network")(make_activation_check(_name))
for _name in LOSSES:
    check(f"programs.loss.{_name}", "cost and gradients, fused or not, weighted or not")(make_loss_check(_name))
for _name in OPTIMIZERS:
    check(f"programs.optimizer.{_name}", "parameters, slots and losses after some updates")(make_optimizer_check(_name))


@check("programs.ragged_batch")
def ragged_batch(trial: Trial) -> None:
    """A smaller last batch (of 1 sample, 2, or one less than the others) is averaged over its own samples."""
    for dtype in trial.dtypes:
        for samples in (9, 10, 15):
            check_training(
                trial,
                TrainingCase(small(), dtype, samples=samples, call_sizes=(samples,) * 2),
                f"{dtype} {samples} samples in batches of 8",
            )


@check("programs.batches")
def batches(trial: Trial) -> None:
    """Training is correct for batches of one sample, of all samples, and larger than the number of samples."""
    for dtype in trial.dtypes:
        for batch, call_sizes in [(1, (5,)), (23, (23, 23)), (100, (23,)), (33, (70,))]:
            check_training(
                trial, TrainingCase(small(), dtype, batch=batch, call_sizes=call_sizes), f"{dtype} batches of {batch}"
            )


@check("programs.chunks")
def chunks(trial: Trial) -> None:
    """Splitting a training run into calls changes nothing, and no batch affects the next one through reused buffers."""
    for dtype in trial.dtypes:
        for call_sizes in [(46,), (8, 8, 30), (16, 7, 1, 23)]:
            training = TrainingCase(
                [Dense(7, "tanh"), Dropout(0.3), Dense(3)], dtype, optimizer=Adam(), call_sizes=call_sizes
            )
            check_training(trial, training, f"{dtype} {call_sizes}")


@check("programs.sizes_in_turn")
def sizes_in_turn(trial: Trial) -> None:
    """One Program is correct for a sequence of batches of different sizes."""
    for dtype in trial.dtypes:
        training = TrainingCase(small(), dtype)
        program = compile_program(trial.backend, training.plan)
        state, data = place_on(trial.backend, training)
        bounds = trial.bounds(dtype)
        eager, (expected_state, expected_data) = compile_program(bounds, training.plan), place_on(bounds, training)
        for size in (8, 3, 23, 1, 8, 5):
            order = np.arange(size)
            batch = eager.batch(expected_data, order)  # type: ignore[attr-defined]
            eager.update(expected_state, eager.gradients(expected_state, batch).flat, 0.05)
            program.train(state, Batches(data, order, size, np.array([0.05])))
            trial.compare(state.theta, expected_state.theta, f"{dtype} after a batch of {size}")  # type: ignore[arg-type]


@check("programs.sample_weights")
def sample_weights(trial: Trial) -> None:
    """Gradients are divided by the number of samples; weights of 1 change nothing; weights of 0 give no gradient."""
    for dtype in trial.dtypes:
        check_training(trial, TrainingCase(small(), dtype, weighted=True), f"{dtype} random weights")
        training = TrainingCase(small(), dtype)
        state, data = place_on(trial.backend, training)
        program = compile_program(trial.backend, training.plan)
        for value in (1, 0):
            weights = np.full((1, 23), value, dtype)
            result = program.gradients(state, Data(data.X, data.Y, trial.backend.from_numpy(weights)))
            bounds = trial.bounds(dtype)
            expected_state, (X, Y, _) = place_on(bounds, training)
            weighted = Data(X, Y, bounds.from_numpy(weights))
            expected = compile_program(bounds, training.plan).gradients(expected_state, weighted)
            trial.compare(result.flat, expected.flat, f"{dtype} weights of {value}")  # type: ignore[arg-type]
            trial.compare(result.cost, expected.cost, f"{dtype} weights of {value}: cost")  # type: ignore[arg-type]


@check("programs.objective")
def objective(trial: Trial) -> None:
    """The cost may be a multiple of the mean loss, or a weighted mean, and L2 may be divided like the losses."""
    for dtype in trial.dtypes:
        for name, objective in {
            "scaled": Objective(3.0, 0.25),
            "shared L2": Objective(1.5, 1.5, share_l2=True),
            "weighted mean": Objective(weighted_mean=True),
            "weighted mean, shared L2": Objective(2.0, 2.0, share_l2=True, weighted_mean=True),
        }.items():
            for weighted in (False, True):
                training = TrainingCase(
                    small(), dtype, optimizer=Adam(epsilon=1e-3), l2=0.7, weighted=weighted, objective=objective
                )
                where = f"{dtype} {name}{', weighted' if weighted else ''}"
                check_gradients(trial, training, where)
                check_training(trial, training, where)


class _SomeZeros(TrainingCase):
    """A training case in which some of the initial parameters are exactly 0."""

    def theta(self) -> np.ndarray:
        theta = super().theta()
        theta[::3] = 0
        return theta


@check("programs.l1")
def l1(trial: Trial) -> None:
    """L1 adds the sign of each weight to its gradient, nothing for biases and weights of 0; it may be divided as L2."""
    for dtype in trial.dtypes:
        for name, options in {
            "alone": {"l1": 0.3},
            "with L2 and clipping": {"l1": 0.3, "l2": 0.2, "clip": 0.4},
            "shared": {"l1": 0.7, "l2": 0.2, "objective": Objective(1.5, 1.5, share_l2=True), "weighted": True},
        }.items():
            training = _SomeZeros(small(), dtype, **options)  # type: ignore[arg-type]
            check_gradients(trial, training, f"{dtype} {name}")
            check_training(trial, training, f"{dtype} {name}")


@check("programs.constraints")
def constraints(trial: Trial) -> None:
    """Constraints act on each W after each update, before the parameters are averaged."""
    for dtype in trial.dtypes:
        layers: list[Layer] = [Dense(7, "tanh", constraint=MaxNorm(0.6)), Dense(3, constraint=NonNegative())]
        for name, own in {"SGD": SGD(0.1, 0.9), "Adam": Adam(epsilon=1e-3)}.items():
            optimizer: Optimizer = constrained(own, Layout(5, layers))
            check_training(trial, TrainingCase(layers, dtype, optimizer=optimizer), f"{dtype} {name}")
            averaged = TrainingCase(layers, dtype, optimizer=Averaged(optimizer, EMA(0.5)))
            check_training(trial, averaged, f"{dtype} {name}, averaged")


@check("programs.muon")
def muon(trial: Trial) -> None:
    """Muon orthogonalizes the momentum of each W, and makes the updates of Adam for the biases."""
    for dtype in trial.dtypes:
        layers: list[Layer] = [Dense(7, "tanh"), Dense(3)]
        for name, own in {
            "original": Muon(steps=1, adam_epsilon=1e-3),
            "as AdamW, decay": Muon(weight_decay=0.1, match_adamw=True, nesterov=False, steps=1, adam_epsilon=1e-3),
        }.items():
            optimizer = own.for_layout(Layout(5, layers))
            check_training(trial, TrainingCase(layers, dtype, optimizer=optimizer), f"{dtype} {name}")
            # The bounds of one update are so small that a coefficient that is off by 1e-3 is seen in float32, too.
            once = TrainingCase(layers, dtype, optimizer=optimizer, call_sizes=(8,))
            check_training(trial, once, f"{dtype} {name}, one update")


@check("programs.lbfgs")
def lbfgs(trial: Trial) -> None:
    """L-BFGS evaluates costs and gradients by the backend, and takes the steps that it takes with the equations."""
    for dtype in trial.dtypes:
        layers: list[Layer] = [Dense(7, "tanh"), Dense(3)]
        training = TrainingCase(layers, dtype, optimizer=LBFGS(history_size=2), l2=0.05)
        tolerance = 1e3 * float(np.finfo(dtype).eps)  # the error of an update grows in the next ones
        if trial.products(dtype):
            tolerance = 0.05
        losses = []
        for backend in (Backend("reference", np), trial.backend):
            state, data = place_on(backend, training)
            program = FullBatchProgram(backend, training.plan)
            batches = Batches(data, np.arange(23), 23, np.ones(1))
            with np.errstate(all="ignore"):
                chunks = [program.train(state, batches) for _ in range(5)]
            losses.append(np.array([chunk.loss_sum / chunk.weight_sum for chunk in chunks]))
        expected, found = losses
        trial.that(state.step == 5, f"{dtype}: the state counts five steps")
        trial.that(found[-1] < 0.9 * found[0], f"{dtype}: the cost falls")
        worst = float(np.max(abs(found / expected - 1)))
        trial.that(worst <= tolerance, f"{dtype}: losses to {tolerance:.1e}, got {worst:.1e}")


@check("programs.class_indices")
def class_indices(trial: Trial) -> None:
    """Training on class indices equals training on one-hot columns."""
    for dtype in trial.dtypes:
        layers: list[Layer] = [Dense(7, "relu"), Dense(4, "softmax")]
        check_training(trial, TrainingCase(layers, dtype, "categorical_cross_entropy", targets="labels"), dtype)


@check("programs.dropout")
def dropout(trial: Trial) -> None:
    """Dropout masks match the equation, differ for each step, layer and seed, and do not depend on the batch."""
    for dtype in trial.dtypes:
        for seed in (0, 2**63 + 11):
            layers: list[Layer] = [Dropout(0.2), Dense(9, "tanh"), Dropout(0.5), Dense(3)]
            check_training(
                trial, TrainingCase(layers, dtype, seed=seed, call_sizes=(23, 23, 23)), f"{dtype} seed {seed}"
            )


@check("programs.layouts")
def layouts(trial: Trial) -> None:
    """Samples in any memory layout give the same results and stay unchanged."""
    for dtype in trial.dtypes:
        for name, layout in LAYOUTS.items():
            random = name != "broadcast"
            check_training(trial, TrainingCase(small(), dtype, layout=layout), f"{dtype} {name}", random)
        training = TrainingCase(small(), dtype)
        state, data = place_on(trial.backend, training)
        batches = Batches(data, np.arange(23), 8, np.full(3, 0.05))
        compile_program(trial.backend, training.plan).train(state, batches)
        for x, before in zip(data[:2], training.data()[:2], strict=True):
            trial.same(x, before, f"{dtype}: the data afterwards")


@check("programs.widths")
def widths(trial: Trial) -> None:
    """Training is correct for one layer or several, of 1 neuron, a prime number, a power of two, or many."""
    for dtype in trial.dtypes:
        for sizes in [(1,), (1, 1), (31, 37, 2), (64, 128, 10), (130, 3)]:
            layers: list[Layer] = [*(Dense(n, "tanh") for n in sizes[:-1]), Dense(sizes[-1])]
            training = TrainingCase(layers, dtype, inputs=67, samples=40, batch=17, call_sizes=(40,))
            check_training(trial, training, f"{dtype} 67-{'-'.join(map(str, sizes))}")


@check("programs.large")
def large(trial: Trial) -> None:
    """Gradients are correct if the matrices are larger than a core's cache."""
    layers: list[Layer] = [Dense(611, "relu"), Dense(389, "tanh"), Dense(10, "softmax")]
    samples = 150 if trial.quick else 700
    training = TrainingCase(
        layers, "float32", "categorical_cross_entropy", inputs=784, samples=samples, batch=samples, targets="labels",
        call_sizes=(samples,),
    )  # fmt: skip
    check_gradients(trial, training, f"float32 784-611-389-10, {samples} samples")


@check("programs.update")
def update(trial: Trial) -> None:
    """``Program.update`` applies a gradient that the caller supplies."""
    for dtype in trial.dtypes:
        for name, optimizer in OPTIMIZERS.items():
            training = TrainingCase(small(), dtype, optimizer=optimizer, clip=0.5)
            g = np.random.default_rng(3).normal(size=training.plan.layout.size).astype(dtype)
            bounds = trial.bounds(dtype)
            (expected_state, _), (state, _) = place_on(bounds, training), place_on(trial.backend, training)
            reference, program = compile_program(bounds, training.plan), compile_program(trial.backend, training.plan)
            for rate in (0.1, 0.05):
                reference.update(expected_state, bounds.from_numpy(g), rate)
                program.update(state, trial.backend.from_numpy(g), rate)
            trial.compare(state.theta, expected_state.theta, f"{dtype} {name}")  # type: ignore[arg-type]
            trial.that(state.step == 2, f"{dtype} {name}: the state counts two steps")


@check("programs.not_finite")
def not_finite(trial: Trial) -> None:
    """A cost or gradient that is not finite stops training before it changes the parameters."""
    for dtype in trial.dtypes:
        for value in (np.nan, np.inf):
            training = TrainingCase(small(), dtype)
            state, data = place_on(trial.backend, training)
            X = training.data()[0].copy()
            X[2, 12] = value
            bad_data = Data(trial.backend.from_numpy(X), data.Y)
            program = compile_program(trial.backend, training.plan)
            with np.errstate(all="ignore"):
                chunk = program.train(state, Batches(bad_data, np.arange(23), 8, np.full(3, 0.05)))
                bounds = trial.bounds(dtype)
                expected_state, expected_data = place_on(bounds, training)
                eager = compile_program(bounds, training.plan)
                batch = eager.batch(expected_data, np.arange(8))  # type: ignore[attr-defined]
                eager.update(expected_state, eager.gradients(expected_state, batch).flat, 0.05)
            trial.that(chunk.steps == 1, f"{dtype} {value}: one update, before the batch that contains {value}")
            if np.isnan(value):  # infinity makes only the gradient non-finite, since tanh of infinity is 1
                trial.that(np.isnan(chunk.cost), f"{dtype}: the cost of that batch is reported")
            trial.compare(state.theta, expected_state.theta, f"{dtype} {value}: θ")  # type: ignore[arg-type]
